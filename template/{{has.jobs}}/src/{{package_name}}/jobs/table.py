"""The table of jobs as a worker uses it, also while the database is unreachable."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ..database import Database
from ..errors import AppError
from ..logs import describe
from .queue import CHANNEL, LEASE

TIME_LIMIT = LEASE.total_seconds() / 3  # seconds for a transaction
POLL = 1.0  # seconds between two looks for jobs that no notification has announced

Result = TypeVar("Result")

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class JobTable:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_reachable = True
        self._reached_at = 0.0

    async def run(
        self, function: Callable[..., Awaitable[Result]], *arguments: Any
    ) -> Result | None:
        """Run a function in a transaction, whose session is its first argument.

        Return None if the database is unreachable. The log says so once.
        """
        start = monotonic()
        try:
            async with asyncio.timeout(TIME_LIMIT), self._database.write.begin() as session:
                result = await function(session, *arguments)
        except (AppError, SQLAlchemyError, OSError) as error:
            # Others may have reached it since then.
            if self._is_reachable and self._reached_at < start:
                logger.warning("the queue is unreachable", cause=describe(error))
                self._is_reachable = False
            return None
        if not self._is_reachable:
            logger.info("the queue is reachable")
        self._is_reachable = True
        self._reached_at = monotonic()
        return result

    async def run_when_reachable(
        self, function: Callable[..., Awaitable[Result]], *arguments: Any
    ) -> Result:
        while True:
            result = await self.run(function, *arguments)
            if result is not None:
                return result
            await asyncio.sleep(POLL)

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` at each notification. Without a connection for it, there are none."""
        while True:
            with suppress(Exception):  # the driver raises errors of its own
                await self._listen_until_closed(wake)
            await asyncio.sleep(POLL)

    async def _listen_until_closed(self, wake: Callable[[], None]) -> None:
        is_closed = asyncio.Event()

        def close(*_: object) -> None:
            is_closed.set()

        def notice(*_: object) -> None:
            wake()

        async with self._database.write() as session:
            options = {"isolation_level": "AUTOCOMMIT"}
            connection = await session.connection(execution_options=options)
            try:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                driver.add_termination_listener(close)
                await driver.add_listener(CHANNEL, notice)
                await is_closed.wait()
            finally:
                await connection.invalidate()  # so that nobody gets it from the pool

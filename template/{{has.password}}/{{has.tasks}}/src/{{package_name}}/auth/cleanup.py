"""Deletes expired rows while the service runs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import uniform

import structlog

from ..database import Database
from ..logs import describe
from . import sessions

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


@asynccontextmanager
async def delete_expired_at_intervals(database: Database, seconds: int) -> AsyncGenerator[None]:
    task = asyncio.create_task(delete_repeatedly(database, seconds))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=2)


async def delete_repeatedly(database: Database, seconds: int) -> None:
    while True:
        await asyncio.sleep(seconds * uniform(0.5, 1.5))  # processes take turns  # noqa: S311
        try:
            await sessions.delete_expired(database)
        except Exception as error:
            logger.warning("clean-up failed", cause=describe(error))

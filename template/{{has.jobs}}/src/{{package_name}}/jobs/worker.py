"""Runs jobs, in a process of its own: the command `work`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import structlog
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from ..database import Database, DatabaseState
from ..dependencies import ProcessState
from ..errors import AppError
from ..logs import describe
from . import pruning as _pruning  # noqa: F401  # declares a job
from . import queue
from .handlers import HANDLERS, LONGEST_PAUSE, Handler
from .queue import Claimed

RENEWAL = queue.LEASE.total_seconds() / 3  # seconds between renewals, and for each
POLL = 1.0  # seconds between two looks for jobs that no notification has announced
CLOSING = 2.0  # seconds in which a cancelled job has to end

Result = TypeVar("Result")

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class WorkerState(DatabaseState, ProcessState):
    """What a worker needs of the state. Handlers get all of it."""


class LeaseLost(Exception):
    """Another worker may run the job, since this one has not renewed its lease in time."""


class TimeLimit(Exception):
    """A handler took longer than its time limit."""


class WorkerDied(Exception):
    """The last attempt did not end: its worker died, or lost its lease."""


class Outcome(NamedTuple):
    name: Literal["done", "retried", "failed", "released", "lost"]
    error: Exception | None = None


class Worker:
    def __init__(
        self, state: WorkerState, concurrency: int = 1, database: Database | None = None
    ) -> None:
        """Run jobs with the state, and use the queue with `database` if it is given."""
        self._state = state
        self._database = database or state["database"]
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], Claimed] = {}
        self._lost: set[UUID] = set()  # the running jobs whose lease was lost
        self._wake = asyncio.Event()
        self._stop = self._cancel = False
        self._has_database = True

    async def run(self, grace: float) -> None:
        """Run jobs until `stop` is called. Those that still run have `grace` seconds to end.

        After that, or after a second call, they are released: another worker runs them.
        """
        helpers = {asyncio.create_task(self._renew()), asyncio.create_task(self._listen())}
        while await self._in_transaction(queue.add_periodic) is None and not self._stop:
            await self._sleep()
        while not self._stop:
            for helper in helpers:
                if helper.done():
                    helper.result()  # raises: without it, leases would end
            await self._start_jobs()
        logger.info("worker stops", jobs=len(self._running), grace=grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._running and not self._cancel:
                    self._wake.clear()
                    await self._wake.wait()
        await asyncio.sleep(0)  # a job that is cancelled before its first step is not released
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait([*self._running], timeout=CLOSING)
        for task in helpers:
            task.cancel()
        await asyncio.wait(helpers, timeout=CLOSING)

    def stop(self) -> None:
        self._cancel = self._stop
        self._stop = True
        self._wake.set()
        self._state["draining"].set()

    async def _start_jobs(self) -> None:
        """Start as many jobs as there are places, and wait if there are no more."""
        self._wake.clear()
        free = self._concurrency - len(self._running)
        running = [*self._running.values()]
        jobs = (await self._in_transaction(queue.claim, free, running) if free else None) or []
        for job in jobs:
            task = asyncio.create_task(self.execute(job))
            self._running[task] = job
            task.add_done_callback(self._forget)
        if len(jobs) < free or not free:
            await self._sleep()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._lost.discard(self._running.pop(task).id)
        self._wake.set()

    async def _sleep(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()

    async def run_due(self) -> None:
        """Run the jobs that are due, one after the other, and those that they add: for tests."""
        while jobs := await self._in_transaction(queue.claim, 1):
            await self.execute(jobs[0])

    async def execute(self, job: Claimed) -> None:
        """Run a claimed job, and write its line of the log."""
        start = perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=job.request_id):
            outcome = await self._run(job, HANDLERS[job.name])
            log = {"retried": logger.warning, "lost": logger.warning, "failed": logger.error}
            log.get(outcome.name, logger.info)(
                "job",
                job=job.name,
                job_id=str(job.id),
                attempt=job.attempts,
                outcome=outcome.name,
                milliseconds=round((perf_counter() - start) * 1000, 1),
                exc_info=outcome.error,
            )

    async def _run(self, job: Claimed, handler: Handler) -> Outcome:
        is_last = True  # an invalid payload stays invalid
        try:
            payload = handler.payload.model_validate(job.payload)
            is_last = job.attempts >= handler.attempts
            await self._call(job, handler, payload)
        except LeaseLost:
            return Outcome("lost")
        except asyncio.CancelledError:
            if job.id in self._lost:
                return Outcome("lost")
            return Outcome("released" if await self._store(queue.release, job) else "lost")
        except Exception as error:
            if is_last:
                is_stored = await self._store(queue.fail, job, describe(error))
                return Outcome("failed" if is_stored else "lost", error)
            pause = min(2**job.attempts, LONGEST_PAUSE)
            is_stored = await self._store(queue.retry, job, pause, describe(error))
            return Outcome("retried" if is_stored else "lost", error)
        return Outcome("done")

    async def _store(self, function: Callable[..., Awaitable[bool]], *arguments: Any) -> bool:
        """Return False if the lease was lost, or will end since the database is unreachable."""
        try:
            return await self._in_transaction(function, *arguments) or False
        except asyncio.CancelledError:
            return False

    async def _call(self, job: Claimed, handler: Handler, payload: BaseModel) -> None:
        """Call the handler, and commit what it writes together with the end of the job."""
        if job.attempts > handler.attempts:
            raise WorkerDied
        limit = asyncio.timeout(handler.time_limit)
        try:
            async with limit, self._state["database"].write.begin() as session:
                await handler.function(payload, session, self._state)
                if not await queue.finish(session, job):
                    raise LeaseLost
        except TimeoutError as error:
            if limit.expired():
                raise TimeLimit(f"It took longer than {handler.time_limit:g} seconds.") from error
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and not task.cancelling():
                raise RuntimeError("The handler cancelled itself.") from error
            raise

    async def _in_transaction(
        self,
        function: Callable[..., Awaitable[Result]],
        *arguments: Any,
    ) -> Result | None:
        """Return None if the database is unreachable. The log says so once."""
        try:
            async with asyncio.timeout(RENEWAL), self._database.write.begin() as session:
                result = await function(session, *arguments)
        except (AppError, SQLAlchemyError, OSError) as error:
            if self._has_database:
                logger.warning("the queue is unreachable", cause=describe(error))
            self._has_database = False
            return None
        if not self._has_database:
            logger.info("the queue is reachable")
        self._has_database = True
        return result

    async def _renew(self) -> None:
        """Renew the leases of the running jobs. Cancel those that have lost theirs."""
        renewed_at = monotonic()
        while True:
            await asyncio.sleep(RENEWAL)
            start, running = monotonic(), dict(self._running)
            renewed = await self._in_transaction(queue.renew, [*running.values()])
            if renewed is not None:
                renewed_at = start
            elif monotonic() - renewed_at < 2 * RENEWAL:
                continue
            for task, job in running.items():
                if job.id not in (renewed or ()) and task in self._running:
                    self._lost.add(job.id)
                    task.cancel()

    async def _listen(self) -> None:
        """Wake at each notification. Without a connection for it, jobs start up to `POLL` later."""
        while True:
            with suppress(Exception):  # the driver raises errors of its own
                await self._listen_until_closed()
            await asyncio.sleep(POLL)

    async def _listen_until_closed(self) -> None:
        is_closed = asyncio.Event()

        def close(*_: object) -> None:
            is_closed.set()

        def wake(*_: object) -> None:
            self._wake.set()

        async with self._database.write() as session:
            options = {"isolation_level": "AUTOCOMMIT"}
            connection = await session.connection(execution_options=options)
            try:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                driver.add_termination_listener(close)
                await driver.add_listener(queue.CHANNEL, wake)
                await is_closed.wait()
            finally:
                await connection.invalidate()  # so that nobody gets it from the pool

"""How a worker gets jobs, and what becomes of them: it claims rows of the table in PostgreSQL."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from ..database import Database
from . import leases, queue
from .leases import Claimed
from .queue import Length
from .settings import JobsSettings
from .table import POLL, JobTable


class JobEngine:
    """The end of a job is stored in the transaction of its handler, so it happens with it or not.

    Methods that return a bool return False if the lease of the job was lost, or will end, since the
    database is unreachable.
    """

    PAUSE = POLL  # seconds between two claims, if nothing wakes the worker

    def __init__(self, database: Database) -> None:
        self._table = JobTable(database)

    async def run(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there are new jobs, until it is cancelled."""
        await self._table.run_when_reachable(queue.add_periodic)
        wake()
        await self._table.listen(wake)

    async def claim(self, limit: int, running: Sequence[Claimed] = ()) -> Sequence[Claimed]:
        """Start the next attempt of up to `limit` jobs, without those in `running`."""
        return await self._table.run(leases.claim, limit, running) or []

    async def renew(self, jobs: Sequence[Claimed]) -> set[UUID] | None:
        """Keep jobs that run. Return the ids of those that this worker still has, if known."""
        return await self._table.run(leases.renew, jobs)

    async def finish(self, session: AsyncSession, job: Claimed) -> bool:
        """Store the end of a job in the transaction of its handler, which the caller commits."""
        return await leases.finish(session, job)

    async def retry(self, job: Claimed, pause: float, error: str) -> bool:
        return await self._store(leases.retry, job, pause, error)

    async def fail(self, job: Claimed, error: str) -> bool:
        return await self._store(leases.fail, job, error)

    async def release(self, job: Claimed) -> bool:
        return await self._store(leases.release, job)

    async def _store(self, function: Callable[..., Awaitable[bool]], *arguments: Any) -> bool:
        return await self._table.run(function, *arguments) or False

    async def measure(self) -> Length | None:
        """Return None if the database is unreachable."""
        return await self._table.run(queue.measure)


@asynccontextmanager
async def open_engine(settings: JobsSettings, database: Database) -> AsyncGenerator[JobEngine]:
    yield JobEngine(database)

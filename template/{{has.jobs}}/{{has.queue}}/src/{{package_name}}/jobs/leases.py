"""Leases of jobs. Each function runs in the transaction of `session`.

A worker that claims jobs gets a lease of them, a random id with an end, which it renews while they
run. If the worker dies, the lease ends, and another worker claims the jobs. Each later statement of
the worker about a job requires that its lease is still the current one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, bindparam, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from .handlers import HANDLERS, find_next
from .models import Job
from .queue import LEASE, NOTIFY, TABLE, select_due

LEASE_END = func.clock_timestamp() + LEASE


class Claimed(NamedTuple):
    """A job that a worker has claimed."""

    id: UUID
    name: str
    payload: dict[str, Any]
    lease: UUID
    attempts: int
    context: dict[str, str]


async def find_next_time(session: AsyncSession, job: Claimed) -> datetime | None:
    """Return when a periodic job is due again. A worker of another version may have changed its
    schedule.
    """
    if not HANDLERS[job.name].schedule:
        return None
    statement = select(Job.schedule, func.clock_timestamp()).where(has_lease(job))
    row = (await session.execute(statement.with_for_update())).one_or_none()
    return find_next(row[0], row[1]) if row and row[0] else None


DUE = select_due(TABLE.c.id.not_in(bindparam("running", expanding=True)))
CLAIM = (
    update(TABLE)
    .where(TABLE.c.id == DUE.c.id)
    .values(
        lease=bindparam("new_lease"),
        due_at=LEASE_END,
        attempts=TABLE.c.attempts + 1,
        key=None,
    )
    .returning(*(TABLE.c[field] for field in Claimed._fields))
)


async def claim(
    session: AsyncSession, limit: int, running: Sequence[Claimed] = ()
) -> Sequence[Claimed]:
    """Start the next attempt of up to `limit` jobs that are due, without those in `running`.

    A job without a handler waits for a worker with another version of the service.
    """
    parameters = {
        "number": limit,
        "names": [*HANDLERS],
        "running": [job.id for job in running],
        "new_lease": uuid4(),
    }
    rows = await session.execute(CLAIM, parameters)
    return [Claimed._make(row) for row in rows]


def has_lease(job: Claimed) -> ColumnElement[bool]:
    return (TABLE.c.id == job.id) & (TABLE.c.lease == job.lease)


async def renew(session: AsyncSession, jobs: Sequence[Claimed]) -> set[UUID]:
    """Renew the leases of jobs. Return the ids of those that still had theirs."""
    leases = [(job.id, job.lease) for job in jobs]
    statement = update(Job).where(tuple_(Job.id, Job.lease).in_(leases)).values(due_at=LEASE_END)
    return {*(await session.scalars(statement.returning(Job.id)))}


async def finish(session: AsyncSession, job: Claimed) -> bool:
    """Delete a job that is done, or plan the next time of a periodic one.

    Return False if the lease has been lost: then the caller has to roll back.
    """
    if due_at := await find_next_time(session, job):
        return await change(session, job, due_at=due_at, attempts=0, error=None)
    statement = delete(TABLE).where(has_lease(job)).returning(TABLE.c.id)
    return await session.scalar(statement) is not None


async def retry(session: AsyncSession, job: Claimed, pause: float, error: str) -> bool:
    due_at = func.clock_timestamp() + timedelta(seconds=pause)
    return await change(session, job, due_at=due_at, error=error)


async def release(session: AsyncSession, job: Claimed) -> bool:
    """Let another worker run a job at once. The attempt does not count."""
    await session.execute(select(NOTIFY))
    return await change(session, job, due_at=func.clock_timestamp(), attempts=Job.attempts - 1)


async def fail(session: AsyncSession, job: Claimed, error: str) -> bool:
    """Keep a job as failed, until somebody retries or deletes it. A periodic one goes on."""
    if due_at := await find_next_time(session, job):
        return await change(session, job, due_at=due_at, attempts=0, error=error)
    return await change(session, job, failed_at=func.clock_timestamp(), error=error)


async def change(session: AsyncSession, job: Claimed, **values: Any) -> bool:
    """Change a job whose lease the worker has, and end the lease. Return whether it had it."""
    statement = update(Job).where(has_lease(job)).values(lease=None, **values)
    return await session.scalar(statement.returning(Job.id)) is not None

"""The table of jobs. Each function runs in the transaction of `session`.

A worker that claims jobs gets a lease of them, a random id with an end, which it renews while they
run. If the worker dies, the lease ends, and another worker claims the jobs. Each later statement of
the worker about a job requires that its lease is still the current one.

All times that decide something are those of the server: the clocks of workers differ.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4, uuid5

import structlog
from pydantic import BaseModel
from sqlalchemy import (
    ColumnElement,
    Table,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from .handlers import HANDLERS, find_next
from .models import Job

CHANNEL = "jobs"  # of NOTIFY
LEASE = timedelta(seconds=10)
LEASE_END = func.clock_timestamp() + LEASE
KEPT = timedelta(days=30)  # how long failed jobs stay
NAMESPACE = UUID("5f0c2f3e-6c1b-4b52-8f0e-4a1d3b0f9a77")  # of the ids of periodic jobs


class Claimed(NamedTuple):
    """A job that a worker has claimed."""

    id: UUID
    name: str
    payload: dict[str, Any]
    lease: UUID
    attempts: int
    request_id: str | None


NOTIFY = func.pg_notify(CHANNEL, "")
# Built once, on the table instead of the model: this takes half the time.
TABLE = cast("Table", Job.__table__)
INSERT = insert(TABLE).values(
    due_at=func.coalesce(bindparam("at", type_=TABLE.c.due_at.type), func.clock_timestamp())
)
# An update locks the other job with the key until the commit. The earlier time counts.
INSERT = INSERT.on_conflict_do_update(
    index_elements=[TABLE.c.key],
    set_={"due_at": func.least(TABLE.c.due_at, INSERT.excluded.due_at)},
).returning(NOTIFY)


async def add(
    session: AsyncSession,
    payload: BaseModel,
    *,
    at: datetime | None = None,
    key: str | None = None,
) -> None:
    """Add a job: it runs after the commit, or at a later time. A rollback removes it.

    If a job with this key waits already, nothing is added, and that job waits for the commit, so it
    sees what this transaction has written. Raise `LookupError` if no handler is declared for the
    type of the payload.
    """
    name = type(payload).__name__
    if name not in HANDLERS:
        raise LookupError(f"No @job is declared for {name}.")
    parameters = {
        "name": name,
        "payload": payload.model_dump(mode="json", by_alias=True, round_trip=True),
        "at": at,
        "key": key,
        "request_id": structlog.contextvars.get_contextvars().get("request_id"),
    }
    await session.execute(INSERT, parameters)


class Jobs:
    """Adds jobs. A service takes one in its constructor."""

    add = staticmethod(add)


async def add_periodic(session: AsyncSession) -> bool:
    """Add a row for each periodic job, or change its next time if its schedule has changed."""
    now = await read_clock(session)
    for name, handler in HANDLERS.items():
        if handler.schedule:
            schedule, due_at = handler.schedule, find_next(handler.schedule, now)
            statement = insert(Job).values(
                id=uuid5(NAMESPACE, name), name=name, payload={}, schedule=schedule, due_at=due_at
            )
            statement = statement.on_conflict_do_update(
                index_elements=[Job.id],
                set_={
                    "schedule": schedule,
                    # While it runs, this is the end of its lease.
                    "due_at": case((Job.lease.is_(None), due_at), else_=Job.due_at),
                },
                where=Job.schedule != schedule,
            )
            await session.execute(statement)
    return True


async def read_clock(session: AsyncSession) -> datetime:
    return (await session.scalars(select(func.clock_timestamp()))).one()


async def find_next_time(session: AsyncSession, job: Claimed) -> datetime | None:
    """Return when a periodic job is due again. A worker of another version may have changed its
    schedule.
    """
    if not HANDLERS[job.name].schedule:
        return None
    statement = select(Job.schedule, func.clock_timestamp()).where(has_lease(job))
    row = (await session.execute(statement.with_for_update())).one_or_none()
    return find_next(row[0], row[1]) if row and row[0] else None


DUE = (
    select(TABLE.c.id)
    .where(
        # Unlike `clock_timestamp`, it can use the index.
        TABLE.c.due_at <= func.statement_timestamp(),
        TABLE.c.failed_at.is_(None),
        TABLE.c.name.in_(bindparam("names", expanding=True)),
        TABLE.c.id.not_in(bindparam("running", expanding=True)),
    )
    .order_by(TABLE.c.due_at)
    .limit(bindparam("number"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
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
    return [Claimed(*row) for row in rows]


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


class Length(NamedTuple):
    """How many jobs are due and not yet running, since when in seconds, and how many failed."""

    due: int
    oldest: float
    failed: int


async def measure(session: AsyncSession) -> Length:
    is_failed = Job.failed_at.is_not(None)
    is_due = (Job.due_at <= func.clock_timestamp()) & ~is_failed
    age = func.clock_timestamp() - func.min(Job.due_at).filter(is_due)
    seconds = func.coalesce(func.extract("epoch", age), 0)
    statement = select(func.count().filter(is_due), seconds, func.count().filter(is_failed))
    due, oldest, failed = (await session.execute(statement.select_from(Job))).one()
    return Length(due, round(float(oldest), 1), failed)


async def delete_failed(session: AsyncSession) -> None:
    """Delete jobs that have failed long ago."""
    limit = func.clock_timestamp() - KEPT
    await session.execute(delete(Job).where(Job.failed_at < limit))


async def retry_failed(session: AsyncSession, job_id: UUID) -> bool:
    """Run a failed job again, at once. Return whether there was one."""
    statement = update(Job).where(Job.id == job_id, Job.failed_at.is_not(None))
    statement = statement.values(due_at=func.clock_timestamp(), failed_at=None, attempts=0)
    await session.execute(select(NOTIFY))
    return await session.scalar(statement.returning(Job.id)) is not None


async def delete_idle(session: AsyncSession, job_id: UUID) -> bool:
    """Delete a job that does not run. Return whether there was one."""
    is_idle = or_(Job.lease.is_(None), Job.due_at < func.clock_timestamp())
    statement = delete(Job).where(Job.id == job_id, is_idle)
    return await session.scalar(statement.returning(Job.id)) is not None

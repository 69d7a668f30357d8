"""The table of jobs as an outbox. Each function runs in the transaction of `session`.

A row with a lease is being published. If the relay dies, another one publishes it again, and NATS
drops the repetition. A row with a key stays until its job starts, so that the key remains unique.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Table, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from .handlers import SERVICES, find_next
from .messages import Claimed, Returned
from .models import FinishedJob, Job, JobStream
from .queue import LEASE, TABLE, delete_batch, select_due

PUBLISHED = timedelta(hours=1)  # after which a job with a key that has not started is lost
NOTE_LIFETIME = timedelta(days=7)  # how long NATS may take to deliver again a job that is done
UNKNOWN_PAUSE = timedelta(seconds=10)  # until a job without a handler is published again


class Row(NamedTuple):
    """A job that is being published."""

    id: UUID
    name: str
    payload: dict[str, Any]
    key: str | None
    schedule: str | None
    due_at: datetime
    lease: UUID
    attempts: int
    context: dict[str, str]


IS_FREE = or_(TABLE.c.lease.is_(None), TABLE.c.updated_at < func.clock_timestamp() - LEASE)
DUE = select_due(IS_FREE)
TAKE = (
    update(TABLE)
    .where(TABLE.c.id == DUE.c.id)
    # The time stays as it is: it is part of the id of the message.
    .values(lease=bindparam("new_lease"), updated_at=func.clock_timestamp())
    .returning(*(TABLE.c[field] for field in Row._fields))
)

FINISHED = cast("Table", FinishedJob.__table__)
FINISH = insert(FINISHED).on_conflict_do_nothing().returning(FINISHED.c.id)


async def take(session: AsyncSession, limit: int, names: Sequence[str]) -> Sequence[Row]:
    """Take up to `limit` jobs that are due and have one of these names."""
    parameters = {"number": limit, "names": names, "new_lease": uuid4()}
    return [Row._make(row) for row in await session.execute(TAKE, parameters)]


def has_lease(rows: Sequence[Row]) -> ColumnElement[bool]:
    return TABLE.c.id.in_([row.id for row in rows]) & (TABLE.c.lease == rows[0].lease)


def has_key(row: Row) -> bool:
    """Whether a row stays until its job starts. Another service cannot delete it."""
    return row.key is not None and row.name not in SERVICES


async def give_back(session: AsyncSession, rows: Sequence[Row]) -> None:
    """Let rows wait that were taken together and could not be published."""
    await session.execute(update(TABLE).where(has_lease(rows)).values(lease=None))


async def remove(session: AsyncSession, rows: Sequence[Row]) -> None:
    """Delete rows that were taken together and are published, or change when they are due."""
    keys = [row for row in rows if has_key(row)]
    if ended := [row for row in rows if not row.schedule and row not in keys]:
        await session.execute(delete(TABLE).where(has_lease(ended)))
    if keys:
        # A row that is locked, because its key is added again, is published again, and dropped.
        ids = select(TABLE.c.id).where(has_lease(keys)).with_for_update(skip_locked=True)
        due_at = func.clock_timestamp() + PUBLISHED
        await session.execute(update(TABLE).where(TABLE.c.id.in_(ids)).values(due_at=due_at))
    if schedules := {row.id: row.schedule for row in rows if row.schedule}:
        # A worker of another version may have changed the schedule.
        statement = select(Job, func.clock_timestamp()).where(has_lease(rows))
        statement = statement.where(TABLE.c.id.in_(schedules)).with_for_update()
        for job, now in await session.execute(statement):
            job.due_at = find_next(job.schedule or schedules[job.id], now)
            job.lease = None


async def fail(session: AsyncSession, rows: Sequence[Row], error: str) -> bool:
    """Keep jobs as failed that cannot be published."""
    values = {"failed_at": func.clock_timestamp(), "lease": None, "key": None, "error": error}
    await session.execute(update(TABLE).where(has_lease(rows)).values(values))
    return True


async def start(session: AsyncSession, job: Claimed) -> bool:
    """Delete the row of a job with a key, after the commit of those that have added it again.

    Return False if the job has started before, because of another message.
    """
    statement = delete(TABLE).where(TABLE.c.id == job.id).returning(TABLE.c.id)
    return await session.scalar(statement) is not None or job.attempts > 1


async def finish(session: AsyncSession, job: Claimed) -> bool:
    """Note in the transaction of its handler that a job is done. Return False if it was before."""
    return await session.scalar(FINISH, {"id": job.id}) is not None


async def find_finished(session: AsyncSession, ids: Sequence[UUID]) -> set[UUID]:
    return {*await session.scalars(select(FinishedJob.id).where(FinishedJob.id.in_(ids)))}


async def put_back(session: AsyncSession, job: Returned, pause: timedelta = UNKNOWN_PAUSE) -> bool:
    """Store a job that has left NATS: as failed with an error, else as one that waits.

    A message with the id of a periodic job changes nothing.
    """
    now = func.clock_timestamp()
    values = {
        "attempts": job.attempts,
        "due_at": now if job.error else now + pause,
        "failed_at": now if job.error else None,
        "error": job.error,
        "lease": None,
    }
    others = {"name": job.name[:100], "payload": job.payload, "context": job.context}
    statement = insert(TABLE).values(id=job.id, **others, **values)
    if job.error:
        values["key"] = None
    is_message = TABLE.c.schedule.is_(None)
    await session.execute(
        statement.on_conflict_do_update(index_elements=[TABLE.c.id], set_=values, where=is_message)
    )
    return True


async def publish_again(session: AsyncSession) -> None:
    """Let jobs with keys whose messages were lost wait like the others."""
    statement = update(TABLE).where(TABLE.c.lease.is_not(None))
    await session.execute(statement.values(lease=None, due_at=func.clock_timestamp()))


async def note_stream(session: AsyncSession, name: str) -> bool:
    """Note that jobs may be in a stream: then, the migration of these tables cannot be reverted."""
    await session.execute(insert(JobStream).values(name=name).on_conflict_do_nothing())
    return True


async def forget_stream(session: AsyncSession, name: str) -> None:
    await session.execute(delete(JobStream).where(JobStream.name == name))


async def delete_finished(session: AsyncSession) -> int:
    """Delete a batch of the notes of jobs that were done long ago. Return how many."""
    is_old = FINISHED.c.created_at < func.clock_timestamp() - NOTE_LIFETIME
    return await delete_batch(session, FINISHED, is_old)

"""How a worker gets jobs, and what becomes of them: NATS distributes them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from uuid import UUID

from nats.errors import Error as NatsError
from nats.js.api import Header
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import Database
from . import outbox, queue
from .broker import ACK_WAIT, PAUSE, TIME_LIMIT, WORKER, Broker, Consumer, open_broker
from .contents import add_pending
from .handlers import HANDLERS
from .messages import ATTEMPTS, KEY, Claimed, Returned, make_headers, parse
from .queue import Length
from .relay import Relay
from .settings import JobsSettings
from .table import JobTable

HEADERS = 1000  # bytes, at most, of a job that is returned


class JobEngine:
    """A message is acknowledged after its job has ended. If its worker dies, it is delivered again.

    The transaction of a handler notes that its job is done, so what it writes is written once.
    Methods that return a bool return False if NATS is unreachable.
    """

    PAUSE = 0.0  # `claim` waits

    def __init__(self, broker: Broker, database: Database, *, has_relay: bool = True) -> None:
        self.broker = broker
        self._table = JobTable(database)
        self.relay = Relay(broker, self._table)
        self._has_relay = has_relay
        self.consumer = Consumer(broker, WORKER)
        self._renewed_at = monotonic()

    async def run(self, wake: Callable[[], None]) -> None:
        """Publish new jobs, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.broker.watch())
            if self._has_relay:
                tasks.create_task(self.relay.run())

    async def claim(self, limit: int, running: Sequence[Claimed] = ()) -> Sequence[Claimed]:
        """Wait for up to `limit` jobs, and start their next attempt."""
        with self.broker.noticing(WORKER):
            jobs = [parse(message) for message in await self.consumer.pull(limit)]
            runnable = [job for job in jobs if job.name in HANDLERS]
            for job in jobs:
                if job not in runnable:
                    # A worker of another version may have a handler.
                    await self._return(job._replace(attempts=job.attempts - 1))
            ids = {job.id for job in running}  # those that are delivered again go on
            return await self._drop_finished([job for job in runnable if job.id not in ids])
        await asyncio.sleep(PAUSE)
        return []

    async def _drop_finished(self, jobs: list[Claimed]) -> list[Claimed]:
        """Acknowledge jobs that were done before, when the acknowledgement got lost."""
        ids = [job.id for job in jobs if has_run_before(job)]
        finished = await self._table.run(outbox.find_finished, ids) if ids else None
        if not finished:
            return jobs
        for job in jobs:
            if job.id in finished:
                await self.acknowledge(job)
        return [job for job in jobs if job.id not in finished]

    async def renew(self, jobs: Sequence[Claimed]) -> set[UUID] | None:
        """Keep jobs that run. Return the ids of those that this worker still has.

        While NATS is unreachable, it cannot give them to others.
        """
        pause = monotonic() - self._renewed_at
        self._renewed_at = monotonic()
        if pause > ACK_WAIT:
            return set()
        for job in jobs:
            with suppress(NatsError):
                await job.message.in_progress()
        return {job.id for job in jobs}

    async def start(self, session: AsyncSession, job: Claimed) -> bool:
        """Return False if the job has started before. Wait for those who add its key again."""
        if not job.has_key:
            return True
        is_first = await outbox.start(session, job)
        await session.commit()
        if not is_first:
            await self.acknowledge(job)
        return is_first

    async def finish(self, session: AsyncSession, job: Claimed) -> bool:
        """Store the end of a job in the transaction of its handler, which the caller commits.

        A handler that has not used its session needs no database.
        """
        if not session.in_transaction() or await outbox.finish(session, job):
            return True
        await self.acknowledge(job)
        return False

    async def acknowledge(self, job: Claimed) -> bool:
        """If this fails, the job is delivered again."""
        with self.broker.noticing(WORKER):
            await job.message.ack_sync(int(TIME_LIMIT))
            self.broker.recover(WORKER)
            return True
        return False

    async def retry(self, job: Claimed, pause: float, error: str) -> bool:
        with self.broker.noticing(WORKER):
            delay = json.dumps({"delay": int(pause * 10**9)}) if pause else ""  # nanoseconds
            nak = f"-NAK {delay}".strip().encode()
            await self.broker.client.request(job.message.reply, nak, TIME_LIMIT)
            return True
        return False

    async def fail(self, job: Claimed, error: str) -> bool:
        """Let a relay keep a job as failed. A periodic one goes on at its next time."""
        return await self.acknowledge(job) if job.is_periodic else await self._return(job, error)

    async def _is_deleted(self, job: Claimed) -> bool:
        with self.broker.noticing(WORKER):
            return await self.broker.is_deleted(job.message.metadata.sequence.stream)
        return False

    async def _return(self, job: Claimed, error: str | None = None) -> bool:
        if await self._is_deleted(job):
            return True
        returned = Returned(
            id=job.id,
            name=job.name,
            payload=job.payload,
            attempts=job.attempts,
            context=job.context,
            error=error,
        )
        body = returned.encode()
        is_small = len(body) < self.broker.client.max_payload - HEADERS
        if is_small and await self._move(job, f"{self.broker.stream}.returned", body, {}):
            return True
        if not self.broker.is_connected:
            return False
        # It is too large, or the stream is full.
        is_stored = await self._table.run(outbox.put_back, returned)
        return bool(is_stored) and await self.acknowledge(job)

    async def release(self, job: Claimed) -> bool:
        """Let another worker run a job at once, as a new message: the attempt does not count.

        If the stream is full, it counts.
        """
        if await self._is_deleted(job):
            return True
        if job.has_key and await self._table.run(outbox.start, job) is None:
            return False  # without the row, the new message would not start
        headers = {**(job.message.headers or {}), ATTEMPTS: str(job.attempts - 1)}
        headers.pop(KEY, None)
        headers.pop(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value, None)
        is_moved = await self._move(job, job.message.subject, job.message.data, headers)
        return is_moved or await self.retry(job, 0, "")

    async def _move(self, job: Claimed, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        """Replace the message of a job. If this fails half-way, the job is delivered again, too."""
        headers |= make_headers(f"{job.id} {job.message.metadata.sequence.stream}", job.id, {})
        with self.broker.noticing(self.broker.stream):
            await self.broker.publish(subject, body, headers)
            return await self.acknowledge(job)
        return False

    async def measure(self) -> Length | None:
        """Return None if the database or NATS is unreachable."""
        length = await self._table.run(queue.measure)
        with self.broker.noticing(WORKER):
            return length and await add_pending(self.broker, length)
        return None


def has_run_before(job: Claimed) -> bool:
    """Whether an earlier attempt may have committed."""
    return job.message.metadata.num_delivered > 1 or ATTEMPTS in (job.message.headers or {})


@asynccontextmanager
async def open_engine(
    settings: JobsSettings, database: Database, *, has_relay: bool = True
) -> AsyncGenerator[JobEngine]:
    async with open_broker(settings) as broker:
        yield JobEngine(broker, database, has_relay=has_relay)

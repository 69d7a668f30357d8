"""Publishes the jobs of the table to NATS, and stores those that come back."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC
from uuid import uuid5

from nats.errors import MaxPayloadError
from nats.js.api import Header
from nats.js.errors import BadRequestError

from . import outbox, queue
from .broker import RELAY, TIME_LIMIT, Broker, Consumer
from .handlers import HANDLERS, SERVICES
from .messages import (
    ATTEMPTS,
    KEY,
    PERIODIC,
    make_headers,
    make_subject,
    parse_id,
    parse_returned,
)
from .outbox import Row
from .table import POLL, JobTable

BATCH = 100
WRONG_LAST_SEQUENCE = (10071, 10164)  # error codes of NATS


class Relay:
    """Several of them can run at once, each in its worker."""

    def __init__(self, broker: Broker, table: JobTable) -> None:
        self._broker = broker
        self._table = table
        self.consumer = Consumer(broker, RELAY)
        self._wake = asyncio.Event()
        # The names of jobs for each stream.
        self._names = {broker.stream: [*HANDLERS]}
        for name, stream in SERVICES.items():
            self._names.setdefault(stream, []).append(name)

    async def run(self) -> None:
        """Publish jobs until it is cancelled."""
        await self._table.run_when_reachable(outbox.note_stream, self._broker.stream)
        await self._table.run_when_reachable(queue.add_periodic)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._table.listen(self._wake_all))
            tasks.create_task(self._store_returned())
            # A stream that is full, or does not respond, must not stop the others.
            for names in self._names.values():
                tasks.create_task(self._publish_all(names))

    def _wake_all(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _publish_all(self, names: Sequence[str]) -> None:
        while True:
            wake = self._wake
            if not self._broker.is_connected or not await self._publish_batch(names):
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await wake.wait()

    async def publish_due(self) -> bool:
        """Publish a batch to each stream. Return whether there may be more."""
        return any([await self._publish_batch(names) for names in self._names.values()])

    async def _publish_batch(self, names: Sequence[str]) -> bool:
        rows = await self._table.run(outbox.take, BATCH, names) or []
        results = await asyncio.gather(*(self._publish(row) for row in rows))
        pairs = [*zip(rows, results, strict=True)]
        successes = [row for row, is_published in pairs if is_published]
        failures = [row for row, is_published in pairs if not is_published]
        if successes:
            await self._table.run(outbox.remove, successes)
        if failures:
            await self._table.run(outbox.give_back, failures)
        return len(successes) == BATCH

    async def _publish(self, row: Row) -> bool:
        stream = SERVICES.get(row.name, self._broker.stream)
        subject = make_subject(stream, row.name, is_periodic=bool(row.schedule))
        body = json.dumps(row.payload).encode()
        with self._broker.noticing(stream):
            try:
                await self._broker.publish(subject, body, describe_row(row))
            except MaxPayloadError:
                error = "The payload is too large for NATS."
                return await self._table.run(outbox.fail, [row], error) or False
            except BadRequestError as error:
                # The periodic job still waits or runs, so this time of it is left out.
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
            return True
        return False

    async def _store_returned(self) -> None:
        while True:
            with self._broker.noticing(RELAY):
                await self.store_returned()
                continue
            await asyncio.sleep(POLL)

    async def store_returned(self) -> None:
        """Store the next jobs that have come back. They come back again if that fails."""
        for message in await self.consumer.pull(BATCH):
            metadata = message.metadata
            place = parse_id({}, metadata.timestamp, metadata.sequence.stream)
            job = parse_returned(message.data, place)
            if await self._table.run(outbox.put_back, job):
                await message.ack_sync(int(TIME_LIMIT))


def describe_row(row: Row) -> dict[str, str]:
    """Return the headers of a job, with an id by which NATS drops repetitions."""
    time = row.due_at.astimezone(UTC).isoformat()
    job_id = uuid5(row.id, time) if row.schedule else row.id
    headers = make_headers(f"{row.id} {time}", job_id, row.context)
    if row.schedule:
        headers |= {PERIODIC: row.schedule, Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: "0"}
    if outbox.has_key(row):
        headers[KEY] = "true"
    if row.attempts:
        headers[ATTEMPTS] = str(row.attempts)
    return headers

"""What is in the stream, for commands and metrics."""

from typing import Any

from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from ..database import utc_now
from .broker import WORKER, Broker
from .messages import parse_stored
from .queue import Length


async def add_pending(broker: Broker, length: Length) -> Length:
    """Add the jobs in the stream that no worker has got yet."""
    info = await broker.jetstream.consumer_info(broker.stream, WORKER)
    if not info.num_pending or not info.delivered:
        return length
    try:
        message = await broker.jetstream.get_msg(
            broker.stream,
            seq=info.delivered.stream_seq + 1,
            subject=f"{broker.stream}.jobs.>",
            next=True,
        )
    except NotFoundError:  # a worker has just got it
        return length
    age = (utc_now() - message.time).total_seconds() if message.time else 0
    oldest = max(length.oldest, round(age, 1))
    return length._replace(due=length.due + info.num_pending, oldest=oldest)


async def count_delivered(broker: Broker) -> int:
    """Count the jobs that workers have got. They run, or wait for their next attempt."""
    info = await broker.jetstream.consumer_info(broker.stream, WORKER)
    return info.num_ack_pending or 0


def describe_message(message: RawStreamMsg) -> dict[str, Any]:
    """Return what the command `jobs list` prints of a job in the stream."""
    job = parse_stored(message)
    return {
        "id": str(job.id),
        "name": job.name,
        "state": "failed" if job.error else "published",
        "attempts": job.attempts,
        "key": None,
        "due_at": None,
        "schedule": None,
        "age": round((utc_now() - message.time).total_seconds()) if message.time else None,
        "request_id": job.context.get("request_id"),
        "error": job.error,
    }

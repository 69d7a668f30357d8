"""What is in the stream, for commands and metrics."""

from nats.js.errors import NotFoundError

from ..database import utc_now
from .broker import WORKER, Broker
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

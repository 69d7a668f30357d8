"""nats-py alone, in the stream of a rendered service: without a table, a relay and a worker."""

import asyncio
import json
import os
import sys
import time
from contextlib import suppress

import nats
from nats.aio.client import Client

from my_service.noop.jobs import PAUSE, Noop, note_start

STREAM = "my-service"
SUBJECT = f"{STREAM}.jobs.Noop"


async def publish(client: Client, mode: str, count: int) -> None:
    """Do what `main` of noop.py does. `together` does not wait for each message to be stored."""
    jetstream = client.jetstream()
    times: list[float] = []
    for number in range(count):
        body = json.dumps({"number": number}).encode()
        if mode == "together":
            times = times or [time.time()]
            await client.publish(SUBJECT, body)
        else:
            times.append(time.time())
            if mode != "nothing":
                await jetstream.publish(SUBJECT, body)
            await asyncio.sleep(PAUSE if mode == "paced" else 0)
    await client.flush()
    print(json.dumps([*times, time.time()]))


async def consume(client: Client) -> None:
    subscription = await client.jetstream().pull_subscribe_bind("worker", STREAM)
    while True:
        with suppress(TimeoutError):
            for message in await subscription.fetch(10, 1):
                await note_start(Noop.model_validate_json(message.data), None, None)
                await message.ack()


async def main(*arguments: str) -> None:
    async with await nats.connect(os.environ["JOBS_NATS_URL"]) as client:
        if arguments:
            await publish(client, arguments[0], int(arguments[1]))
        else:
            await consume(client)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

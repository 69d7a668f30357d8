"""The commands for the stream, and what other commands need of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import click
import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from ..commands import DatabaseEnvironment, explain_errors
from ..database import open_database
from ..groups import Environment, read_settings
from ..logs import LogSettings, configure_logs
from . import outbox
from .broker import RELAY, WORKER, Broker, StreamError, open_broker
from .messages import parse_stored
from .settings import JobsSettings

Result = TypeVar("Result")

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class StreamEnvironment(Environment):
    """The settings of a command that needs NATS only."""

    log: LogSettings
    jobs: JobsSettings


def get_jobs_settings(settings: JobsSettings) -> JobsSettings:
    """Return the settings, or end the command if there is no server."""
    if settings.nats_url is None:
        raise click.ClickException(
            "JOBS_NATS_URL is missing: nats://user:password@host:4222, or tls:// for TLS."
        )
    return settings


@asynccontextmanager
async def connecting() -> AsyncGenerator[Broker]:
    """Wait for a connection. Errors are those of the command line."""
    settings = get_jobs_settings(read_settings(StreamEnvironment).jobs)
    async with open_broker(settings) as broker:
        try:
            await broker.wait_until_connected()
        except TimeoutError:
            raise click.ClickException(
                f"Cannot connect to NATS: {broker.error or 'it does not respond'}. "
                "Does it run, and is JOBS_NATS_URL right?"
            ) from None
        broker.recover()  # another server of the cluster may be unreachable
        try:
            yield broker
        except StreamError as error:
            raise click.ClickException(explain(broker.stream, error)) from None
        except NotFoundError as error:
            raise click.ClickException(explain(broker.stream, error.description)) from None
        except TimeoutError as error:
            # The server does not respond to what it does not permit.
            raise click.ClickException(f"NATS says: {broker.error or error}") from None
        except NatsError as error:
            raise click.ClickException(f"NATS says: {error}") from None


def explain(stream: str, error: object) -> str:
    command = click.get_current_context().find_root().info_name
    return (
        f"The stream {stream} is not one for jobs: {error}. `{command} jobs create-stream` creates "
        "it if it is missing. It does not change one with other limits: use `nats stream edit`."
    )


async def check_stream(settings: JobsSettings) -> None:
    """End the command if the stream is missing, or is not one for jobs.

    If NATS is unreachable, log a warning. The worker still starts.
    """
    async with open_broker(settings) as broker:
        try:
            await broker.wait_until_connected()
            await broker.check()
        except StreamError as error:
            raise click.ClickException(explain(broker.stream, error)) from None
        except (NatsError, TimeoutError) as error:
            broker.report(error)


def run(function: Callable[[Broker], Awaitable[Result]]) -> Result:
    settings = read_settings(StreamEnvironment)
    configure_logs(settings.log, settings.environment)

    async def call() -> Result:
        async with connecting() as broker:
            return await function(broker)

    return asyncio.run(call())


@click.command("create-stream")
@click.option(
    "--replicas", type=click.IntRange(1, 5), help="Servers that keep each job. By default 1."
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1),
    help="The size at which the stream refuses jobs, which then wait in the database.",
)
def create_stream(replicas: int | None, max_bytes: int | None) -> None:
    """Create the stream in NATS. An existing one is never changed."""
    is_new = run(lambda broker: broker.create(replicas, max_bytes))
    click.echo("The stream was created." if is_new else "The stream is up to date.")


@click.command()
def withdraw() -> None:
    """Move all jobs from NATS back to the table. All workers have to be stopped before."""
    settings = read_settings(DatabaseEnvironment)

    async def move(broker: Broker) -> int:
        await broker.check()
        for name in (WORKER, RELAY) * 3:  # between two pulls, a worker does not wait
            consumer = await broker.jetstream.consumer_info(broker.stream, name)
            if consumer.num_waiting:
                raise click.ClickException("A worker runs. Stop all workers first.")
            await asyncio.sleep(0.1)
        number = 0
        async with (
            open_database(settings.database) as database,
            aclosing(broker.list_messages()) as messages,
        ):
            async for message in messages:
                job = parse_stored(message)
                async with database.write.begin() as session:
                    is_finished = bool(await outbox.find_finished(session, [job.id]))
                    if not is_finished:
                        await outbox.put_back(session, job, timedelta())
                await broker.jetstream.delete_msg(broker.stream, message.seq or 0)
                number += not is_finished
            async with database.write.begin() as session:
                await outbox.publish_again(session)
                await outbox.forget_stream(session, broker.stream)
        return number

    with explain_errors(settings.database.url):
        number = run(move)
    click.echo(f"{number} jobs were moved to the table.")


async def delete_message(broker: Broker, job_id: UUID) -> bool:
    """Delete the message of a job. Return whether there was one."""
    is_deleted = False
    async for message in broker.list_messages():
        if parse_stored(message).id == job_id:
            await broker.jetstream.delete_msg(broker.stream, message.seq or 0)
            is_deleted = True
    return is_deleted

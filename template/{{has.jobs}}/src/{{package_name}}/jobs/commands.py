"""The commands for the queue: what waits, runs and has failed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import click
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..commands import DatabaseEnvironment, explain_errors
from ..database import open_database
from ..groups import read_settings
from ..logs import configure_logs
from . import queue
from .models import Job


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(context: click.Context) -> None:
    """Print how many jobs are due, and the age of the oldest one. Or list, retry, delete jobs."""
    if context.invoked_subcommand is None:
        in_transaction(print_length)


async def print_length(session: AsyncSession) -> bool:
    length = await queue.measure(session)
    click.echo(json.dumps({"due": length.due, "oldest": length.oldest, "failed": length.failed}))
    return True


def in_transaction(function: Callable[[AsyncSession], Awaitable[bool]]) -> bool:
    settings = read_settings(DatabaseEnvironment)
    configure_logs(settings.log, settings.environment)

    async def run() -> bool:
        async with (
            open_database(settings.database) as database,
            database.write.begin() as session,
        ):
            return await function(session)

    with explain_errors(settings.database.url):
        return asyncio.run(run())


@jobs.command("list")
def list_jobs() -> None:
    """Print each job as a line of JSON, the oldest one first."""
    in_transaction(print_jobs)


async def print_jobs(session: AsyncSession) -> bool:
    rows = await session.stream_scalars(select(Job).order_by(Job.id))
    now = await queue.read_clock(session)
    async for job in rows:
        click.echo(
            json.dumps(
                {
                    "id": str(job.id),
                    "name": job.name,
                    "state": describe_state(job, now),
                    "attempts": job.attempts,
                    "key": job.key,
                    "due_at": job.due_at.isoformat(),
                    "schedule": job.schedule,
                    "age": round((now - job.created_at).total_seconds()),
                    "request_id": job.context.get("request_id"),
                    "error": job.error,
                }
            )
        )
    return True


def describe_state(job: Job, now: datetime) -> str:
    if job.failed_at:
        return "failed"
    return "running" if job.lease and job.due_at > now else "waiting"


@jobs.command()
@click.argument("job_id", metavar="ID", type=click.UUID)
def retry(job_id: UUID) -> None:
    """Run a failed job again."""
    if not in_transaction(lambda session: queue.retry_failed(session, job_id)):
        raise click.ClickException(f"There is no failed job {job_id}.")
    click.echo(f"The job {job_id} is due.")


@jobs.command()
@click.argument("job_id", metavar="ID", type=click.UUID)
def delete(job_id: UUID) -> None:
    """Delete a job that is not running."""
    if not in_transaction(lambda session: queue.delete_idle(session, job_id)):
        raise click.ClickException(f"There is no job {job_id} that is not running.")
    click.echo(f"The job {job_id} was deleted.")

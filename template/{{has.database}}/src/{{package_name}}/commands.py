"""The command that all of the database needs, and what the commands of features share."""

from collections.abc import Generator
from contextlib import contextmanager

import click
import structlog
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from .database import DatabaseSettings, MigrationError, SchemaBehindError, open_database
from .database import migrate as migrate_database
from .errors import Unavailable
from .groups import Environment, read_settings
from .logs import LogSettings, configure_logs

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class DatabaseEnvironment(Environment):
    """What a command reads that needs the database only."""

    log: LogSettings
    database: DatabaseSettings


@click.command()
def migrate() -> None:
    """Bring the database to the newest schema. When two run at once, the second waits."""
    settings = read_settings(DatabaseEnvironment)
    configure_logs(settings.log, settings.environment)
    with explain_errors(settings.database.url):
        migrate_database(settings.database.url)


async def check_database(settings: DatabaseSettings) -> None:
    """Raise `MigrationError` for a wrong schema. /health/ready asks a database that is away."""
    try:
        async with open_database(settings) as database:
            await database.ping()
    except Unavailable as error:
        if isinstance(error.__cause__, MigrationError):
            raise error.__cause__ from None
        logger.warning("the database is away", cause=repr(error.__cause__))


@contextmanager
def explain_errors(url: URL) -> Generator[None]:
    """Say in a sentence what is wrong with the database."""
    try:
        yield
    except Unavailable as error:
        raise click.ClickException(
            f"Cannot connect to {url}: {error.__cause__}. Does it run, and is DATABASE_URL right?"
        ) from None
    except DBAPIError as error:
        raise click.ClickException(f"{url} says: {error.driver_exception}") from None
    except SchemaBehindError as error:
        command = click.get_current_context().find_root().info_name
        raise click.ClickException(
            f"{error}. Run `{command} migrate` first. "
            "DATABASE_MIGRATIONS=optional would serve nevertheless."
        ) from None
    except MigrationError as error:
        raise click.ClickException(
            f"{error}. It takes pyproject.toml and migrations/ of the version that is to run."
        ) from None

"""`migrate`, and what the commands of features share."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager

import click
import structlog
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from .database import open_database
from .database_settings import DatabaseSettings
from .engine import Unreachable
from .errors import Unavailable
from .groups import Environment, read_settings
from .logs import LogSettings, configure_logs, describe
from .schema import MigrationError, SchemaBehindError, remove_branch
from .schema import migrate as migrate_database

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

READ_BY_DRIVER = re.compile("PG(HOST|PORT|USER|PASSWORD|PASSFILE|KRBSRVNAME|GSSLIB)")


class DatabaseEnvironment(Environment):
    """The settings of a command that needs the database only."""

    log: LogSettings
    database: DatabaseSettings


@click.command()
@click.option("--remove", metavar="BRANCH", help="Drop the tables of a branch, with their rows.")
def migrate(remove: str | None) -> None:
    """Update the database to the newest schema. If two of them run, the second one waits."""
    settings = read_settings(DatabaseEnvironment)
    configure_logs(settings.log, settings.environment)
    with explain_errors(settings.database.url):
        if remove:
            remove_branch(settings.database.url, remove)
        else:
            migrate_database(settings.database.url)


async def check_database(settings: DatabaseSettings) -> None:
    """Raise `MigrationError` for a wrong schema, and `Unreachable` for an invalid address.

    If the database is unreachable, log a warning. The service still starts, but is not ready.
    """
    try:
        async with open_database(settings) as database:
            await database.ping()
    except MigrationError:
        raise
    except Unavailable as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError | LookupError) and not isinstance(cause, OSError):
            raise  # an invalid host, or an invalid variable such as PGPORT
        logger.warning("the database is unreachable", cause=describe(cause))


@contextmanager
def explain_errors(url: URL) -> Generator[None]:
    """Convert errors of the database to errors of the command line."""
    try:
        yield
    except SchemaBehindError as error:
        command = click.get_current_context().find_root().info_name
        raise click.ClickException(
            f"{error}. Run `{command} migrate` first. "
            "To serve anyway, set DATABASE_MIGRATIONS=optional."
        ) from None
    except MigrationError as error:
        raise click.ClickException(f"{error}.") from None
    except Unavailable as error:
        server = error.url if isinstance(error, Unreachable) else url
        variable = "DATABASE_URL" if server == url else "DATABASE_READER_URL"
        hint = f"Does it run, and is {variable} right?"
        if "SSL" in str(error.__cause__):
            hint = (
                "The server needs TLS (ssl = on), and a certificate for its host name in "
                f"{variable} by the CA that sslrootcert names, or else by one of the system's."
            )
        if others := sorted(filter(READ_BY_DRIVER.fullmatch, os.environ)):
            hint += f" What the URL leaves out is read from {', '.join(others)}."
        raise click.ClickException(
            f"Cannot connect to {server}: {error.__cause__}. {hint}"
        ) from None
    except DBAPIError as error:
        message, *_ = str(error.driver_exception).splitlines()  # the other lines contain the row
        raise click.ClickException(f"{url} says: {message}") from None

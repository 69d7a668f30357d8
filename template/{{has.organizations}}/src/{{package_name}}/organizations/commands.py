"""What `serve` checks before it starts."""

from contextlib import suppress

import click

from ..database import open_database
from ..database_settings import DatabaseSettings
from ..errors import Unavailable
from . import row_security


async def check_role(settings: DatabaseSettings) -> None:
    """Refuse a role for which policies do not hold. An unreachable database is not refused."""
    async with open_database(settings) as database:
        with suppress(Unavailable):
            try:
                await row_security.check_role(database)
            except row_security.UnsafeRole as error:
                raise click.ClickException(f"{error}") from None

"""The commands for accounts: administrators, locked accounts, expired rows."""

import asyncio
import sys

import click
from pydantic import ValidationError
from sqlalchemy import select

from ..commands import DatabaseEnvironment, explain_errors
from ..database import open_database
from ..errors import Conflict
from ..groups import read_settings
from ..logs import configure_logs
from . import sessions, users
from .audit import INTERNAL
from .models import User
from .schemas import UserCreate
from .service import AuthService
from .settings import AuthSettings
from .state import open_auth


class AuthEnvironment(DatabaseEnvironment):
    auth: AuthSettings


@click.command()
@click.argument("email")
def create_admin(email: str) -> None:
    """Add an account with the role of an administrator.

    Asks for the password, or reads it from a pipe.
    """
    settings = read_settings(AuthEnvironment)
    configure_logs(settings.log, settings.environment)
    try:
        new = UserCreate.model_validate({"email": email, "password": ask_password()})
        with explain_errors(settings.database.url):
            asyncio.run(add_admin(settings, new))
    except ValidationError as error:
        rules = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()]
        raise click.ClickException("; ".join(rules).replace("Value error, ", "")) from None
    except Conflict as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{email} is an administrator.")


async def add_admin(settings: AuthEnvironment, new: UserCreate) -> None:
    async with (
        open_database(settings.database) as database,
        open_auth(settings.auth, database) as auth,
    ):
        await AuthService(database, auth).add_user(new, "admin")


def ask_password() -> str:
    if sys.stdin.isatty():
        return click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return sys.stdin.readline().rstrip("\r\n")


@click.command()
@click.argument("email")
def unlock(email: str) -> None:
    """Allow logins to an account again after too many failures."""
    settings = read_settings(DatabaseEnvironment)
    configure_logs(settings.log, settings.environment)
    with explain_errors(settings.database.url):
        if not asyncio.run(unlock_account(settings, email)):
            raise click.ClickException(f"There is no account with the address {email}.")
    click.echo(f"{email} can log in again.")


async def unlock_account(settings: DatabaseEnvironment, email: str) -> bool:
    async with (
        open_database(settings.database) as database,
        database.write.begin() as session,
    ):
        user = await session.scalar(select(User).where(User.email == email.strip().lower()))
        if user and await users.unlock(session, user):
            INTERNAL.record_on_commit(session, "unlock", subject=user.id)
        return user is not None


@click.command()
def delete_expired() -> None:
    """Delete expired login sessions and counters. `serve` does this, too."""
    settings = read_settings(DatabaseEnvironment)
    configure_logs(settings.log, settings.environment)
    with explain_errors(settings.database.url):
        count = asyncio.run(delete_expired_rows(settings))
    click.echo(f"{count} expired sessions and counters were deleted.")


async def delete_expired_rows(settings: DatabaseEnvironment) -> int:
    async with open_database(settings.database) as database:
        return await sessions.delete_expired(database)

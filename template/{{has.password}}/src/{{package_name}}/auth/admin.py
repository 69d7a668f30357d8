"""What the command line does to accounts: sign-up only makes ordinary users."""

import asyncio
import sys

import click
from pydantic import ValidationError

from ..database import open_database
from ..errors import Conflict
from ..settings import Settings
from . import sessions
from .passwords import Passwords
from .schemas import UserCreate
from .service import AuthService
from .tokens import Tokens


def add_admin(settings: Settings, email: str) -> None:
    """Ask for a password and add the account."""
    try:
        new = UserCreate.model_validate({"email": email, "password": ask_password()})
        asyncio.run(_add_admin(settings, new))
    except ValidationError as error:
        rules = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()]
        raise click.ClickException("; ".join(rules).replace("Value error, ", "")) from None
    except Conflict as error:
        raise click.ClickException(str(error)) from None


async def _add_admin(settings: Settings, new: UserCreate) -> None:
    async with open_database(settings.database) as database:
        auth = AuthService(database, Passwords(), Tokens(settings.auth), settings.auth)
        await auth.add_user(new, "admin")


def delete_expired(settings: Settings) -> int:
    """Delete sessions and counted attempts that have expired. Return how many there were."""
    return asyncio.run(_delete_expired(settings))


async def _delete_expired(settings: Settings) -> int:
    async with (
        open_database(settings.database) as database,
        database.write.begin() as session,
    ):
        return await sessions.delete_expired(session)


def ask_password() -> str:
    if sys.stdin.isatty():
        return click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return sys.stdin.readline().rstrip("\n")

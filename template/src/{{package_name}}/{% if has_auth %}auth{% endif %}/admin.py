"""The first administrator comes from the command line: sign-up only makes ordinary users."""

import asyncio
import sys

import click
from pydantic import SecretStr, ValidationError

from ..database import open_database
from ..errors import Conflict
from ..settings import Settings
from .passwords import Passwords
from .schemas import UserCreate
from .service import AuthService
from .tokens import Tokens


def add_admin(settings: Settings, email: str) -> None:
    """Raise `ValueError` with a sentence when the input is not valid or the address is taken."""
    try:
        new = UserCreate(email=email, password=SecretStr(ask_password()))
        asyncio.run(_add_admin(settings, new))
    except ValidationError as error:
        rules = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()]
        raise ValueError("; ".join(rules)) from None
    except Conflict as error:
        raise ValueError(str(error)) from None


async def _add_admin(settings: Settings, new: UserCreate) -> None:
    async with open_database(settings.database) as database:
        await AuthService(database, Passwords(), Tokens(settings.auth)).sign_up(new, "admin")


def ask_password() -> str:
    if sys.stdin.isatty():
        return click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return sys.stdin.readline().rstrip("\n")

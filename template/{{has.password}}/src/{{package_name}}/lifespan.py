"""What lives as long as the process: `State` and its pools."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from .auth.passwords import Passwords
from .auth.tokens import Tokens
from .database import Database, open_database
from .settings import Settings

# isort: split
# Yours: imports


class State(TypedDict):
    """What `lifespan` opened; endpoints get at it through the aliases in `dependencies.py`."""

    settings: Settings
    is_draining: bool  # the server sets it when the process is about to end
    database: Database
    passwords: Passwords
    tokens: Tokens
    # Yours: pools


class Connection(HTTPConnection[State]):
    """A request or websocket whose `state` is our `State`.

    FastAPI accepts this subclass as a parameter, but not `HTTPConnection[State]` itself.
    """


@asynccontextmanager
async def lifespan(app: FastAPI, *, settings: Settings) -> AsyncGenerator[State]:
    """Open each pool where it is closed: an async context manager, such as `open_database`.

    In one `async with` they close in reverse order, also when a later one fails to open.
    """
    async with (
        open_database(settings.database) as database,
        # Yours: pools
    ):
        yield State(
            settings=settings,
            is_draining=False,
            database=database,
            passwords=Passwords(),
            tokens=Tokens(settings.auth),
            # Yours: pools
        )


async def ping(state: State) -> None:
    """Raise `Unavailable` unless each pool can do its work: the service is not ready then."""
    await state["database"].ping()
    # Yours: pools

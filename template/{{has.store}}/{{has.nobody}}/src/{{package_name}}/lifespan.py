"""What lives as long as the process: `State` and its pools."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from .settings import Settings
from .store import Store, open_store

# isort: split
# Yours: imports


class State(TypedDict):
    """What `lifespan` opened; endpoints get at it through the aliases in `dependencies.py`."""

    settings: Settings
    is_draining: bool  # the server sets it when the process is about to end
    store: Store
    # Yours: pools


class Connection(HTTPConnection[State]):
    """A request or websocket whose `state` is our `State`.

    FastAPI accepts this subclass as a parameter, but not `HTTPConnection[State]` itself.
    """


@asynccontextmanager
async def lifespan(app: FastAPI, *, settings: Settings) -> AsyncGenerator[State]:
    """Open each pool where it is closed: an async context manager, such as `open_store`.

    In one `async with` they close in reverse order, also when a later one fails to open.
    """
    async with (
        open_store() as store,
        # Yours: pools
    ):
        yield State(
            settings=settings,
            is_draining=False,
            store=store,
            # Yours: pools
        )


async def ping(state: State) -> None:
    """Raise `Unavailable` unless each pool can do its work: the service is not ready then."""
    # Yours: pools

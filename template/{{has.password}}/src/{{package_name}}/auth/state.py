"""What authentication needs for as long as the process lives."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import uniform

import structlog
from fastapi.requests import HTTPConnection

from ..database import Database, DatabaseState
from ..logs import describe
from . import sessions
from .passwords import Passwords
from .settings import AuthSettings
from .tokens import Tokens

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


@dataclass(frozen=True, slots=True)
class Auth:
    settings: AuthSettings
    passwords: Passwords
    tokens: Tokens


class AuthState(DatabaseState):
    auth: Auth


class AuthConnection(HTTPConnection[AuthState]):
    """A request or WebSocket whose caller can be identified."""


@asynccontextmanager
async def open_auth(settings: AuthSettings, database: Database) -> AsyncGenerator[Auth]:
    cleanup = asyncio.create_task(clean_up(database, settings.cleanup_interval))
    try:
        yield Auth(settings, Passwords(), Tokens(settings))
    finally:
        cleanup.cancel()
        await asyncio.wait([cleanup], timeout=2)


async def clean_up(database: Database, interval: int) -> None:
    """Delete expired rows at intervals, until the task is cancelled."""
    while True:
        await asyncio.sleep(interval * uniform(0.5, 1.5))  # processes take turns  # noqa: S311
        try:
            await sessions.delete_expired(database)
        except Exception as error:
            logger.warning("clean-up failed", cause=describe(error))

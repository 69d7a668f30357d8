"""What authentication needs for as long as the process lives."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi.requests import HTTPConnection

from ..database import DatabaseState
from .passwords import Passwords
from .settings import AuthSettings
from .tokens import Tokens


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
async def open_auth(settings: AuthSettings) -> AsyncGenerator[Auth]:
    yield Auth(settings, Passwords(), Tokens(settings))

"""The objects of authentication that live as long as the process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypedDict

from fastapi.requests import HTTPConnection

from .provider import TIME_LIMIT, Provider, open_provider
from .settings import AuthSettings
from .tokens import Tokens


@dataclass(frozen=True, slots=True)
class Auth:
    provider: Provider
    tokens: Tokens

    async def ping(self) -> None:
        """Raise `Unavailable` unless tokens can be verified."""
        await self.provider.ping()


class AuthState(TypedDict):
    auth: Auth


class AuthConnection(HTTPConnection[AuthState]):
    """A request or WebSocket whose caller can be identified."""


@asynccontextmanager
async def open_auth(settings: AuthSettings, time_limit: float = TIME_LIMIT) -> AsyncGenerator[Auth]:
    async with open_provider(settings, time_limit) as provider:
        yield Auth(provider, Tokens(settings, provider))

"""The cache's part of the state."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi.requests import HTTPConnection

from .server import open_server
from .service import Cache
from .settings import CacheSettings


class CacheState(TypedDict):
    cache: Cache


class CacheConnection(HTTPConnection[CacheState]):
    """A request or WebSocket that can use the cache."""


@asynccontextmanager
async def open_cache(settings: CacheSettings) -> AsyncGenerator[Cache]:
    async with open_server(settings) as server:
        yield Cache(server, settings.prefix)

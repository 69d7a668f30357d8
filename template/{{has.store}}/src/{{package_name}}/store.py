"""A store in memory, to be replaced by a real one."""

from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypedDict, TypeVar
from uuid import UUID

from fastapi.requests import HTTPConnection

T = TypeVar("T")


class Store:
    """Keeps records by class, partition and id, in insertion order, until the process ends."""

    def __init__(self) -> None:
        self._records: defaultdict[tuple[type, str], dict[UUID, Any]] = defaultdict(dict)

    def records(self, kind: type[T], partition: str = "") -> dict[UUID, T]:
        return self._records[kind, partition]


class StoreState(TypedDict):
    store: Store


class StoreConnection(HTTPConnection[StoreState]):
    """A request or WebSocket on which the store is open."""


@asynccontextmanager
async def open_store() -> AsyncGenerator[Store]:
    """Open the pool of a real store before the `yield`, and close it after."""
    yield Store()

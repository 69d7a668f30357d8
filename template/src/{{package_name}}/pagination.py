"""Keyset pagination, `GET ...?after=<id>&limit=50`: the last page is as fast as the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema


class HasId(Protocol):
    @property
    def id(self) -> UUID: ...


Record = TypeVar("Record", bound=HasId)
Schema = TypeVar("Schema", bound=BaseModel)


BEFORE_ALL = UUID(int=0)  # the `after` of the first page

# Clients should not read anything into a cursor.
After = Annotated[UUID | None, WithJsonSchema({"type": "string"})]
Next = Annotated[UUID | None, WithJsonSchema({"type": ["string", "null"]})]


class PageParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: After = Field(default=None, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=100)


PageQuery = Annotated[PageParameters, Query()]


@dataclass(frozen=True, slots=True)
class Page(Generic[Record]):
    """Records in the order of their ids, and the `after` of the next page, if there is one."""

    items: Sequence[Record]
    next: UUID | None

    @classmethod
    def of(cls, records: Sequence[Record], limit: int) -> "Page[Record]":
        """Make a page of up to `limit + 1` records. With one too many there is another page."""
        items = records[:limit]
        return cls(items, items[-1].id if len(records) > limit else None)


class PageRead(BaseModel, Generic[Schema]):
    model_config = ConfigDict(from_attributes=True)

    items: list[Schema]
    next: Next = Field(description="The `after` of the next page; null on the last one.")

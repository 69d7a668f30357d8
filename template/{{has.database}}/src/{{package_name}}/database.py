"""Access to the database, and the base of every model."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, TypedDict, TypeVarTuple
from uuid import UUID

from fastapi.requests import HTTPConnection
from sqlalchemy import Connection, DateTime, MetaData, Row, Select, select
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import greenlet_spawn
from uuid_utils.compat import uuid7

from .database_settings import DatabaseSettings
from .engine import open_pool
from .errors import Unavailable

Columns = TypeVarTuple("Columns")


def utc_now() -> datetime:
    return datetime.now(UTC)


def copy_created_at(context: DefaultExecutionContext) -> datetime:
    return context.get_current_parameters()["created_at"]


class Base(DeclarativeBase):
    """The base of all models. Ids sort by age (UUID version 7), so they are page cursors.

    Defaults are made in Python. An attribute with a default of the server would be expired after
    the flush, and could not be read while the response is serialized.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True)}

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=copy_created_at, onupdate=utc_now)


@dataclass(slots=True)
class Database:
    """Access to the database: `write` and `read` make sessions, `read_row` reads a single row."""

    write: async_sessionmaker[AsyncSession]
    read: async_sessionmaker[AsyncSession]
    connect_reader: Callable[[], AbstractContextManager[Connection]]
    connect_writer: Callable[[], AbstractContextManager[Connection]]  # without a transaction
    is_schema_checked: bool = False  # or does not have to be checked

    async def read_row(
        self,
        statement: Select[*Columns],
        parameters: Mapping[str, object],
        *,
        trust_replica: bool = True,
    ) -> Row[*Columns] | None:
        """Read one row, or None. Several rows are an error.

        It reads from the reader, which may be a replica that is behind, or from the writer with
        `trust_replica=False`. It runs the synchronous connection in one greenlet, since an
        `AsyncConnection` adds a tenth to the time of a small request.
        """

        connect = self.connect_reader if trust_replica else self.connect_writer

        def read() -> Row[*Columns] | None:
            with connect() as connection:
                return connection.execute(statement, parameters).one_or_none()

        return await greenlet_spawn(read)

    async def ping(self) -> None:
        """Run a query on each pool. Raise `Unavailable` after two seconds, `MigrationError` if the
        schema is behind.
        """
        async with self.write() as writer, self.read() as reader:
            # Waiting for connections does not count: a busy process is ready.
            connections = [await writer.connection(), await reader.connection()]
            try:
                async with asyncio.timeout(2):
                    for connection in connections:
                        await connection.execute(select(1))
                    await self._check_schema(connections[0])
            except TimeoutError as error:
                raise Unavailable from error

    async def _check_schema(self, connection: AsyncConnection) -> None:
        """Check the schema, unless this process has already found it up to date."""
        if not self.is_schema_checked:
            # Imported here, since it imports Alembic, which is needed only once.
            from .schema import check_schema

            await connection.run_sync(check_schema)
            self.is_schema_checked = True


class DatabaseState(TypedDict):
    database: Database


class DatabaseConnection(HTTPConnection[DatabaseState]):
    """A request or WebSocket on which the database is open."""


@asynccontextmanager
async def open_database(settings: DatabaseSettings) -> AsyncGenerator[Database]:
    """Open two pools, for writes and for reads. The server refuses writes on the second one.

    The reader has no transactions (autocommit). No pool connects before its first query.
    """
    async with (
        open_pool(settings, settings.url) as writer,
        open_pool(settings, settings.reader_url or settings.url, read_only=True) as reader,
    ):
        yield Database(
            # `close_resets_only=False`: using a session after its request is an error.
            write=async_sessionmaker(writer, expire_on_commit=False, close_resets_only=False),
            read=async_sessionmaker(reader, expire_on_commit=False, close_resets_only=False),
            connect_reader=reader.sync_engine.connect,
            connect_writer=writer.sync_engine.execution_options(
                isolation_level="AUTOCOMMIT"
            ).connect,
            is_schema_checked=settings.migrations == "optional",
        )

"""What any endpoint can ask for."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from .database import Database
from .lifespan import Connection
from .settings import Settings


async def get_settings(connection: Connection) -> Settings:
    return connection.state["settings"]


SettingsDep = Annotated[Settings, Depends(get_settings)]


async def get_database(connection: Connection) -> Database:
    return connection.state["database"]


# For what outlives the endpoint and opens its own sessions: streams, websockets, background work.
DatabaseDep = Annotated[Database, Depends(get_database)]


async def get_session(
    connection: Connection, database: DatabaseDep
) -> AsyncGenerator[AsyncSession]:
    """Read without a transaction for GET and HEAD; one transaction for everything else.

    It commits when the endpoint returns and rolls back when it raises. No connection is taken
    before the first query.
    """
    if connection["method"] in {"GET", "HEAD"}:
        async with database.read() as session:
            yield session
    else:
        async with database.write.begin() as session:
            yield session


# "function": commit before the response is sent, so no client is told of a write that failed.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]

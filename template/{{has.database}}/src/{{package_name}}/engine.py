"""Engines and their pools: how connections are made, and when they are dropped."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from ssl import SSLContext, SSLError
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .database_settings import DatabaseSettings, list_addresses, make_tls
from .errors import Unavailable
from .pool import FairPool


@asynccontextmanager
async def open_pool(
    settings: DatabaseSettings, url: URL, *, read_only: bool = False
) -> AsyncGenerator[AsyncEngine]:
    role = str(url.query.get("target_session_attrs", "any"))
    if read_only:
        # Sessions of the reader are read-only on every server, so "read-write" would match none.
        role = {"read-write": "primary", "read-only": "standby"}.get(role, role)
    engine = make_engine(
        url,
        poolclass=FairPool,
        pool_size=settings.pool_size,
        # Overflow opens and closes connections under load, which costs a third of the throughput.
        max_overflow=0,
        pool_timeout=settings.pool_timeout,
        pool_use_lifo=True,
        pool_recycle=300,
        isolation_level="AUTOCOMMIT" if read_only else None,
        hide_parameters=True,  # in the messages of errors, which are logged
        connect_args={
            "timeout": 5,  # seconds to connect
            "target_session_attrs": role,
            # The limit of the server is reached first, unless the server or the network is frozen.
            "command_timeout": settings.statement_timeout + 1,
            "server_settings": {
                "application_name": __package__,
                "statement_timeout": str(round(settings.statement_timeout * 1000)),
                **({"default_transaction_read_only": "on"} if read_only else {}),
            },
        },
    )
    event.listen(engine.sync_engine, "handle_error", drop_frozen_connection)
    event.listen(engine.sync_engine, "handle_error", drop_outdated_connections)
    if not read_only:
        event.listen(engine.sync_engine, "handle_error", drop_read_only_connection)
    try:
        yield engine
    finally:
        # Closing connections times out if the server is frozen. Do not log that.
        pool = logging.getLogger("sqlalchemy.pool")
        level = pool.level
        pool.setLevel(logging.CRITICAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await engine.dispose()
        pool.setLevel(level)


def make_engine(
    url: URL, connect_args: Mapping[str, object] | None = None, **options: Any
) -> AsyncEngine:
    """Make an engine that connects as the options of a `DatabaseUrl` say."""
    arguments = {
        # Set, so that asyncpg does not read PGTARGETSESSIONATTRS and PGSSLNEGOTIATION.
        "target_session_attrs": url.query.get("target_session_attrs", "any"),
        "direct_tls": False,
        **make_address(url),
        **(connect_args or {}),
    }
    engine = create_async_engine(url.set(query={}), connect_args=arguments, **options)
    connect = partial(connect_to_server, url, make_tls(url))
    event.listen(engine.sync_engine, "do_connect", connect)
    return engine


def make_address(url: URL) -> dict[str, Any]:
    """Return the arguments `host` and `port` of asyncpg."""
    addresses = list_addresses(url)
    arguments: dict[str, Any] = {"host": [host for host, _ in addresses]} if addresses else {}
    if any(port for _, port in addresses):
        arguments["port"] = [port or 5432 for _, port in addresses]
    return arguments


class Unreachable(Unavailable):
    """Cannot connect to the server of `url`. `__cause__` says why."""

    def __init__(self, url: URL) -> None:
        super().__init__()
        self.url = url


def connect_to_server(
    url: URL,
    attempts: list[SSLContext | bool],
    dialect: Dialect,
    record: object,
    args: list[Any],
    arguments: dict[str, Any],
) -> DBAPIConnection:
    """Connect, or raise `Unreachable` for every cause, such as a wrong password."""
    cause: Exception | None = None
    for tls in attempts:
        try:
            return dialect.connect(*args, **arguments, ssl=tls)
        except Exception as error:
            cause = error
            if not is_about_tls(error):
                break
    raise Unreachable(url) from cause


def is_about_tls(error: Exception) -> bool:
    """Return whether the server may accept a connection with TLS switched on or off instead."""
    state = getattr(error, "sqlstate", None)
    return isinstance(error, ConnectionError | SSLError) or state == "28000"  # of pg_hba.conf


def drop_frozen_connection(context: ExceptionContext) -> None:
    """Convert a time-out of the driver to `Unavailable`, and drop the connection."""
    if isinstance(context.original_exception, TimeoutError):
        context.is_disconnect = True
        raise Unavailable from context.original_exception


def drop_outdated_connections(context: ExceptionContext) -> None:
    """Drop all connections if a migration has changed a type that they have cached."""
    error = context.original_exception
    if "cache lookup failed for type" in str(error):  # of the server, for a type that was dropped
        context.is_disconnect = True
    if type(error.__cause__).__name__ == "OutdatedSchemaCacheError":  # of asyncpg
        context.is_disconnect = True


def drop_read_only_connection(context: ExceptionContext) -> None:
    """Drop a connection of the writer that is read-only: another server may be the primary now."""
    if getattr(context.original_exception, "sqlstate", None) == "25006":
        context.is_disconnect = True

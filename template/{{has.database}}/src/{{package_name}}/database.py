"""Engines, sessions, and the base of every model."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext, SSLError
from typing import Annotated, Any, ClassVar, Literal, TypedDict, TypeVarTuple
from urllib.parse import quote, unquote
from uuid import UUID

from fastapi.requests import HTTPConnection
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    MetaData,
    Row,
    Select,
    event,
    make_url,
    select,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect, ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import greenlet_spawn, to_list
from uuid_utils.compat import uuid7

from .errors import Unavailable
from .groups import PLACEHOLDER, Group, check_certificates
from .pool import FairPool

Columns = TypeVarTuple("Columns")


# Of libpq, whose documentation explains them.
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_FILES = ("sslrootcert", "sslcert", "sslkey")
VERIFYING = ("verify-ca", "verify-full")
SERVER_ROLES = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
# `host1:5432,host2:5432` in place of one host, which SQLAlchemy does not understand.
SEVERAL_HOSTS = re.compile(r"(\w[\w+]*://(?:.*@)?)([^/?@]*,[^/?@]*)(/[^?]*)\??(.*)", re.DOTALL)
ADDRESS = re.compile(r"(/.*)|(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::(\d+))?")
EXAMPLE = "should look like postgresql://user:password@host:5432/database"


def parse_database_url(value: object) -> URL:
    """Accept URLs of libpq and of hosting providers, and set the driver."""
    text = value.render_as_string(hide_password=False) if isinstance(value, URL) else str(value)
    text = text.strip()
    if text.count("@") > 1:
        # The end of the password would become part of the host, which errors contain.
        raise ValueError("has more than one @: write %40 in a user, a password or an option")
    if several := SEVERAL_HOSTS.fullmatch(text):
        start, hosts, database, query = several.groups()
        text = f"{start}{database}?{query}&host={quote(hosts)}"
    try:
        url = make_url(text)
        list_addresses(url)
    except (ArgumentError, ValueError):
        url = make_url("unknown://")
    schemes = {"postgres", "postgresql", "postgresql+asyncpg"}
    if url.drivername not in schemes or not url.database:
        raise ValueError(EXAMPLE)  # without the value, which may contain a password
    options = dict(url.query)
    options.pop("channel_binding", None)  # for libpq only
    mode = options.pop("sslmode", options.pop("ssl", ""))
    known = ("host", "port", "target_session_attrs", *TLS_FILES)
    query = {name: options.pop(name) for name in known if name in options}
    files = [name for name in TLS_FILES if name in query]
    if options:
        raise ValueError(f"has options that only libpq knows: {', '.join(options)}")
    if mode and mode not in TLS_MODES:
        raise ValueError(f"has an unknown sslmode; there are {', '.join(TLS_MODES)}")
    if not mode and os.environ.get("PGSSLMODE"):
        raise ValueError("has no sslmode, and PGSSLMODE does not count: append ?sslmode=...")
    if files and mode not in VERIFYING:
        raise ValueError(f"has {', '.join(files)}, which needs sslmode=verify-full")
    if query.get("target_session_attrs", "any") not in SERVER_ROLES:
        roles = ", ".join(SERVER_ROLES)
        raise ValueError(f"has an unknown target_session_attrs; there are {roles}")
    if mode:
        query["sslmode"] = mode
    url = url.set(drivername="postgresql+asyncpg", query=query)
    try:
        make_tls(url)
    except OSError as error:
        raise ValueError(f"names files that cannot be used: {', '.join(files)}: {error}") from None
    return url


def list_addresses(url: URL) -> list[tuple[str, int | None]]:
    """List the hosts of a URL, or the folders of Unix sockets, with their ports.

    Raise `ValueError` for an invalid address. The list is empty if the driver has to choose.
    """
    host = f"[{url.host}]" if ":" in (url.host or "") else unquote(url.host or "")
    hosts = ",".join(to_list(url.query.get("host") or host)).split(",")
    port = "" if url.port is None else str(url.port)
    ports = ",".join(to_list(url.query.get("port") or port)).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    addresses: list[tuple[str, int | None]] = []
    for text, default in zip(hosts, ports, strict=True):
        match = ADDRESS.fullmatch(text)
        if match is None:
            if hosts == [""]:
                break
            raise ValueError("no address")
        folder, ip, name, own = match.groups()
        number = int(own or default) if own or default else None
        if number is not None and not 1 <= number <= 65_535:
            raise ValueError("no port")
        addresses.append((folder or ip or name, number))
    return addresses


def make_address(url: URL) -> dict[str, Any]:
    """Return the arguments `host` and `port` of asyncpg."""
    addresses = list_addresses(url)
    arguments: dict[str, Any] = {"host": [host for host, _ in addresses]} if addresses else {}
    if any(port for _, port in addresses):
        arguments["port"] = [port or 5432 for _, port in addresses]
    return arguments


def make_tls(url: URL) -> list[SSLContext | bool]:
    """Return values for the argument `ssl` of asyncpg, to be tried in this order.

    With the mode itself, asyncpg would read variables such as PGSSLCERT and files of the home
    directory, which may belong to another user. It does not support `sslrootcert=system`.
    """
    options = {name: str(value) for name, value in url.query.items()}
    mode = options.get("sslmode", "prefer")
    # From Python 3.13 on, `create_default_context` refuses certificates that libpq accepts.
    tls = SSLContext(PROTOCOL_TLS_CLIENT)
    tls.check_hostname = mode == "verify-full"
    if mode not in VERIFYING:
        tls.verify_mode = CERT_NONE
        match mode:
            case "disable":
                return [False]
            case "allow":
                return [False, tls]
            case "prefer":
                return [tls, False]
        return [tls]
    root = options.get("sslrootcert", "system")
    if root == "system":
        check_certificates()
        tls.load_default_certs()
    else:
        tls.load_verify_locations(root)
    if "sslcert" in options or "sslkey" in options:
        # Without a password, OpenSSL would ask for the one of an encrypted key on the terminal.
        tls.load_cert_chain(options.get("sslcert", ""), options.get("sslkey"), password="")
    return [tls]


DatabaseUrl = Annotated[URL, NoDecode, BeforeValidator(parse_database_url)]
# Seconds. PostgreSQL has 32 bits for milliseconds, and 0 means no limit.
Timeout = Annotated[float, Field(ge=0.001, le=2_147_483)]
MAX_CONNECTIONS = 262_143  # the limit of PostgreSQL


class DatabaseSettings(Group):
    url: DatabaseUrl
    reader_url: DatabaseUrl | None = None
    pool_size: Annotated[int, Field(ge=1, le=MAX_CONNECTIONS)] = 10
    pool_timeout: Timeout = 5
    statement_timeout: Timeout = 10
    migrations: Literal["required", "optional"] = "required"
    tls: Literal["required", "optional"] = "required"

    def check_for_production(self) -> None:
        urls = {"DATABASE_URL": self.url, "DATABASE_READER_URL": self.reader_url}
        for variable, url in urls.items():
            if url and re.search(PLACEHOLDER, url.password or "", re.IGNORECASE):
                raise ValueError("the password in the URL is that of an example")
            is_verified = url and url.query.get("sslmode") == "verify-full"
            if url and self.tls == "required" and not is_verified and not is_local(url):
                raise ValueError(
                    f"{variable} names another machine, and does not verify it. Append "
                    "?sslmode=verify-full, and &sslrootcert=/path/to/ca.pem for a CA that the "
                    "system does not trust. DATABASE_TLS=optional would connect nevertheless"
                )


def is_local(url: URL) -> bool:
    """Return whether all servers are on this machine: loopback addresses or Unix sockets."""
    hosts = [host for host, _ in list_addresses(url)]
    return all(map(is_this_machine, hosts or (os.environ.get("PGHOST") or "/").split(",")))


def is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.startswith("/")


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
    is_schema_checked: bool = False

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
            connection = await writer.connection()
            await reader.connection()
            try:
                async with asyncio.timeout(2):
                    await reader.execute(select(1))
                    await writer.execute(select(1))
                    if not self.is_schema_checked:
                        # Imported here, since it imports Alembic, which is needed only once.
                        from .schema import check_schema

                        await connection.run_sync(check_schema)
                        self.is_schema_checked = True
            except TimeoutError as error:
                raise Unavailable from error


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
            # "close_resets_only": using a session after its request is an error.
            write=async_sessionmaker(writer, expire_on_commit=False, close_resets_only=False),
            read=async_sessionmaker(reader, expire_on_commit=False, close_resets_only=False),
            connect_reader=reader.sync_engine.connect,
            connect_writer=writer.sync_engine.execution_options(
                isolation_level="AUTOCOMMIT"
            ).connect,
            is_schema_checked=settings.migrations == "optional",
        )


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


class Unreachable(Unavailable):
    """It is not possible to connect to the server of `url`. The cause says why."""

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
    """Return whether the server may accept a connection with the other kind of encryption."""
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

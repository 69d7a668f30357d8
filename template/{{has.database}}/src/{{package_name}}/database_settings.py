"""The settings of the database, and what its URL means: addresses, options and TLS."""

import os
import re
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext
from typing import Annotated, Literal
from urllib.parse import quote, unquote

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import to_list

from .groups import PLACEHOLDER, Group, check_certificates, is_this_machine

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
        raise ValueError(f"has options that are not supported: {', '.join(options)}")
    if mode and mode not in TLS_MODES:
        raise ValueError(f"has an unknown sslmode; it should be one of {', '.join(TLS_MODES)}")
    if not mode and os.environ.get("PGSSLMODE"):
        raise ValueError("has no sslmode, and PGSSLMODE does not count: append ?sslmode=...")
    if files and mode not in VERIFYING:
        raise ValueError(f"has {', '.join(files)}, which needs sslmode=verify-full")
    if query.get("target_session_attrs", "any") not in SERVER_ROLES:
        roles = ", ".join(SERVER_ROLES)
        raise ValueError(f"has an unknown target_session_attrs; it should be one of {roles}")
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


def make_tls(url: URL) -> list[SSLContext | bool]:
    """Return values for the argument `ssl` of asyncpg, to be tried in this order.

    Given a mode instead of these, asyncpg would read variables such as PGSSLCERT, and files of the
    home directory, even of another user. It does not support `sslrootcert=system`, either.
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
                    f"{variable} connects to another machine without verifying it. Append "
                    "?sslmode=verify-full, and &sslrootcert=/path/to/ca.pem for a CA that the "
                    "system does not trust. To connect anyway, set DATABASE_TLS=optional"
                )


def is_local(url: URL) -> bool:
    """Return whether all servers are on this machine: loopback addresses or Unix sockets."""
    hosts = [host for host, _ in list_addresses(url)]
    return all(map(is_this_machine, hosts or (os.environ.get("PGHOST") or "/").split(",")))

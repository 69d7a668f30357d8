import re
from dataclasses import dataclass
from email.headerregistry import Address
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from ..groups import Group, check_certificates
from ..middleware import normalize_host
from .addresses import parse_address

URL = re.compile(
    r"(?P<scheme>smtps?)://"
    r"((?P<user>[^\s:@/?#]+):(?P<password>[^\s:@/?#]+)@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[^\s:@/?#\[\]]+)"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int
    has_tls: bool  # from the first byte on, instead of by STARTTLS
    user: str | None = None
    password: SecretStr | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that its messages cross no network."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_server(value: object) -> object:
    """Parse MAIL_URL. The texts of the errors never quote it, since it has a password."""
    if not isinstance(value, str):
        return value
    match = URL.fullmatch(value)
    if match is None:
        raise ValueError(
            "should be smtp://user:password@host:587 or smtps://user:password@host:465, without "
            "options; write %40 for an @ in the user or the password, and %3A for a :"
        )
    has_tls = match["scheme"].lower() == "smtps"
    port = int(match["port"] or (465 if has_tls else 587))
    if not 1 <= port <= 65_535:
        raise ValueError("should have a port from 1 to 65535")
    try:
        host = normalize_host(match["host"]).strip("[]")
        host.encode("idna")  # as the socket module does
    except ValueError:
        raise ValueError("should have the name or the address of a server as its host") from None
    user, password = decode(match["user"]), decode(match["password"])
    server = Server(host, port, has_tls, user, SecretStr(password) if password else None)
    if not server.is_local:
        check_certificates()
    return server


def decode(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        decoded = "\0"
    if CONTROL.search(decoded):
        raise ValueError("should have a user and a password in UTF-8, without control characters")
    return decoded


def parse_sender(value: object) -> object:
    """Parse MAIL_SENDER: an address, or a name and an address in angle brackets."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?P<name>[^<>]*[^<>\s])\s*<(?P<address>[^<>]+)>", value)
    name = match["name"].strip('"') if match else ""
    try:
        address = parse_address(match["address"] if match else value)
    except ValueError:
        address = None
    if address is None or CONTROL.search(name) or not address.username.isascii():
        raise ValueError("should be Orders <no-reply@example.com>, or an address only")
    return Address(name, address.username, address.domain)


class MailSettings(Group):
    # Without a server, messages become files, in development only.
    url: Annotated[Server | None, NoDecode, BeforeValidator(parse_server)] = None
    sender: Annotated[Address, BeforeValidator(parse_sender)]

    def check_for_production(self) -> None:
        if self.url is None:
            raise ValueError("MAIL_URL is missing: mail is written to files in development only")

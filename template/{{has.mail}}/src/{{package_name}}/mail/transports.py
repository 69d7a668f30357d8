"""Where messages go: to a mail server, or into files."""

import asyncio
import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path
from typing import cast

import structlog
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)

from .service import MailNotSent, PartlySent
from .settings import Server

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


def list_recipients(message: EmailMessage) -> list[Address]:
    return list(cast("tuple[Address, ...]", message["To"].addresses))


class SmtpTransport:
    """Sends each message on a connection of its own.

    To another machine, the connection has TLS and the certificate is verified, or nothing is sent.
    A message takes `time_limit` seconds at most.
    """

    def __init__(self, server: Server, time_limit: float) -> None:
        self._server = server
        self._time_limit = time_limit
        needs_tls = server.has_implicit_tls or not server.is_local
        # Created once, since this reads all certificates of the system.
        self._tls = ssl.create_default_context() if needs_tls else None

    async def __call__(self, message: EmailMessage) -> None:
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password.get_secret_value() if server.password else None,
            use_tls=server.has_implicit_tls,
            start_tls=not server.has_implicit_tls and not server.is_local,
            tls_context=self._tls,
            timeout=self._time_limit,
        )
        recipients = [address.addr_spec for address in list_recipients(message)]
        try:
            async with asyncio.timeout(self._time_limit):
                await client.connect()
                refusals, _ = await client.send_message(message, recipients=recipients)
            with suppress(SMTPException):  # the server has accepted the message
                await client.quit(timeout=1)
        except (SMTPException, OSError) as error:  # a `TimeoutError` is an `OSError`
            raise MailNotSent(f"the mail server {self._explain(error, message)}") from None
        finally:
            client.close()
        if refusals:
            texts = self._quote(message, *refusals.values())
            raise PartlySent(f"the mail server refuses some of the recipients: {texts}")

    def _explain(self, error: Exception, message: EmailMessage) -> str:
        match error:
            case SMTPAuthenticationError():
                return f"refuses the user or the password in MAIL_URL: {error.code}"
            case SMTPSenderRefused():
                return f"refuses MAIL_SENDER: {self._quote(message, (error.code, error.message))}"
            case SMTPRecipientsRefused():
                texts = [(each.code, each.message) for each in error.recipients]
                return f"refuses the recipient: {self._quote(message, *texts)}"
            case SMTPResponseException():
                return f"refuses the message: {self._quote(message, (error.code, error.message))}"
            case TimeoutError():
                return f"in MAIL_URL did not respond within {self._time_limit:g} seconds"
        return f"in MAIL_URL cannot be used: {error}"

    def _quote(self, message: EmailMessage, *responses: tuple[int, str]) -> str:
        """Quote what a server says, without addresses, links, the user and the password."""
        secrets = [address.username for address in list_recipients(message)]
        if self._server.user and self._server.password:
            secrets += [self._server.user, self._server.password.get_secret_value()]
        names = "|".join(map(re.escape, secrets))
        link = r"\w+://[^\s#]*#\S+"  # with a token, perhaps
        secret = re.compile(rf"{link}|[^\s<]+@[^\s>]+|(?<!\w)({names})(?!\w)", re.IGNORECASE)
        texts = [f"{code} {secret.sub('[hidden]', text)}" for code, text in responses]
        return " ".join(", ".join(texts).split())[:300]


class FileTransport:
    """Writes each message to a file, which mail programs can open. It is for development."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __call__(self, message: EmailMessage) -> None:
        path = await asyncio.to_thread(self._write, message)
        logger.info("mail written", file=str(path))

    def _write(self, message: EmailMessage) -> Path:
        address = list_recipients(message)[0].addr_spec
        recipient = re.sub(r"[^\w.@+-]", "_", address, flags=re.ASCII)[:100]
        path = self._folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{recipient}.eml"
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(message.as_bytes(policy=SMTPUTF8))
        return path

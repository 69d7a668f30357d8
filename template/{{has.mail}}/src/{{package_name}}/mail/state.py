"""What sends mail for as long as the process lives."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

from fastapi.requests import HTTPConnection

from .service import Mail
from .settings import MailSettings
from .transports import FileTransport, SmtpTransport

FOLDER = Path(".local/mail")
TIME_LIMIT = 10.0  # seconds for a message, with its connection


class MailState(TypedDict):
    mail: Mail


class MailConnection(HTTPConnection[MailState]):
    """A request or WebSocket that can send mail."""


@asynccontextmanager
async def open_mail(settings: MailSettings, time_limit: float = TIME_LIMIT) -> AsyncGenerator[Mail]:
    """Prepare to send mail. Nothing is connected before the first message."""
    if settings.url is None:
        yield Mail(settings.sender, FileTransport(FOLDER))
    else:
        yield Mail(settings.sender, SmtpTransport(settings.url, time_limit))

"""What the service sends: messages from templates."""

import re
from collections.abc import Awaitable, Callable, Sequence
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from pathlib import Path

from jinja2 import (
    Environment,
    FileSystemLoader,
    StrictUndefined,
    TemplateNotFound,
    select_autoescape,
)

from ..errors import Unprocessable
from .addresses import parse_address

MAX_LINE = 998  # characters (RFC 5322 section 2.1.1)
TEMPLATES = Path(__file__).with_name("templates")

# Sends a message, or raises `MailNotSent`.
Transport = Callable[[EmailMessage], Awaitable[None]]


class InvalidMail(Unprocessable):
    """An address is not valid, or the values make a message that must not be sent."""

    type = "urn:problem-type:invalid-mail"
    detail = "No mail can be sent to this address."


class MailNotSent(Exception):
    """The server did not accept a message. The text has no address, no password and no content."""


class PartlySent(MailNotSent):
    """The server accepted a message for some of the recipients only."""


class Loader(FileSystemLoader):
    """Loads the first line of `name.txt` as `name:subject`, and the other lines as `name:text`."""

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        name, _, part = template.partition(":")
        if not part:
            return super().get_source(environment, template)
        source, path, is_current = super().get_source(environment, f"{name}.txt")
        subject, _, text = source.partition("\n")
        return subject if part == "subject" else text.lstrip("\n"), path, is_current


class Templates:
    """Renders `name.txt`, whose first line is the subject, and `name.html` if there is one.

    `values` are available in all templates.
    """

    def __init__(self, folder: Path = TEMPLATES, **values: object) -> None:
        self._environment = Environment(
            autoescape=select_autoescape(["html"], default=False),
            keep_trailing_newline=True,
            loader=Loader(folder),
            undefined=StrictUndefined,
        )
        self._values = values

    def render(self, name: str, values: dict[str, object]) -> tuple[str, str, str | None]:
        """Return the subject, the text and the HTML. A missing value is an `UndefinedError`."""
        values = self._values | values
        try:
            page = self._environment.get_template(f"{name}.html")
        except TemplateNotFound as error:
            if error.name != f"{name}.html":
                raise
            page = None
        return (
            self._environment.get_template(f"{name}:subject").render(values),
            self._environment.get_template(f"{name}:text").render(values),
            page.render(values) if page else None,
        )


class Mail:
    """Sends messages, each from a template in `templates/`.

    A service takes a `Mail` in its constructor. `MailDep` sends after the response. That of the
    state, for WebSockets and commands, sends before `send` returns.
    """

    def __init__(self, sender: Address, transport: Transport, templates: Templates) -> None:
        self.sender = sender
        self.transport = transport
        self.templates = templates

    async def send(self, recipients: str | Sequence[str], template: str, **values: object) -> None:
        """Send one message to all recipients, who see each other's addresses.

        Raise `InvalidMail` before anything is sent, and `MailNotSent` if the server refuses it.
        """
        await self.transport(self.make_message(recipients, template, values))

    def make_message(
        self, recipients: str | Sequence[str], template: str, values: dict[str, object]
    ) -> EmailMessage:
        addresses = [recipients] if isinstance(recipients, str) else recipients
        subject, text, page = self.templates.render(template, values)
        if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", subject):
            raise InvalidMail("The subject of a message is one line, without control characters.")
        if not addresses or not subject.strip() or not text.strip():
            raise InvalidMail("A message needs a recipient, a subject and a text.")
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = [parse_recipient(address) for address in addresses]
        message["Subject"] = subject.strip()
        message["Date"] = localtime()
        message["Message-ID"] = make_msgid(domain=self.sender.domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: against replies of absent people
        # By default, a line of more than 78 characters makes the text quoted-printable, which is
        # hard to read in development.
        is_plain = text.isascii() and all(len(line) <= MAX_LINE for line in text.splitlines())
        message.set_content(text, cte="7bit" if is_plain else None)
        if page is not None:
            message.add_alternative(page, subtype="html")
        return message


def parse_recipient(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidMail from error

"""The audit trail: log lines about accounts, logins and roles.

`docs/authentication.md` lists the events. They have a logger of their own and are written at every
LOG_LEVEL. They contain ids and IP addresses, but nothing that was sent as a credential, nor
unknown email addresses: somebody may type a password into the wrong field.
"""

import logging
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import structlog
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncSession

NAME = f"{__name__.partition('.')[0]}.audit"
logging.getLogger(NAME).setLevel(logging.INFO)
logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(NAME)

Event = Literal[
    "sign_up",
    "login",
    "refresh",
    "session_end",
    "password_change",
    "role_change",
    "activation",
    "deactivation",
    "unlock",
]


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from. All fields are empty for a command."""

    address: str = ""
    network: str = ""  # the address, or the /64 of an IPv6 address
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """Records events of a client. `actor` is None until the client has authenticated."""

    client: Client = Client()
    actor: UUID | None = None

    def record_on_commit(
        self, session: AsyncSession, event: Event, *, subject: UUID, **details: object
    ) -> None:
        """Record an event when the transaction commits, and not if it is rolled back."""

        def record(_session: object) -> None:
            self._record(event, subject, result="success", **details)

        listen(session.sync_session, "after_commit", record, once=True)

    def record_failure(self, event: Event, reason: str, *, subject: UUID | None = None) -> None:
        self._record(event, subject, result="failure", reason=reason)

    def _record(self, event: Event, subject: UUID | None, **details: object) -> None:
        logger.info(
            event,
            actor=self.actor and str(self.actor),
            subject=subject and str(subject),
            client=self.client.address or None,
            **details,
        )


# For commands and the clean-up, which are no requests.
INTERNAL = Audit()

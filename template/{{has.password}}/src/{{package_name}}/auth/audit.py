"""The audit trail: a line in the log for each event that decides who may do what.

`docs/authentication.md` lists the events. They have a logger of their own, whose lines are written
whatever LOG_LEVEL says. They hold ids and addresses, and never what was sent as a credential: an
email address that has no account may be a password in the wrong field.
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
    """Where a request comes from; all of it is empty for a command."""

    address: str = ""
    network: str = ""  # the address, or the /64 of an IPv6 address
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """Records what a client does, and as whom: `actor` is None until it has proved who it is."""

    client: Client = Client()
    actor: UUID | None = None

    def record_on_commit(
        self, session: AsyncSession, event: Event, *, subject: UUID, **details: object
    ) -> None:
        """Record what the transaction does, unless it is rolled back."""

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


# For what no request does: commands, and the clean-up.
INTERNAL = Audit()

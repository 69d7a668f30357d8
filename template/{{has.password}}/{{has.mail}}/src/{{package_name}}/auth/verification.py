from collections.abc import Collection
from dataclasses import replace
from typing import NoReturn, Protocol
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import Database, utc_now
from ..errors import BadRequest
from . import email_tokens
from .audit import Audit, Event
from .email_tokens import RENEWAL, REVERT, RedeemedToken
from .models import EmailToken, User
from .passwords import check_words
from .schemas import (
    Caller,
    EmailChange,
    PasswordReset,
    Purpose,
    ResetRequest,
    UserCreate,
    VerificationRequest,
)
from .service import AuthService, EmailTaken, WeakPassword
from .sessions import hash_token
from .state import Auth
from .throttle import MAIL, Throttle, account_counter, mail_counter, network_counters

VERIFICATION_PURPOSES: Collection[Purpose] = ("sign_up", "email_change", REVERT)
RESET_PURPOSES: Collection[Purpose] = ("password_reset", RENEWAL)
FIND_RESET = (
    select(EmailToken.email)
    .join(User, EmailToken.user_id == User.id)
    .where(EmailToken.token_hash == bindparam("token_hash"), User.is_active)
    .where(EmailToken.purpose.in_(RESET_PURPOSES), EmailToken.expires_at > bindparam("now"))
)


class InvalidEmailToken(BadRequest):
    type = "urn:problem-type:invalid-email-token"
    detail = "The link is not valid: it has expired, was used, or was replaced by a newer one."


class AccountMail(Protocol):
    """What sends mail about accounts, after the commit of `session`."""

    async def send_notice(self, session: AsyncSession, email: str, template: str) -> None: ...

    async def send_link(self, session: AsyncSession, token_id: UUID) -> None:
        """Make the token of a row of `email_tokens`, and send it."""


class VerificationService(AuthService):
    """`AuthService` with mail: it verifies that users can read the mail of their address.

    A request does the same work for each address, with an account or without one. What differs
    happens when the mail is sent, after the response.
    """

    def __init__(self, database: Database, auth: Auth, audit: Audit, mail: AccountMail) -> None:
        super().__init__(database, auth, audit)
        self._mail = mail
        settings = auth.settings
        self._lifetimes: dict[Purpose, int] = {
            "sign_up": settings.verification_lifetime,
            "email_change": settings.verification_lifetime,
            "password_reset": settings.reset_lifetime,
            REVERT: settings.revert_lifetime,
            RENEWAL: settings.revert_lifetime,
        }

    async def sign_up(self, new: UserCreate) -> None:
        """Send a link that creates the account, or say by mail that there is one."""
        await self._count_request("sign_up")
        hashed = await self._passwords.hash(new.password)
        async with self._database.write.begin() as session:
            await self._send_unless_limited(session, "sign_up", new.email, password_hash=hashed)

    async def request_reset(self, request: ResetRequest) -> None:
        await self._count_request("password_reset")
        async with self._database.write.begin() as session:
            await self._send_unless_limited(session, "password_reset", request.email)

    async def request_email_change(self, user: Caller, change: EmailChange) -> None:
        """Send a link to the new address, or raise `WrongPassword`."""
        self._audit = replace(self._audit, actor=user.id)
        await self._count_request("email_change")
        account = await self._find_account(user.email)
        with self._recording_refusal("email_change", account):
            account = await self._confirm("email_change", user, account, change.current_password)
            async with self._database.write.begin() as session:
                await self._lock_confirmed(session, "email_change", account)
                await self._send_unless_limited(
                    session, "email_change", change.email, user_id=user.id
                )

    async def _count_request(self, event: Event) -> None:
        throttle = Throttle(*network_counters(MAIL, "mail", self._audit.client.network))
        with self._recording_refusal(event):
            await self._count(throttle)

    async def _send_unless_limited(
        self,
        session: AsyncSession,
        purpose: Purpose,
        email: str,
        *,
        user_id: UUID | None = None,
        password_hash: str = "",
    ) -> None:
        """Send a link, unless too many were sent to the address. The response is the same."""
        if not await Throttle(mail_counter(purpose, email)).count(session):
            await self._send(session, purpose, email, user_id, password_hash)

    async def _send(
        self,
        session: AsyncSession,
        purpose: Purpose,
        email: str,
        user_id: UUID | None,
        password_hash: str = "",
    ) -> None:
        lifetime = self._lifetimes[purpose]
        token_id = await email_tokens.add(
            session, purpose, email, lifetime, user_id=user_id, password_hash=password_hash
        )
        await self._mail.send_link(session, token_id)

    async def verify(self, request: VerificationRequest) -> None:
        """Create the account of a sign-up, or change the address of one.

        Raise `InvalidEmailToken`, or `EmailTaken` if the address has another account by now.
        """
        token = request.token.get_secret_value()
        try:
            async with self._database.write.begin() as session:
                user = await email_tokens.lock_user(session, token)
                row = await email_tokens.redeem(session, token, VERIFICATION_PURPOSES)
                if row and row.purpose == "sign_up":
                    await self._create(session, row)
                elif row and user:
                    await self._change_email(session, user, row)
                else:
                    self._audit.record_failure("verification", "invalid token")
                    raise InvalidEmailToken
        except IntegrityError as error:
            self._audit.record_failure("verification", "address taken")
            raise EmailTaken from error

    async def _create(self, session: AsyncSession, row: RedeemedToken) -> None:
        user = User(email=row.email, password_hash=row.password_hash)
        session.add(user)
        await session.flush()
        await Throttle(account_counter(user.email)).reset(session)
        self._audit.record_on_commit(session, "sign_up", subject=user.id, role=user.role)

    async def _change_email(self, session: AsyncSession, user: User, row: RedeemedToken) -> None:
        audit = self._audit = replace(self._audit, actor=user.id)
        await self._end_access(session, user, "address changed")
        if row.purpose == REVERT:
            await self._finish_revert(session, user, row)
            audit.record_on_commit(session, "email_revert", subject=user.id)
        else:
            await self._send(session, REVERT, user.email, user.id)
            audit.record_on_commit(session, "email_change", subject=user.id)
        user.email = row.email
        await session.flush()
        await Throttle(account_counter(user.email)).reset(session)

    async def _finish_revert(self, session: AsyncSession, user: User, row: RedeemedToken) -> None:
        """Require a new password, since whoever changed the address knows this one."""
        await email_tokens.end_reverts(session, user.id, row.created_at)
        await self._mail.send_notice(session, user.email, "auth/email_reverted")
        await self._send(session, RENEWAL, row.email, user.id)

    async def reset_password(self, reset: PasswordReset) -> None:
        """Set a new password and end all login sessions, or raise `InvalidEmailToken`."""
        token = reset.token.get_secret_value()
        # So that no password is hashed for a token that is not valid.
        key = {"token_hash": hash_token(token), "now": utc_now()}
        row = await self._database.read_row(FIND_RESET, key, trust_replica=False)
        if row is None:
            self._refuse_reset()
        try:
            check_words(reset.new_password.get_secret_value(), row.email)
        except ValueError as error:
            raise WeakPassword(f"The new password {error}.") from None
        hashed = await self._passwords.hash(reset.new_password)
        async with self._database.write.begin() as session:
            user = await email_tokens.lock_user(session, token)
            row = await email_tokens.redeem(session, token, RESET_PURPOSES)
            if user is None or row is None or user.email != row.email:
                self._refuse_reset()
            self._audit = replace(self._audit, actor=user.id)
            await self._set_password(session, user, hashed, "password reset")
            await email_tokens.end(session, user.id, kept=[REVERT])
            self._audit.record_on_commit(session, "password_reset", subject=user.id)

    def _refuse_reset(self) -> NoReturn:
        self._audit.record_failure("password_reset", "invalid token")
        raise InvalidEmailToken

    async def _set_password(
        self, session: AsyncSession, user: User, hashed: str, reason: str
    ) -> None:
        await super()._set_password(session, user, hashed, reason)
        await self._mail.send_notice(session, user.email, "auth/password_changed")

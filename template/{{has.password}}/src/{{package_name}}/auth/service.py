from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from pydantic import Secret
from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import Database
from ..errors import BadRequest, Conflict, Forbidden, Unprocessable
from . import sessions
from .audit import INTERNAL, Audit, Event
from .bearer import InvalidToken
from .models import User, UserSession
from .passwords import check_words
from .schemas import (
    Caller,
    PasswordChange,
    RevocationRequest,
    Role,
    TokenErrorCode,
    TokenRead,
    TokenRequest,
    UserCreate,
    normalize_email,
)
from .state import Auth
from .throttle import (
    NETWORK,
    SIGN_UP,
    Throttle,
    TooManyAttempts,
    account_counter,
    change_counter,
    device_counter,
    network_counters,
)
from .tokens import DeviceClaims, fingerprint

# Built once, since they run with every authenticated request and every login.
FIND_CALLER = (
    select(User.id, User.email, User.role)
    .join(UserSession)
    .where(User.id == bindparam("user_id"), UserSession.id == bindparam("session_id"))
    .where(User.is_active)
)
FIND_ACCOUNT = select(User.id, User.password_hash, User.is_active).where(
    User.email == bindparam("email")
)
Account = Row[UUID, str, bool]


class TokenError(BadRequest):
    """An error in the format of OAuth 2.0 (RFC 6749 section 5.2)."""

    type = "urn:problem-type:token-error"

    def __init__(self, error: TokenErrorCode, description: str) -> None:
        super().__init__(description, error=error, error_description=description)


class WrongCredentials(TokenError):
    def __init__(self) -> None:
        super().__init__("invalid_grant", "The email address or the password is wrong.")


class EmailTaken(Conflict):
    type = "urn:problem-type:email-taken"
    detail = "There is an account with this email address."


class WeakPassword(Unprocessable):
    type = "urn:problem-type:weak-password"


class WrongPassword(Forbidden):
    type = "urn:problem-type:wrong-password"
    detail = "The current password is wrong."


class Devices(Protocol):
    """Where a client keeps its device tokens between logins."""

    def get(self, user_id: UUID) -> str: ...

    def set(self, user_id: UUID, token: str) -> None: ...


class AuthService:
    """Opens short transactions of its own, unlike other services, for two reasons.

    No transaction is open while a password is hashed. And the consequences of an attack, such as a
    counted failure or a revoked session, are committed although the response is an error.
    """

    def __init__(self, database: Database, auth: Auth, audit: Audit = INTERNAL) -> None:
        self._database = database
        self._passwords = auth.passwords
        self._tokens = auth.tokens
        self._settings = auth.settings
        self._audit = audit

    async def sign_up(self, new: UserCreate) -> User:
        """Create an account, or raise `EmailTaken`. Limited, since this reveals an account."""
        throttle = Throttle(*network_counters(SIGN_UP, "sign-up", self._audit.client.network))
        with self._recording_refusal("sign_up"):
            await self._count(throttle)
        return await self.add_user(new)

    async def add_user(self, new: UserCreate, role: Role = "user") -> User:
        hashed = await self._passwords.hash(new.password)
        user = User(email=new.email, password_hash=hashed, role=role)
        try:
            async with self._database.write.begin() as session:
                session.add(user)
                await session.flush()
                self._audit.record_on_commit(session, "sign_up", subject=user.id, role=role)
        except IntegrityError as error:
            self._audit.record_failure("sign_up", "address taken")
            raise EmailTaken from error
        return user

    async def grant_token(self, request: TokenRequest, devices: Devices) -> TokenRead:
        match request.grant_type:
            case "password":
                return await self._log_in(request, devices)
            case "refresh_token":
                return await self._refresh(request)
            case "":
                raise TokenError("invalid_request", "The grant_type is missing.")
        description = "The grant_type should be password or refresh_token."
        raise TokenError("unsupported_grant_type", description)

    async def _log_in(self, request: TokenRequest, devices: Devices) -> TokenRead:
        if not request.username or not request.password.get_secret_value():
            raise TokenError("invalid_request", "The username or the password is missing.")
        for _ in range(3):
            if tokens := await self._try_log_in(request, devices):
                return tokens
        raise WrongCredentials

    async def _try_log_in(self, request: TokenRequest, devices: Devices) -> TokenRead | None:
        """Return None if the account has changed while its password was checked."""
        try:
            email = normalize_email(request.username)
        except ValueError:
            email = ""  # which no account has
        account = await self._find_account(email)
        throttle = await self._make_throttle(email or request.username, account, devices)
        with self._recording_refusal("login", account):
            account = await self._check_password("login", account, request.password, throttle)
            if account is None:
                raise WrongCredentials
            return await self._start_session(account, request.password, throttle, devices)

    async def _find_account(self, email: str) -> Account | None:
        """Read from the writer, since a replica may not have a new account yet."""
        return await self._database.read_row(FIND_ACCOUNT, {"email": email}, trust_replica=False)

    async def _make_throttle(
        self, name: str, account: Account | None, devices: Devices
    ) -> Throttle:
        """Return the counter of known devices; if the device is unknown or blocked, the others."""
        if account and self._is_known(account, devices):
            known = Throttle(device_counter(account.id))
            async with self._database.write.begin() as session:
                if not await known.check(session):
                    return known
        network = self._audit.client.network
        return Throttle(*network_counters(NETWORK, "log-in", network), account_counter(name))

    def _is_known(self, account: Account, devices: Devices) -> bool:
        claims = self._tokens.verify_device_token(devices.get(account.id))
        return claims == DeviceClaims(account.id, fingerprint(account.password_hash))

    async def _check_password(
        self, event: Event, account: Account | None, password: Secret[str], throttle: Throttle
    ) -> Account | None:
        """Return the account if the password is right. Takes the same time without an account."""
        async with self._database.write.begin() as session:
            wait = await throttle.check(session)
        if wait:
            raise TooManyAttempts(wait)
        hashed = account.password_hash if account and account.is_active else None
        if await self._passwords.verify(password, hashed):
            return account
        await self._count(throttle)
        if account is None:
            self._audit.record_failure(event, "unknown account")
        else:
            reason = "wrong password" if account.is_active else "account deactivated"
            self._audit.record_failure(event, reason, subject=account.id)
        return None

    async def _count(self, throttle: Throttle) -> None:
        async with self._database.write.begin() as session:
            wait = await throttle.count(session)
        if wait:
            raise TooManyAttempts(wait)

    async def _start_session(
        self, account: Account, password: Secret[str], throttle: Throttle, devices: Devices
    ) -> TokenRead | None:
        """Return None if the account has changed since it was read."""
        hashed = account.password_hash
        if self._passwords.is_outdated(hashed):
            hashed = await self._passwords.hash(password)
        audit = replace(self._audit, actor=account.id)
        async with self._database.write.begin() as session:
            statement = select(User).where(User.id == account.id, User.is_active)
            statement = statement.where(User.password_hash == account.password_hash)
            user = await session.scalar(statement.with_for_update(key_share=True))
            if user is None:
                return None
            await refuse_late(session, throttle)
            await throttle.reset(session)
            await Throttle(device_counter(user.id), change_counter(user.id)).reset(session)
            user.password_hash = hashed
            grant = await sessions.start(session, audit, user.id, self._settings)
            login_id = str(grant.login.id)
            audit.record_on_commit(session, "login", subject=user.id, session_id=login_id)
        devices.set(user.id, self._tokens.issue_device_token(user.id, hashed))
        return self._tokens.issue(grant)

    @contextmanager
    def _recording_refusal(self, event: Event, account: Account | None = None) -> Generator[None]:
        try:
            yield
        except TooManyAttempts:
            subject = account.id if account else None
            self._audit.record_failure(event, "too many attempts", subject=subject)
            raise

    async def _refresh(self, request: TokenRequest) -> TokenRead:
        token = request.refresh_token.get_secret_value()
        if not token:
            raise TokenError("invalid_request", "The refresh_token is missing.")
        with self._recording_refusal("refresh"):
            async with self._database.write.begin() as session:
                grant = await sessions.rotate(session, self._audit, token, self._settings)
        if grant is None:
            raise TokenError("invalid_grant", "The refresh token is not valid.")
        return self._tokens.issue(grant)

    async def revoke(self, request: RevocationRequest) -> None:
        """End the session of an access token or a refresh token. Ignore invalid ones (RFC 7009)."""
        token = request.token.get_secret_value()
        if not token:
            raise TokenError("invalid_request", "The token is missing.")
        audit, condition = self._audit, sessions.has_token(token)
        with suppress(InvalidToken):
            claims = self._tokens.verify(token)
            audit = replace(audit, actor=claims.user_id)
            condition = UserSession.id == claims.session_id
        async with self._database.write.begin() as session:
            await sessions.end(session, audit, "logged out", condition)

    async def change_password(self, user: Caller, change: PasswordChange) -> None:
        """Change the password and end all login sessions, which revokes their access tokens."""
        self._audit = replace(self._audit, actor=user.id)
        try:
            check_words(change.new_password.get_secret_value(), user.email)
        except ValueError as error:
            raise WeakPassword(f"The new password {error}.") from None
        account = await self._find_account(user.email)
        throttle = Throttle(change_counter(user.id))
        with self._recording_refusal("password_change", account):
            account = await self._check_password(
                "password_change", account, change.current_password, throttle
            )
            if account is None:
                raise WrongPassword
            hashed = await self._passwords.hash(change.new_password)
            await self._replace_password(account, hashed, throttle)

    async def _replace_password(self, account: Account, hashed: str, throttle: Throttle) -> None:
        statement = update(User).where(User.id == account.id, User.is_active)
        statement = statement.where(User.password_hash == account.password_hash)
        statement = statement.values(password_hash=hashed).returning(User.id)
        async with self._database.write.begin() as session:
            await refuse_late(session, throttle)
            if await session.scalar(statement) is None:
                self._audit.record_failure(
                    "password_change", "changed meanwhile", subject=account.id
                )
                raise Conflict("The password was changed meanwhile.")
            await throttle.reset(session)
            self._audit.record_on_commit(session, "password_change", subject=account.id)
            condition = UserSession.user_id == account.id
            await sessions.end(session, self._audit, "password changed", condition)

    async def identify(self, token: str, *, trust_replica: bool = False) -> Caller:
        """Return the active user whose access token this is, or raise `InvalidToken`."""
        claims = self._tokens.verify(token)
        key = {"user_id": claims.user_id, "session_id": claims.session_id}
        row = None
        if trust_replica:
            row = await self._database.read_row(FIND_CALLER, key)
        if row is None:
            # A replica may not have the session yet.
            row = await self._database.read_row(FIND_CALLER, key, trust_replica=False)
        if row is None:
            raise InvalidToken
        return Caller(
            id=row.id,
            roles=frozenset([row.role]),
            email=row.email,
            role=row.role,
            session_id=claims.session_id,
        )


async def refuse_late(session: AsyncSession, throttle: Throttle) -> None:
    """Raise `TooManyAttempts` if other attempts have failed while this password was checked.

    So parallel guesses have no advantage. A right guess that comes too late counts as a failure.
    The count is committed before the error is raised.
    """
    if wait := await throttle.check(session):
        await throttle.count(session)
        await session.commit()
        raise TooManyAttempts(wait)

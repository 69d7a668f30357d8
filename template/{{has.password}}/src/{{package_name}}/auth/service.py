from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from pydantic import Secret
from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.exc import IntegrityError

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
    count_account,
    count_change,
    count_device,
    count_networks,
)

# Built once, since they run with every authenticated request and every log-in.
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
    """What OAuth2 clients understand: `error` is one of the words of RFC 6749 §5.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description, error=error, error_description=description)


class Device(Protocol):
    """Where a client keeps its device token, from one log-in to the next."""

    @property
    def token(self) -> str: ...

    def remember(self, token: str) -> None: ...


class AuthService:
    """Opens its own short transactions: none waits while a password is hashed, and what an attack
    has set off is committed although the attacker is answered with an error.
    """

    def __init__(self, database: Database, auth: Auth, audit: Audit = INTERNAL) -> None:
        self._database = database
        self._passwords = auth.passwords
        self._tokens = auth.tokens
        self._settings = auth.settings
        self._audit = audit

    async def sign_up(self, new: UserCreate) -> User:
        """Say when an address is taken, since nobody is asked by mail, but not many times."""
        throttle = Throttle(*count_networks(SIGN_UP, "sign-up", self._audit.client.network))
        with self._recording_refusal("sign_up"):
            async with self._database.write.begin() as session:
                wait = await throttle.count(session)
            if wait:
                raise TooManyAttempts(wait)
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
            raise Conflict("There is an account with this email address.") from error
        return user

    async def grant_token(self, request: TokenRequest, device: Device) -> TokenRead:
        match request.grant_type:
            case "password":
                return await self._log_in(request, device)
            case "refresh_token":
                return await self._refresh(request)
            case "":
                raise TokenError("invalid_request", "The grant_type is missing.")
        description = "The grant_type should be password or refresh_token."
        raise TokenError("unsupported_grant_type", description)

    async def _log_in(self, request: TokenRequest, device: Device) -> TokenRead:
        if not request.username or not request.password.get_secret_value():
            raise TokenError("invalid_request", "The username or the password is missing.")
        try:
            email = normalize_email(request.username)
        except ValueError:
            email = ""  # which no account has
        for _ in range(3):
            account = await self._find_account(email)
            throttle = self._make_throttle(email or request.username, account, device)
            with self._recording_refusal("login", account):
                checked = await self._check_password("login", account, request.password, throttle)
                if checked is None:
                    break
                tokens = await self._start_session(checked, request.password, throttle)
            if tokens:
                device.remember(self._tokens.issue_device_token(checked.id))
                return tokens
            # The account has changed while its password was checked, which takes a while.
        raise TokenError("invalid_grant", "The email address or the password is wrong.")

    def _make_throttle(self, name: str, account: Account | None, device: Device) -> Throttle:
        known = self._tokens.verify_device_token(device.token)
        if known and account and known.user_id == account.id:
            return Throttle(count_device(known.token_id))
        network = self._audit.client.network
        return Throttle(count_account(name), *count_networks(NETWORK, "log-in", network))

    async def _find_account(self, email: str) -> Account | None:
        """Read it on the writer: a replica may not know a new account yet."""
        return await self._database.read_row(FIND_ACCOUNT, {"email": email}, trust_replica=False)

    async def _check_password(
        self, event: Event, account: Account | None, password: Secret[str], throttle: Throttle
    ) -> Account | None:
        """Return the account if the password is right; take the same time if there is none."""
        async with self._database.write.begin() as session:
            await throttle.check(session)
        hashed = account.password_hash if account and account.is_active else None
        if await self._passwords.verify(password, hashed):
            return account
        async with self._database.write.begin() as session:
            wait = await throttle.count(session)
        if wait:
            raise TooManyAttempts(wait)
        if account is None:
            self._audit.record_failure(event, "unknown account")
        else:
            reason = "wrong password" if account.is_active else "account deactivated"
            self._audit.record_failure(event, reason, subject=account.id)
        return None

    async def _start_session(
        self, account: Account, password: Secret[str], throttle: Throttle
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
            # Others may have failed meanwhile: of many guesses at once, no more are answered than
            # of as many in a row.
            await throttle.check(session)
            await throttle.reset(session)
            await Throttle(count_account(user.email), count_change(user.id)).reset(session)
            user.password_hash = hashed
            grant = await sessions.start(session, audit, user.id, self._settings)
            session_id = str(grant.session.id)
            audit.record_on_commit(session, "login", subject=user.id, session_id=session_id)
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
        async with self._database.write.begin() as session:
            grant = await sessions.rotate(session, self._audit, token, self._settings)
        if grant is None:
            raise TokenError("invalid_grant", "The refresh token is not valid.")
        return self._tokens.issue(grant)

    async def revoke(self, request: RevocationRequest) -> None:
        """End the session of a token of either kind; one that is not valid has none (RFC 7009)."""
        token = request.token.get_secret_value()
        if not token:
            raise TokenError("invalid_request", "The token is missing.")
        try:
            condition = UserSession.id == self._tokens.verify(token).session_id
        except InvalidToken:
            condition = sessions.has_token(token)
        async with self._database.write.begin() as session:
            await sessions.end(session, self._audit, "logged out", condition)

    async def change_password(self, user: Caller, change: PasswordChange) -> None:
        """End every session, too, and so every access token."""
        try:
            check_words(change.new_password.get_secret_value(), user.email)
        except ValueError as error:
            raise Unprocessable(f"The new password {error}.") from None
        account = await self._find_account(user.email)
        throttle = Throttle(count_change(user.id))
        with self._recording_refusal("password_change", account):
            account = await self._check_password(
                "password_change", account, change.current_password, throttle
            )
        if account is None:
            raise Forbidden("The current password is wrong.")
        hashed = await self._passwords.hash(change.new_password)
        statement = update(User).where(User.id == user.id, User.is_active)
        statement = statement.where(User.password_hash == account.password_hash)
        async with self._database.write.begin() as session:
            changed = await session.scalar(
                statement.values(password_hash=hashed).returning(User.id)
            )
            if changed is None:
                raise Conflict("The password was changed meanwhile.")
            await throttle.reset(session)
            audit = replace(self._audit, actor=user.id)
            audit.record_on_commit(session, "password_change", subject=user.id)
            mine = UserSession.user_id == user.id
            await sessions.end(session, audit, "password changed", mine)

    async def identify(self, token: str, *, trust_replica: bool = False) -> Caller:
        """Return the active user whose access token this is, or raise `InvalidToken`."""
        claims = self._tokens.verify(token)
        key = {"user_id": claims.user_id, "session_id": claims.session_id}
        row = None
        if trust_replica:
            row = await self._database.read_row(FIND_CALLER, key)
        if row is None:
            # A replica that lags behind may not know the session yet.
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

from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from pydantic import Secret
from sqlalchemy import Row, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from ..database import Database
from ..errors import BadRequest, Conflict, Forbidden
from . import sessions
from .bearer import InvalidToken
from .models import User, UserSession
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
from .throttle import Throttle

# Built once, since they run with every authenticated request and every log-in.
FIND_CALLER = (
    select(User.id, User.email, User.role)
    .join(UserSession)
    .where(User.id == bindparam("user_id"), UserSession.id == bindparam("session_id"))
    .where(User.is_active)
)
FIND_PASSWORD = select(User.id, User.password_hash).where(
    User.email == bindparam("email"), User.is_active
)


class TokenError(BadRequest):
    """What OAuth2 clients understand: `error` is one of the words of RFC 6749 §5.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description, error=error, error_description=description)


class AuthService:
    """Opens its own short transactions: none waits while a password is hashed, and what an attack
    has set off is committed although the attacker is answered with an error.
    """

    def __init__(self, database: Database, auth: Auth) -> None:
        self._database = database
        self._passwords = auth.passwords
        self._tokens = auth.tokens
        self._settings = auth.settings

    async def sign_up(self, new: UserCreate, network: str) -> User:
        """Tell that an address is taken, since nobody is asked by mail, but not many times."""
        throttle = Throttle(network)
        async with self._database.write.begin() as session:
            await throttle.check(session)
        try:
            return await self.add_user(new, throttle=throttle)
        except Conflict:
            async with self._database.write.begin() as session:
                await throttle.fail(session)
            raise

    async def add_user(
        self, new: UserCreate, role: Role = "user", throttle: Throttle | None = None
    ) -> User:
        hashed = await self._passwords.hash(new.password)
        user = User(email=new.email, password_hash=hashed, role=role)
        try:
            async with self._database.write.begin() as session:
                if throttle:
                    await throttle.check(session)
                session.add(user)
        except IntegrityError as error:
            raise Conflict("There is an account with this email address.") from error
        return user

    async def grant_token(self, request: TokenRequest, network: str) -> TokenRead:
        match request.grant_type:
            case "password":
                return await self._log_in(request, network)
            case "refresh_token":
                return await self._refresh(request)
            case "":
                raise TokenError("invalid_request", "The grant_type is missing.")
        description = "The grant_type should be password or refresh_token."
        raise TokenError("unsupported_grant_type", description)

    async def _log_in(self, request: TokenRequest, network: str) -> TokenRead:
        if not request.username or not request.password.get_secret_value():
            raise TokenError("invalid_request", "The username or the password is missing.")
        try:
            email = normalize_email(request.username)
        except ValueError:
            email = ""  # which no account has
        throttle = Throttle(network, email)
        account = await self._check_password(email, request.password, throttle)
        if account is None:
            raise TokenError("invalid_grant", "The email address or the password is wrong.")
        hashed = account.password_hash
        if self._passwords.is_outdated(hashed):
            hashed = await self._passwords.hash(request.password)
        async with self._database.write.begin() as session:
            # The account may have changed while its password was checked.
            same = select(User).where(User.password_hash == account.password_hash, User.is_active)
            same = same.where(User.id == account.id).with_for_update(key_share=True)
            user = await session.scalar(same)
            if user:
                user.password_hash = hashed
                await throttle.succeed(session)
                await sessions.delete_expired(session, limit=100)
                lifetime = timedelta(seconds=self._settings.refresh_token_lifetime)
                return self._tokens.issue(await sessions.start(session, user.id, lifetime))
        return await self._log_in(request, network)

    async def _check_password(
        self, email: str, password: Secret[str], throttle: Throttle
    ) -> Row[UUID, str] | None:
        """Return the account if the password is right; take the same time if there is none."""
        # On the writer: a reader that lags behind may not know a new account yet.
        async with self._database.write.begin() as session:
            await throttle.check(session)
            account = (await session.execute(FIND_PASSWORD, {"email": email})).one_or_none()
        hashed = account.password_hash if account else None
        if await self._passwords.verify(password, hashed):
            return account
        async with self._database.write.begin() as session:
            await throttle.fail(session)
        return None

    async def _refresh(self, request: TokenRequest) -> TokenRead:
        token = request.refresh_token.get_secret_value()
        if not token:
            raise TokenError("invalid_request", "The refresh_token is missing.")
        async with self._database.write.begin() as session:
            grant = await sessions.rotate(session, token)
        if grant is None:
            raise TokenError("invalid_grant", "The refresh token is not valid.")
        return self._tokens.issue(grant)

    async def revoke(self, request: RevocationRequest) -> None:
        """End the session of a token of either kind; one that is not valid has none (RFC 7009)."""
        token = request.token.get_secret_value()
        if not token:
            raise TokenError("invalid_request", "The token is missing.")
        async with self._database.write.begin() as session:
            if not await sessions.end_by_token(session, token):
                with suppress(InvalidToken):
                    await sessions.end(session, self._tokens.verify(token).session_id)

    async def change_password(self, user: Caller, change: PasswordChange, network: str) -> None:
        """End every session, too, and so every access token."""
        throttle = Throttle(network, user.email)
        account = await self._check_password(user.email, change.current_password, throttle)
        if account is None:
            raise Forbidden("The current password is wrong.")
        hashed = await self._passwords.hash(change.new_password)
        same = update(User).where(User.id == user.id, User.password_hash == account.password_hash)
        async with self._database.write.begin() as session:
            changed = await session.scalar(same.values(password_hash=hashed).returning(User.id))
            if changed is None:
                raise Conflict("The password was changed meanwhile.")
            await sessions.end_all(session, user.id)
            await throttle.succeed(session)

    async def identify(self, token: str) -> Caller:
        """Return the active user whose access token this is, or raise `InvalidToken`."""
        claims = self._tokens.verify(token)
        key = {"user_id": claims.user_id, "session_id": claims.session_id}
        found = await self._database.read_row(FIND_CALLER, key)
        if found is None:
            # A reader that lags behind may not know the session yet.
            async with self._database.write() as session:
                found = (await session.execute(FIND_CALLER, key)).one_or_none()
        if found is None:
            raise InvalidToken
        return Caller(
            id=found.id, roles=frozenset([found.role]), email=found.email, role=found.role
        )

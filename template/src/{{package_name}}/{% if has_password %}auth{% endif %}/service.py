from http import HTTPStatus
from uuid import UUID

from sqlalchemy import Row, bindparam, select
from sqlalchemy.exc import IntegrityError

from ..database import Database
from ..errors import AppError, Conflict
from .bearer import InvalidToken
from .models import User
from .passwords import Passwords
from .schemas import Caller, Role, TokenRead, TokenRequest, UserCreate, normalize_email
from .tokens import Tokens

# Built once, since they run with every authenticated request and every log-in.
FIND_CALLER = select(User.id, User.email, User.role).where(
    User.id == bindparam("id"), User.is_active
)
FIND_PASSWORD = select(User.id, User.password_hash).where(
    User.email == bindparam("email"), User.is_active
)


class TokenError(AppError):
    """What OAuth2 clients understand: `error` is one of the words of RFC 6749 §5.2."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description, error=error, error_description=description)


class AuthService:
    """Opens its own short transactions, so that none waits while a password is hashed."""

    def __init__(self, database: Database, passwords: Passwords, tokens: Tokens) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens

    async def sign_up(self, new: UserCreate, role: Role = "user") -> User:
        hashed = await self._passwords.hash(new.password)
        user = User(email=new.email, password_hash=hashed, role=role)
        try:
            async with self._database.write() as session, session.begin():
                session.add(user)
        except IntegrityError as error:
            raise Conflict("There is an account with this email address.") from error
        return user

    async def grant_token(self, request: TokenRequest) -> TokenRead:
        if not request.grant_type:
            raise TokenError("invalid_request", "The grant_type is missing.")
        if request.grant_type != "password":
            raise TokenError("unsupported_grant_type", "The grant_type should be password.")
        if not request.username or not request.password.get_secret_value():
            raise TokenError("invalid_request", "The username or the password is missing.")
        found = await self._find_password(request.username)
        hashed = found.password_hash if found else None
        if not await self._passwords.verify(request.password, hashed) or not found:
            raise TokenError("invalid_grant", "The email address or the password is wrong.")
        return self._tokens.issue(found.id)

    async def _find_password(self, username: str) -> Row[UUID, str] | None:
        try:
            email = normalize_email(username)
        except ValueError:
            return None
        # On the writer: a reader that lags behind may not know a new account yet.
        async with self._database.write() as session:
            return (await session.execute(FIND_PASSWORD, {"email": email})).one_or_none()

    async def identify(self, token: str) -> Caller:
        """Return the active user whose access token this is, or raise `InvalidToken`."""
        user_id = self._tokens.verify(token)
        async with self._database.connect() as connection:
            found = (await connection.execute(FIND_CALLER, {"id": user_id})).one_or_none()
        if found is None:
            raise InvalidToken
        return Caller(found.id, found.email, found.role)

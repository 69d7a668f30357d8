from hashlib import sha256
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2PasswordBearer

from ..dependencies import ClientAddress as ClientAddress  # for code that imports it from here
from ..dependencies import ClientNetwork, SessionDep
from ..errors import Forbidden
from .audit import Audit, Client
from .bearer import read_token
from .principal import Principal
from .schemas import Caller, Role
from .service import AuthService
from .sessions import SessionService
from .state import AuthConnection
from .tokens import DEVICE_LIFETIME, Claims
from .users import UserService


class PasswordBearer(OAuth2PasswordBearer):
    """Stricter than its base, which takes the first of several headers."""

    async def __call__(self, request: HTTPConnection) -> str | None:
        token = read_token(request.headers)
        if token is None and self.auto_error:
            raise self.make_not_authenticated_error()
        return token


TOKEN_URL = "v1/auth/token"  # noqa: S105
BearerToken = Annotated[str, Depends(PasswordBearer(TOKEN_URL))]
OptionalToken = Annotated[str | None, Depends(PasswordBearer(TOKEN_URL, auto_error=False))]


async def get_client(
    connection: HTTPConnection, address: ClientAddress, network: ClientNetwork
) -> Client:
    return Client(address, network, connection.headers.get("User-Agent", ""))


ClientDep = Annotated[Client, Depends(get_client)]


async def get_auth_service(connection: AuthConnection, client: ClientDep) -> AuthService:
    return AuthService(connection.state["database"], connection.state["auth"], Audit(client))


AuthServiceDep = Annotated[AuthService, Depends(get_auth_service)]


class DeviceCookies:
    """Keep the device tokens, one per account; see `throttle.py`.

    They have no Path attribute, so a browser sends them only to paths below that of the login:
    /v1/auth, with the prefix of a proxy if there is one.
    """

    def __init__(self, connection: HTTPConnection, response: Response) -> None:
        self._connection = connection
        self._response = response

    def get(self, user_id: UUID) -> str:
        return self._connection.cookies.get(name_cookie(user_id), "")

    def set(self, user_id: UUID, token: str) -> None:
        self._response.set_cookie(
            name_cookie(user_id),
            token,
            max_age=int(DEVICE_LIFETIME.total_seconds()),
            path=None,
            secure=self._connection.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def name_cookie(user_id: UUID) -> str:
    return f"device_{sha256(user_id.bytes).hexdigest()[:8]}"


DevicesDep = Annotated[DeviceCookies, Depends()]


def is_read(connection: AuthConnection) -> bool:
    return connection.scope.get("method") in {"GET", "HEAD"}


async def get_current_user(
    connection: AuthConnection, auth: AuthServiceDep, token: BearerToken
) -> Caller:
    """Trust a replica for GET and HEAD only: it may not know yet that a session has ended."""
    return await auth.identify(token, trust_replica=is_read(connection))


CurrentUser = Annotated[Caller, Depends(get_current_user)]
# The same caller, for code that does not depend on the fields of a user.
CurrentPrincipal = Annotated[Principal, Depends(get_current_user)]


async def get_optional_user(
    connection: AuthConnection, auth: AuthServiceDep, token: OptionalToken
) -> Caller | None:
    return await get_current_user(connection, auth, token) if token is not None else None


# None for a request without a token; one that is not valid is refused nevertheless.
OptionalUser = Annotated[Caller | None, Depends(get_optional_user)]
OptionalPrincipal = Annotated[Principal | None, Depends(get_optional_user)]


async def get_token_claims(connection: AuthConnection, token: BearerToken) -> Claims:
    return connection.state["auth"].tokens.verify(token)


# For endpoints that need no row: they accept a token until it expires, even if its session has
# ended or its user has been deactivated.
TokenClaims = Annotated[Claims, Depends(get_token_claims)]


async def get_fresh_user(
    connection: AuthConnection, auth: AuthServiceDep, token: BearerToken, user: CurrentUser
) -> Caller:
    """Return the caller from the writer, even for GET: a replica may still have a revoked role."""
    return await auth.identify(token) if is_read(connection) else user


FreshUser = Annotated[Caller, Depends(get_fresh_user)]


class RequireRole:
    """The principal, if it has the role: `Depends(RequireRole("admin"))`."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, principal: FreshUser) -> Principal:
        if self.role not in principal.roles:
            raise Forbidden(f"This is for the role {self.role}.")
        return principal


async def get_admin(user: FreshUser) -> Caller:
    await RequireRole("admin")(user)
    return user


AdminUser = Annotated[Caller, Depends(get_admin)]


async def get_user_service(session: SessionDep, admin: AdminUser, client: ClientDep) -> UserService:
    return UserService(session, admin, Audit(client, admin.id))


UserServiceDep = Annotated[UserService, Depends(get_user_service)]


async def get_session_service(
    session: SessionDep, user: CurrentUser, client: ClientDep
) -> SessionService:
    return SessionService(session, user, Audit(client, user.id))


SessionServiceDep = Annotated[SessionService, Depends(get_session_service)]

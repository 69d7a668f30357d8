from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2PasswordBearer

from ..dependencies import ClientAddress as ClientAddress  # for code that imports it from here
from ..dependencies import SessionDep
from ..errors import Forbidden
from .bearer import read_token
from .principal import Principal
from .schemas import Caller, Role
from .service import AuthService
from .state import AuthConnection
from .tokens import Claims
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


async def get_auth_service(connection: AuthConnection) -> AuthService:
    return AuthService(connection.state["database"], connection.state["auth"])


AuthServiceDep = Annotated[AuthService, Depends(get_auth_service)]


async def get_current_user(auth: AuthServiceDep, token: BearerToken) -> Caller:
    return await auth.identify(token)


CurrentUser = Annotated[Caller, Depends(get_current_user)]
# The same caller, for what serves others than users, too.
CurrentPrincipal = Annotated[Principal, Depends(get_current_user)]


async def get_optional_user(auth: AuthServiceDep, token: OptionalToken) -> Caller | None:
    return await auth.identify(token) if token is not None else None


# None for a request without a token; one that is not valid is refused nevertheless.
OptionalUser = Annotated[Caller | None, Depends(get_optional_user)]
OptionalPrincipal = Annotated[Principal | None, Depends(get_optional_user)]


async def get_token_claims(connection: AuthConnection, token: BearerToken) -> Claims:
    return connection.state["auth"].tokens.verify(token)


# For endpoints that need no row: a token is good for them until it expires, whatever happened to
# its session and its user since.
TokenClaims = Annotated[Claims, Depends(get_token_claims)]


class RequireRole:
    """The principal, if it has the role: `Depends(RequireRole("admin"))`."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, principal: CurrentPrincipal) -> Principal:
        if self.role not in principal.roles:
            raise Forbidden(f"This is for the role {self.role}.")
        return principal


async def get_admin(user: CurrentUser) -> Caller:
    await RequireRole("admin")(user)
    return user


AdminUser = Annotated[Caller, Depends(get_admin)]


async def get_user_service(session: SessionDep, admin: AdminUser) -> UserService:
    return UserService(session, admin)


UserServiceDep = Annotated[UserService, Depends(get_user_service)]

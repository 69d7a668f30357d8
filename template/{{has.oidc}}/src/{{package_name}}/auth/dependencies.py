from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import OpenIdConnect

from ..errors import Forbidden
from .bearer import read_token
from .principal import Principal
from .state import AuthConnection


class ProviderBearer(OpenIdConnect):
    async def __call__(self, request: HTTPConnection) -> str | None:
        token = read_token(request.headers)
        if token is None and self.auto_error:
            raise self.make_not_authenticated_error()
        return token


# The URL depends on the settings: `add_auth` writes it into the OpenAPI document.
bearer = ProviderBearer(openIdConnectUrl="/")
optional_bearer = ProviderBearer(openIdConnectUrl="/", auto_error=False)

BearerToken = Annotated[str, Depends(bearer)]
OptionalToken = Annotated[str | None, Depends(optional_bearer)]


async def get_principal(connection: AuthConnection, token: BearerToken) -> Principal:
    return await connection.state["auth"].tokens.verify(token)


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]


async def get_optional_principal(
    connection: AuthConnection, token: OptionalToken
) -> Principal | None:
    return await connection.state["auth"].tokens.verify(token) if token is not None else None


# None for a request without a token. A token that is not valid is still refused.
OptionalPrincipal = Annotated[Principal | None, Depends(get_optional_principal)]


class InsufficientScope(Forbidden):
    type = "urn:problem-type:insufficient-scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"The access token lacks the scope {scope}.")
        # RFC 6750, section 3.1.
        self.headers = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}


class RequireScope:
    """Require a scope of the access token: `Depends(RequireScope("items:write"))`."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, principal: CurrentPrincipal) -> Principal:
        if self.scope not in principal.scopes:
            raise InsufficientScope(self.scope)
        return principal


class RequireRole:
    """Require a role of the principal: `Depends(RequireRole("admin"))`."""

    def __init__(self, role: str) -> None:
        self.role = role

    async def __call__(self, principal: CurrentPrincipal) -> Principal:
        if self.role not in principal.roles:
            raise Forbidden(f"This is for the role {self.role}.")
        return principal

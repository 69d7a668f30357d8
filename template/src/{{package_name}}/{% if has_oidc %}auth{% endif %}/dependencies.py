from typing import Annotated

from fastapi import Depends, HTTPException, status
from fastapi.requests import HTTPConnection
from fastapi.security import OpenIdConnect

from ..lifespan import Connection
from .bearer import Forbidden, read_token
from .schemas import Principal


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
OptionalBearerToken = Annotated[str | None, Depends(optional_bearer)]


async def get_principal(connection: Connection, token: BearerToken) -> Principal:
    return await connection.state["tokens"].verify(token)


CurrentPrincipal = Annotated[Principal, Depends(get_principal)]


async def get_optional_principal(
    connection: Connection, token: OptionalBearerToken
) -> Principal | None:
    return None if token is None else await connection.state["tokens"].verify(token)


# None without a token; a token that is not valid is refused here, too.
OptionalPrincipal = Annotated[Principal | None, Depends(get_optional_principal)]


class RequireScope:
    """`dependencies=[Depends(RequireScope("items:write"))]`, for an endpoint or a router."""

    def __init__(self, scope: str) -> None:
        self._scope = scope

    async def __call__(self, principal: CurrentPrincipal) -> None:
        if self._scope not in principal.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{self._scope}"'  # RFC 6750
            raise HTTPException(
                status.HTTP_403_FORBIDDEN,
                f"The access token lacks the scope {self._scope}.",
                {"WWW-Authenticate": challenge},
            )


class RequireRole:
    """`dependencies=[Depends(RequireRole("admin"))]`, for an endpoint or a router."""

    def __init__(self, role: str) -> None:
        self._role = role

    async def __call__(self, principal: CurrentPrincipal) -> None:
        if self._role not in principal.roles:
            raise Forbidden(f"This needs the role {self._role}.")

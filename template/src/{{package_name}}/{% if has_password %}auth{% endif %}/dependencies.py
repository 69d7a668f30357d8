from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2PasswordBearer

from ..lifespan import Connection
from .bearer import read_token
from .schemas import Caller
from .service import AuthService


class PasswordBearer(OAuth2PasswordBearer):
    async def __call__(self, request: HTTPConnection) -> str | None:
        token = read_token(request.headers)
        if token is None and self.auto_error:
            raise self.make_not_authenticated_error()
        return token


BearerToken = Annotated[str, Depends(PasswordBearer(tokenUrl="v1/auth/token"))]


async def get_auth_service(connection: Connection) -> AuthService:
    state = connection.state
    return AuthService(state["database"], state["passwords"], state["tokens"])


AuthServiceDep = Annotated[AuthService, Depends(get_auth_service)]


async def get_current_user(auth: AuthServiceDep, token: BearerToken) -> Caller:
    return await auth.identify(token)


CurrentUser = Annotated[Caller, Depends(get_current_user)]

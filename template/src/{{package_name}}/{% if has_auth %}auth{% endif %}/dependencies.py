from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer

from ..dependencies import DatabaseDep, SettingsDep
from ..lifespan import Connection
from .passwords import Passwords
from .schemas import Caller
from .service import AuthService
from .tokens import Tokens

BearerToken = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="v1/auth/token"))]


async def get_passwords(connection: Connection) -> Passwords:
    return connection.state["passwords"]


PasswordsDep = Annotated[Passwords, Depends(get_passwords)]


async def get_auth_service(
    settings: SettingsDep, database: DatabaseDep, passwords: PasswordsDep
) -> AuthService:
    return AuthService(database, passwords, Tokens(settings.auth))


AuthServiceDep = Annotated[AuthService, Depends(get_auth_service)]


async def get_current_user(token: BearerToken, auth: AuthServiceDep) -> Caller:
    return await auth.identify(token)


CurrentUser = Annotated[Caller, Depends(get_current_user)]

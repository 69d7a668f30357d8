from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, Form, Response, status

from ..dependencies import CREATED, LocateDep
from ..pagination import Page, PageQuery, PageRead
from ..routing import Router, public
from .dependencies import AuthServiceDep, CurrentUser, DevicesDep, SessionServiceDep, UserServiceDep
from .models import User
from .schemas import (
    AccountRead,
    AccountUpdate,
    Caller,
    PasswordChange,
    RevocationRequest,
    SessionRead,
    TokenProblem,
    TokenRead,
    TokenRequest,
    UserCreate,
    UserRead,
)
from .settings import AuthSettings

router = Router(prefix="/auth", tags=["auth"])
sign_up_router = Router(prefix="/auth", tags=["auth"])

TOKEN_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": TokenProblem},
    429: {"model": TokenProblem},
}


@sign_up_router.post(
    "/users", response_model=UserRead, status_code=status.HTTP_201_CREATED, responses=CREATED
)
@public
async def sign_up(auth: AuthServiceDep, locate: LocateDep, new: UserCreate) -> User:
    return locate(await auth.sign_up(new))


@router.get("/users", response_model=PageRead[AccountRead])
async def list_users(users: UserServiceDep, page: PageQuery) -> Page[User]:
    """List all accounts, in the order in which they were created. For administrators."""
    return await users.list(page)


@router.get("/users/{user_id}", response_model=AccountRead)
async def get_user(users: UserServiceDep, user_id: UUID) -> User:
    return await users.get(user_id)


@router.patch("/users/{user_id}", response_model=AccountRead)
async def update_user(users: UserServiceDep, user_id: UUID, changes: AccountUpdate) -> User:
    return await users.update(user_id, changes)


@router.post("/token", responses=TOKEN_ERRORS)
@public
async def grant_token(
    auth: AuthServiceDep, devices: DevicesDep, request: Annotated[TokenRequest, Form()]
) -> TokenRead:
    """Get tokens for an email address (`username`) and password, or a refresh token (RFC 6749)."""
    return await auth.grant_token(request, devices)


@router.post("/revoke", response_class=Response, responses=TOKEN_ERRORS)
@public
async def revoke_token(auth: AuthServiceDep, request: Annotated[RevocationRequest, Form()]) -> None:
    """Log out: end the session of a refresh token, or of an unexpired access token (RFC 7009)."""
    return await auth.revoke(request)


@router.get("/sessions", response_model=PageRead[SessionRead])
async def list_sessions(sessions: SessionServiceDep, page: PageQuery) -> Page[SessionRead]:
    """List the login sessions of the caller, in the order in which they were created."""
    return await sessions.list(page)


@router.delete("/sessions/{session_id}", status_code=status.HTTP_204_NO_CONTENT)
async def end_session(sessions: SessionServiceDep, session_id: UUID) -> None:
    return await sessions.end(session_id)


@router.get("/me", response_model=UserRead)
async def get_me(user: CurrentUser) -> Caller:
    return user


@router.post("/password", status_code=status.HTTP_204_NO_CONTENT)
async def change_password(auth: AuthServiceDep, user: CurrentUser, change: PasswordChange) -> None:
    """Change the password, and log out everywhere."""
    return await auth.change_password(user, change)


def add_auth(app: FastAPI, settings: AuthSettings) -> None:
    app.include_router(router, prefix="/v1")
    if settings.sign_up == "open":
        app.include_router(sign_up_router, prefix="/v1")

from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Form, status

from ..dependencies import ClientNetwork
from ..pagination import Page, PageQuery, PageRead
from ..routing import Router, public
from .dependencies import AuthServiceDep, CurrentUser, UserServiceDep
from .models import User
from .schemas import (
    AccountRead,
    AccountUpdate,
    Caller,
    PasswordChange,
    RevocationRequest,
    TokenRead,
    TokenRequest,
    UserCreate,
    UserRead,
)
from .settings import AuthSettings

router = Router(prefix="/auth", tags=["auth"])
sign_up_router = Router(prefix="/auth", tags=["auth"])


@sign_up_router.post("/users", response_model=UserRead, status_code=status.HTTP_201_CREATED)
@public
async def sign_up(auth: AuthServiceDep, network: ClientNetwork, new: UserCreate) -> User:
    return await auth.sign_up(new, network)


@router.get("/users", response_model=PageRead[AccountRead])
async def list_users(users: UserServiceDep, page: PageQuery) -> Page[User]:
    return await users.list(page)


@router.patch("/users/{user_id}", response_model=AccountRead)
async def update_user(users: UserServiceDep, user_id: UUID, changes: AccountUpdate) -> User:
    return await users.update(user_id, changes)


@router.post("/token")
@public
async def grant_token(
    auth: AuthServiceDep, network: ClientNetwork, request: Annotated[TokenRequest, Form()]
) -> TokenRead:
    """Exchange an email address, as `username`, and a password, or a refresh token (RFC 6749)."""
    return await auth.grant_token(request, network)


@router.post("/revoke")
@public
async def revoke_token(auth: AuthServiceDep, request: Annotated[RevocationRequest, Form()]) -> None:
    """Log out: end the session of a refresh token, or of an access token in its time (RFC 7009)."""
    return await auth.revoke(request)


@router.get("/me", response_model=UserRead)
async def get_me(user: CurrentUser) -> Caller:
    return user


@router.post("/password", status_code=status.HTTP_204_NO_CONTENT)
async def change_password(
    auth: AuthServiceDep, user: CurrentUser, network: ClientNetwork, change: PasswordChange
) -> None:
    """Change the password, and log out everywhere."""
    return await auth.change_password(user, change, network)


def add_auth(app: FastAPI, settings: AuthSettings) -> None:
    app.include_router(router, prefix="/v1")
    if settings.sign_up == "open":
        app.include_router(sign_up_router, prefix="/v1")

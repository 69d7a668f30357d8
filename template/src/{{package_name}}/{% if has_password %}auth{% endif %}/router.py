from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, status

from ..settings import AuthSettings
from .dependencies import AuthServiceDep, CurrentUser
from .models import User
from .schemas import Caller, TokenRead, TokenRequest, UserCreate, UserRead

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post("/users", response_model=UserRead, status_code=status.HTTP_201_CREATED)
async def sign_up(auth: AuthServiceDep, new: UserCreate) -> User:
    return await auth.sign_up(new)


@router.post("/token")
async def grant_token(auth: AuthServiceDep, request: Annotated[TokenRequest, Form()]) -> TokenRead:
    """Exchange an email address, as `username`, and a password for an access token (RFC 6749)."""
    return await auth.grant_token(request)


@router.get("/me", response_model=UserRead)
async def get_me(user: CurrentUser) -> Caller:
    return user


def add_auth(app: FastAPI, settings: AuthSettings) -> None:
    app.include_router(router, prefix="/v1")

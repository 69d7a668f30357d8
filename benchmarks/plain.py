"""The same service as the documentation of FastAPI and SQLAlchemy writes it.

One pool of the default size, one session per request, entities everywhere.
"""

import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import jwt
from argon2 import PasswordHasher
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

SECRET = os.environ["AUTH_SECRET"]
ISSUER = AUDIENCE = "my-service"
REQUIRED = {"require": ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]}
ACCESS = timedelta(seconds=int(os.environ["AUTH_ACCESS_TOKEN_LIFETIME"]))
REFRESH = timedelta(days=30)

app = FastAPI()
hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}  # noqa: RUF012

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class User(Base):
    __tablename__ = "users"

    email: Mapped[str]
    password_hash: Mapped[str]
    role: Mapped[str]
    is_active: Mapped[bool]


class UserSession(Base):
    __tablename__ = "user_sessions"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    family_hash: Mapped[bytes]
    token_hash: Mapped[bytes]
    user_agent: Mapped[str]
    expires_at: Mapped[datetime]


class Item(Base):
    __tablename__ = "items"

    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    description: Mapped[str]


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    role: Literal["user", "admin"]


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(default="", max_length=2000)


class ItemUpdate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=2000)


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str
    created_at: datetime
    updated_at: datetime


class ItemPage(BaseModel):
    items: list[ItemRead]
    next: UUID | None


async def get_session() -> AsyncGenerator[AsyncSession]:
    async with new_session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
Token = Annotated[str, Depends(OAuth2PasswordBearer("v1/auth/token"))]


async def get_claims(token: Token) -> dict[str, Any]:
    try:
        token_parts = jwt.decode_complete(
            token, SECRET, ["HS256"], REQUIRED, issuer=ISSUER, audience=AUDIENCE, leeway=10
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None
    if token_parts["header"].get("typ") != "at+jwt":
        raise HTTPException(401)
    return token_parts["payload"]


Claims = Annotated[dict[str, Any], Depends(get_claims)]


async def get_current_user(session: SessionDep, claims: Claims) -> User:
    query = select(User).join(UserSession).where(User.id == UUID(claims["sub"]), User.is_active)
    user = await session.scalar(query.where(UserSession.id == UUID(claims["sid"])))
    if user is None:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]


async def get_own_item(session: SessionDep, user: CurrentUser, item_id: UUID) -> Item:
    item = await session.get(Item, item_id)
    if item is None or item.owner_id != user.id:
        raise HTTPException(404)
    return item


OwnItem = Annotated[Item, Depends(get_own_item)]


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [
        {
            "field": ".".join(map(str, field["loc"])),
            "pointer": "/".join(["#", *map(str, field["loc"][1:])]),
            "detail": field["msg"],
        }
        for field in error.errors()
    ]
    problem = {
        "type": "urn:problem-type:invalid-request",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "The request is not valid.",
        "request_id": token_hex(16),
        "errors": errors,
    }
    return JSONResponse(problem, 422, media_type="application/problem+json")


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/claims")
async def read_claims(claims: Claims) -> dict[str, str]:
    return {"user_id": claims["sub"], "session_id": claims["sid"], "token_id": claims["jti"]}


@app.get("/v1/auth/me", response_model=UserRead)
async def read_me(user: CurrentUser) -> User:
    return user


@app.get("/v1/items", response_model=ItemPage)
async def list_items(
    session: SessionDep,
    user: CurrentUser,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> dict[str, Any]:
    query = select(Item).where(Item.owner_id == user.id).order_by(Item.id).limit(limit + 1)
    if after:
        query = query.where(Item.id > after)
    items = (await session.scalars(query)).all()
    return {"items": items[:limit], "next": items[limit - 1].id if len(items) > limit else None}


@app.post("/v1/items", response_model=ItemRead, status_code=201)
async def create_item(session: SessionDep, user: CurrentUser, new: ItemCreate) -> Item:
    item = Item(owner_id=user.id, **new.model_dump())
    session.add(item)
    await session.commit()
    return item


@app.get("/v1/items/{item_id}", response_model=ItemRead)  # noqa: FAST003
async def read_item(item: OwnItem) -> Item:
    return item


@app.patch("/v1/items/{item_id}", response_model=ItemRead)  # noqa: FAST003
async def update_item(session: SessionDep, item: OwnItem, changes: ItemUpdate) -> Item:
    for name, value in changes.model_dump(exclude_unset=True).items():
        setattr(item, name, value)
    await session.commit()
    return item


@app.post("/v1/auth/token")
async def log_in(
    session: SessionDep, form: Annotated[OAuth2PasswordRequestForm, Depends()]
) -> dict[str, str | int]:
    user = await session.scalar(select(User).where(User.email == form.username, User.is_active))
    if user is None:
        raise HTTPException(400)
    await run_in_threadpool(hasher.verify, user.password_hash, form.password)
    now = utc_now()
    parts = token_urlsafe(16), token_urlsafe(32)
    family, secret = (sha256(part.encode()).digest() for part in parts)
    login_session = UserSession(
        user_id=user.id,
        family_hash=family,
        token_hash=secret,
        user_agent="",
        expires_at=now + REFRESH,
    )
    session.add(login_session)
    await session.commit()
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "sid": str(login_session.id),
        "iat": now,
        "exp": now + ACCESS,
        "jti": str(uuid4()),
    }
    return {
        "access_token": jwt.encode(claims, SECRET, "HS256", {"typ": "at+jwt"}),
        "refresh_token": ".".join(parts),
        "token_type": "bearer",
        "expires_in": int(ACCESS.total_seconds()),
    }

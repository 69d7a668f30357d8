from datetime import datetime
from typing import Annotated
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from ..database import Base
from .schemas import Role


class User(Base):
    __tablename__ = "users"

    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[Role] = mapped_column(String(20), default="user")
    is_active: Mapped[bool] = mapped_column(default=True)


# The `id` of the principal to whom a row belongs.
OwnerId = Annotated[UUID, mapped_column(ForeignKey("users.id", ondelete="CASCADE"))]


class UserSession(Base):
    """From log-in to log-out: a family of refresh tokens, and the `sid` of its access tokens."""

    __tablename__ = "user_sessions"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class RefreshToken(Base):
    __tablename__ = "refresh_tokens"

    session_id: Mapped[UUID] = mapped_column(
        ForeignKey("user_sessions.id", ondelete="CASCADE"), index=True
    )
    # SHA-256: enough for what is random, and as long as it is.
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    used_at: Mapped[datetime | None]


class Attempts(Base):
    """How often somebody tried to log in, and failed; see `throttle.py`."""

    __tablename__ = "attempts"

    key: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    failures: Mapped[int] = mapped_column(default=0)
    blocked_until: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

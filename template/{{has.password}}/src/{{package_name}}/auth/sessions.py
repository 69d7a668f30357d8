"""Sessions, from log-in to log-out: a refresh token works once and yields the next (RFC 9700).

They are functions in the transaction of their caller, who has to commit it also when there is an
error to raise: a session that a stolen token has ended must not come back.
"""

from datetime import timedelta
from hashlib import sha256
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import utc_now
from .models import Attempts, RefreshToken, User, UserSession

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class Grant(NamedTuple):
    """A session, and the only copy of its next refresh token."""

    session: UserSession
    refresh_token: str


async def start(session: AsyncSession, user_id: UUID, lifetime: timedelta) -> Grant:
    """Begin a session, which ends after `lifetime` however often it is refreshed."""
    started = UserSession(user_id=user_id, expires_at=utc_now() + lifetime)
    session.add(started)
    await session.flush()
    return await add_token(session, started)


async def add_token(session: AsyncSession, started: UserSession) -> Grant:
    token = token_urlsafe(32)
    session.add(RefreshToken(session_id=started.id, token_hash=hash_token(token)))
    await session.flush()
    return Grant(started, token)


async def rotate(session: AsyncSession, token: str) -> Grant | None:
    """Exchange a refresh token for the next one; None for one that is not valid.

    A used one ends its session: two have it, and nobody can tell who of them is the thief.
    """
    found = select(UserSession).join(RefreshToken).join(User)
    # The lock lets one request at a time see and change the tokens of a session.
    started = await session.scalar(
        found.where(RefreshToken.token_hash == hash_token(token), User.is_active).with_for_update(
            of=UserSession
        )
    )
    if started is None or started.expires_at <= utc_now():
        return None
    mine = select(RefreshToken).where(RefreshToken.token_hash == hash_token(token))
    used = (await session.scalars(mine)).one()
    if used.used_at:
        logger.warning("a refresh token came twice", user_id=str(started.user_id))
        await session.delete(started)
        return None
    used.used_at = utc_now()
    return await add_token(session, started)


async def end(session: AsyncSession, session_id: UUID) -> None:
    """End a session: its refresh tokens and its access tokens are worth nothing any more."""
    await session.execute(delete(UserSession).where(UserSession.id == session_id))


async def end_by_token(session: AsyncSession, token: str) -> bool:
    """End the session of a refresh token, if it is one."""
    mine = select(RefreshToken.session_id).where(RefreshToken.token_hash == hash_token(token))
    ended = delete(UserSession).where(UserSession.id.in_(mine)).returning(UserSession.id)
    return await session.scalar(ended) is not None


async def end_all(session: AsyncSession, user_id: UUID) -> None:
    await session.execute(delete(UserSession).where(UserSession.user_id == user_id))


async def delete_expired(session: AsyncSession, limit: int | None = None) -> int:
    """Delete what has expired, `limit` rows of each kind at most. Return how many there were."""
    deleted = 0
    for model in (UserSession, Attempts):
        # What another request uses at the moment is left to the next time.
        expired = select(model.id).where(model.expires_at < utc_now()).limit(limit)
        free = expired.with_for_update(skip_locked=True)
        gone = await session.scalars(delete(model).where(model.id.in_(free)).returning(model.id))
        deleted += len(gone.all())
    return deleted


def hash_token(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()

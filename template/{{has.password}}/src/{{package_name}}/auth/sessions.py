"""Login sessions and their refresh tokens, each of which works once and yields the next (RFC 9700).

A refresh token has two parts. The first is the same for the whole session, the second is new each
time. So a token of which only the second part is wrong is one that was used before, however long
ago; and a session needs a single row, which is quickly found, changed and deleted.

The functions work in the transaction of their caller, who has to commit it also when there is an
error to raise: a session that a stolen token has ended must not come back.
"""

from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import Database, utc_now
from ..errors import NotFound
from ..pagination import Page, PageParameters
from .audit import INTERNAL, Audit
from .models import Attempts, User, UserSession
from .schemas import Caller, SessionRead
from .settings import AuthSettings
from .throttle import Throttle, TooManyAttempts, count_refresh

BATCH = 1000  # rows that one transaction deletes


class Grant(NamedTuple):
    """A login session, and the only copy of its next refresh token."""

    session: UserSession
    refresh_token: str


async def start(
    session: AsyncSession, audit: Audit, user_id: UUID, settings: AuthSettings
) -> Grant:
    """Begin a session. When there are too many, the one that was not used for longest ends."""
    family, secret = token_urlsafe(16), token_urlsafe(32)
    now = utc_now()
    started = UserSession(
        user_id=user_id,
        family_hash=hash_token(family),
        token_hash=hash_token(secret),
        user_agent=audit.client.user_agent[:200],
        created_at=now,
        expires_at=find_end(now, settings),
    )
    session.add(started)
    await session.flush()
    excess = select(UserSession.id).where(
        UserSession.user_id == user_id, UserSession.expires_at > now
    )
    excess = excess.order_by(UserSession.updated_at.desc()).offset(settings.max_sessions)
    await end(session, audit, "too many sessions", UserSession.id.in_(excess.limit(BATCH)))
    return Grant(started, f"{family}.{secret}")


def find_end(begun: datetime, settings: AuthSettings) -> datetime:
    """When a session that is used now ends, unless it is used again."""
    end = begun + timedelta(seconds=settings.refresh_token_lifetime)
    if settings.session_idle_timeout is None:
        return end
    return min(end, utc_now() + timedelta(seconds=settings.session_idle_timeout))


async def rotate(
    session: AsyncSession, audit: Audit, token: str, settings: AuthSettings
) -> Grant | None:
    """Exchange a refresh token for the next one; None for one that is not valid.

    A used one ends its session: two have it, and nobody can tell who of them is the thief. Raise
    `TooManyAttempts` for a session that is refreshed all the time.
    """
    family, _, secret = token.partition(".")
    # The lock lets one request at a time see and change the session.
    statement = (
        select(UserSession)
        .join(User)
        .where(has_token(token), User.is_active)
        .with_for_update(of=UserSession)
    )
    current = await session.scalar(statement)
    if current is None or current.expires_at <= utc_now():
        return None
    if not compare_digest(current.token_hash, hash_token(secret)):
        await end(session, audit, "refresh token used twice", UserSession.id == current.id)
        return None
    wait = await Throttle(count_refresh(current.id)).count(session)
    if wait:
        raise TooManyAttempts(wait)
    secret = token_urlsafe(32)
    current.token_hash = hash_token(secret)
    current.expires_at = find_end(current.created_at, settings)
    await session.flush()
    return Grant(current, f"{family}.{secret}")


def has_token(token: str) -> ColumnElement[bool]:
    """Select the session of a refresh token, also of one that was used before."""
    return UserSession.family_hash == hash_token(token.partition(".")[0])


async def end(
    session: AsyncSession, audit: Audit, reason: str, *conditions: ColumnElement[bool]
) -> int:
    """End sessions: their refresh tokens and access tokens are worth nothing any more.

    Return how many there were.
    """
    statement = delete(UserSession).where(*conditions)
    ended = await session.execute(statement.returning(UserSession.id, UserSession.user_id))
    rows = ended.all()
    for row in rows:
        audit.record_on_commit(
            session, "session_end", subject=row.user_id, session_id=str(row.id), reason=reason
        )
    return len(rows)


async def delete_expired(database: Database) -> int:
    """Delete expired sessions and counters, in short transactions. Return how many there were."""
    deleted = 0
    for delete_batch in (delete_expired_attempts, delete_expired_sessions):
        count = BATCH
        while count == BATCH:
            async with database.write.begin() as session:
                count = await delete_batch(session)
            deleted += count
    return deleted


async def delete_expired_attempts(session: AsyncSession) -> int:
    statement = delete(Attempts).where(Attempts.id.in_(select_expired(Attempts)))
    return len((await session.scalars(statement.returning(Attempts.id))).all())


async def delete_expired_sessions(session: AsyncSession) -> int:
    expired = UserSession.id.in_(select_expired(UserSession))
    return await end(session, INTERNAL, "expired", expired)


def select_expired(model: type[UserSession | Attempts]) -> Select[UUID]:
    """Leave what another request uses at the moment to the next time."""
    expired = select(model.id).where(model.expires_at < utc_now())
    return expired.limit(BATCH).with_for_update(skip_locked=True)


def hash_token(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()


class SessionService:
    """The login sessions of a user, for that user."""

    def __init__(self, session: AsyncSession, user: Caller, audit: Audit) -> None:
        self._session = session
        self._user = user
        self._audit = audit

    async def list(self, page: PageParameters) -> Page[SessionRead]:
        query = select(UserSession).order_by(UserSession.id).limit(page.limit + 1)
        query = query.where(
            UserSession.user_id == self._user.id, UserSession.expires_at > utc_now()
        )
        if page.after:
            query = query.where(UserSession.id > page.after)
        rows = [
            SessionRead(
                id=row.id,
                created_at=row.created_at,
                refreshed_at=row.updated_at,
                expires_at=row.expires_at,
                user_agent=row.user_agent,
                is_current=row.id == self._user.session_id,
            )
            for row in await self._session.scalars(query)
        ]
        return Page.of(rows, page.limit)

    async def end(self, session_id: UUID) -> None:
        mine = UserSession.id == session_id, UserSession.user_id == self._user.id
        if not await end(self._session, self._audit, "ended by its user", *mine):
            raise NotFound(f"You have no session {session_id}.")

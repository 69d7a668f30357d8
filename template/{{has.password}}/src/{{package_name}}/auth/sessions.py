"""Login sessions and their refresh tokens, which are rotated (RFC 9700 section 4.14).

A refresh token has two parts. The first one identifies the login session and never changes, the
second one is new after each use. A token with a known first part and a wrong second part was used
before. So a login session is a single row, however often its token is used.

`session` is a database session, with the transaction of the caller, who has to commit it before an
error is raised: otherwise a login session that was ended because of a stolen token would exist
again.
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
from .throttle import Throttle, TooManyAttempts, refresh_counter

BATCH = 1000  # rows that one transaction deletes


class Grant(NamedTuple):
    """A login session, and the only copy of its next refresh token."""

    login: UserSession
    refresh_token: str


async def start(
    session: AsyncSession, audit: Audit, user_id: UUID, settings: AuthSettings
) -> Grant:
    """Start a login session. If the user has too many, end the least recently used ones."""
    family, secret = token_urlsafe(16), token_urlsafe(32)
    now = utc_now()
    login = UserSession(
        user_id=user_id,
        family_hash=hash_token(family),
        token_hash=hash_token(secret),
        user_agent=audit.client.user_agent[:200],
        created_at=now,
        expires_at=find_end(now, settings),
    )
    session.add(login)
    await session.flush()
    excess = select(UserSession.id).where(
        UserSession.user_id == user_id, UserSession.expires_at > now
    )
    excess = excess.order_by(UserSession.updated_at.desc()).offset(settings.max_sessions)
    await end(session, audit, "too many sessions", UserSession.id.in_(excess.limit(BATCH)))
    return Grant(login, f"{family}.{secret}")


def find_end(created_at: datetime, settings: AuthSettings) -> datetime:
    """Return when a login session that is used now expires, unless it is used again."""
    end = created_at + timedelta(seconds=settings.refresh_token_lifetime)
    if settings.session_idle_timeout is None:
        return end
    return min(end, utc_now() + timedelta(seconds=settings.session_idle_timeout))


async def rotate(
    session: AsyncSession, audit: Audit, token: str, settings: AuthSettings
) -> Grant | None:
    """Exchange a refresh token for the next one, or return None if it is not valid.

    A token that was used before ends its login session, since it may be stolen. Raise
    `TooManyAttempts` if the login session is refreshed too often.
    """
    family, _, secret = token.partition(".")
    # The lock lets only the first of several parallel requests with one token rotate it.
    statement = (
        select(UserSession)
        .join(User)
        .where(has_token(token), User.is_active)
        .with_for_update(of=UserSession)
    )
    login = await session.scalar(statement)
    if login is None or login.expires_at <= utc_now():
        return None
    if not compare_digest(login.token_hash, hash_token(secret)):
        await end(session, audit, "refresh token used twice", UserSession.id == login.id)
        return None
    wait = await Throttle(refresh_counter(login.id)).count(session)
    if wait:
        raise TooManyAttempts(wait)
    secret = token_urlsafe(32)
    login.token_hash = hash_token(secret)
    login.expires_at = find_end(login.created_at, settings)
    await session.flush()
    return Grant(login, f"{family}.{secret}")


def has_token(token: str) -> ColumnElement[bool]:
    """Match the login session of a refresh token, also if the token was used before."""
    return UserSession.family_hash == hash_token(token.partition(".")[0])


async def end(
    session: AsyncSession, audit: Audit, reason: str, *conditions: ColumnElement[bool]
) -> int:
    """End login sessions, which revokes their tokens. Return how many."""
    statement = delete(UserSession).where(*conditions)
    result = await session.execute(statement.returning(UserSession.id, UserSession.user_id))
    rows = result.all()
    for row in rows:
        audit.record_on_commit(
            session, "session_end", subject=row.user_id, session_id=str(row.id), reason=reason
        )
    return len(rows)


async def delete_expired(database: Database) -> int:
    """Delete expired login sessions and counters in short transactions. Return how many."""
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
    """Skip rows that another transaction has locked: they are deleted the next time."""
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
        conditions = UserSession.id == session_id, UserSession.user_id == self._user.id
        if not await end(self._session, self._audit, "ended by its user", *conditions):
            raise NotFound(f"You have no session {session_id}.")

"""Tokens that are sent by mail. Whoever has one can read the mail of an address.

A request stores a row that says what the token is for. The token is made when the mail is sent:
256 random bits, of which the row gets the SHA-256. So nothing else ever contains it.

`session` has the transaction of the caller. A transaction that also locks the user does that first,
so that two of them cannot wait for each other.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import utc_now
from .models import EmailToken, User
from .schemas import Purpose
from .sessions import hash_token

REVERT: Purpose = "email_revert"
# The purpose, the address, the password's hash, and when it was requested.
Redeemed = Row[Purpose, str, str, datetime]


class Letter(NamedTuple):
    """A mail: a template of `mail/templates/` and its values."""

    email: str
    template: str
    values: dict[str, object]


async def add(
    session: AsyncSession,
    purpose: Purpose,
    email: str,
    lifetime: int,
    *,
    user_id: UUID | None = None,
    password_hash: str = "",
) -> UUID:
    """Add a row without a token, and return its id. It expires after `lifetime` seconds.

    It replaces the last one for the same purpose, but each sign-up remains: two of them may have
    different passwords, and only the owner of the address knows which one to open.
    """
    older = delete(EmailToken).where(EmailToken.purpose == purpose)
    if purpose != "email_change":
        older = older.where(EmailToken.email == email)
    if user_id:
        older = older.where(EmailToken.user_id == user_id)
    if purpose != "sign_up":
        await session.execute(older)
    row = EmailToken(
        purpose=purpose,
        email=email,
        user_id=user_id,
        password_hash=password_hash,
        expires_at=utc_now() + timedelta(seconds=lifetime),
    )
    session.add(row)
    await session.flush()
    return row.id


async def issue(session: AsyncSession, token_id: UUID) -> Letter | None:
    """Make the token of a row. Return the mail to send, or None if there is none.

    Only here it matters whether the address has an account.
    """
    email = select(EmailToken.email).where(EmailToken.id == token_id).scalar_subquery()
    user = await session.scalar(
        select(User).where(User.email == email).with_for_update(key_share=True)
    )
    row = await session.get(EmailToken, token_id, with_for_update=True)
    if row is None or row.expires_at <= utc_now():
        return None
    token, template = token_urlsafe(32), f"auth/{row.purpose}"
    row.token_hash = hash_token(token)
    if row.purpose == "password_reset":
        if user is None or not user.is_active:
            await session.delete(row)
            return None
        row.user_id = user.id
    elif user and row.purpose in {"sign_up", "email_change"}:
        await session.delete(row)
        template = "auth/account_exists"
    values: dict[str, object] = {"token": token}
    for name, time in (("requested_at", row.created_at), ("expires_at", row.expires_at)):
        values[name] = f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Letter(row.email, template, values)


async def lock_user(session: AsyncSession, token: str) -> User | None:
    """Lock the active user of a token. That of a sign-up has none."""
    statement = select(User).join(EmailToken, EmailToken.user_id == User.id)
    statement = statement.where(EmailToken.token_hash == hash_token(token), User.is_active)
    return await session.scalar(statement.with_for_update(of=User, key_share=True))


async def redeem(
    session: AsyncSession, token: str, purposes: Collection[Purpose]
) -> Redeemed | None:
    """Delete the row of a token and return it, or None if the token is not valid.

    Of several requests with one token, only the first gets the row. A rollback restores it.
    """
    statement = delete(EmailToken).where(
        EmailToken.token_hash == hash_token(token),
        EmailToken.purpose.in_(purposes),
        EmailToken.expires_at > utc_now(),
    )
    columns = (
        EmailToken.purpose,
        EmailToken.email,
        EmailToken.password_hash,
        EmailToken.created_at,
    )
    return (await session.execute(statement.returning(*columns))).one_or_none()


async def must_renew_password(session: AsyncSession, user_id: UUID) -> bool:
    """Whether a change of the address was reverted, and the password has not been reset since.

    Whoever changed the address knows the password. Without this, they could change it again.
    """
    statement = select(EmailToken.id).where(EmailToken.user_id == user_id)
    statement = statement.where(
        EmailToken.purpose == "password_renewal", EmailToken.expires_at > utc_now()
    )
    return await session.scalar(statement) is not None


async def end(session: AsyncSession, user_id: UUID) -> None:
    """Delete the tokens of a user, except those that revert a change of the address."""
    statement = delete(EmailToken).where(EmailToken.user_id == user_id)
    await session.execute(statement.where(EmailToken.purpose != REVERT))


async def end_reverts(session: AsyncSession, user_id: UUID, since: datetime) -> None:
    """Delete the tokens that revert later changes. Those of earlier ones remain valid.

    Otherwise somebody who has changed the address twice could end the token of its owner.
    """
    statement = delete(EmailToken).where(EmailToken.user_id == user_id)
    statement = statement.where(EmailToken.purpose == REVERT, EmailToken.created_at >= since)
    await session.execute(statement)

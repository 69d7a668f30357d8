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
RENEWAL: Purpose = "password_renewal"
# The purpose, the address, the password's hash, and when it was requested.
RedeemedToken = Row[Purpose, str, str, datetime]


class Message(NamedTuple):
    """A template of `mail/templates/`, and its values."""

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

    It replaces an older row for the same purpose and address; a change of address also replaces one
    to another address. A sign-up replaces nothing: two of them may have different passwords, and
    only the owner of the address knows which link to open.
    """
    if purpose != "sign_up":
        statement = delete(EmailToken).where(EmailToken.purpose == purpose)
        if user_id:
            statement = statement.where(EmailToken.user_id == user_id)
        if purpose != "email_change":
            statement = statement.where(EmailToken.email == email)
        await session.execute(statement)
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


async def issue(session: AsyncSession, token_id: UUID) -> Message | None:
    """Make the token of a row. Return the message to send, or None if there is none.

    This is the only place where it matters whether the address has an account.
    """
    email = select(EmailToken.email).where(EmailToken.id == token_id).scalar_subquery()
    user = await session.scalar(
        select(User).where(User.email == email).with_for_update(key_share=True)
    )
    row = await session.get(EmailToken, token_id, with_for_update=True)
    if row is None or row.expires_at <= utc_now():
        return None
    requested_at = format_time(row.created_at)
    if row.purpose == "password_reset":
        if user is None or not user.is_active:
            await session.delete(row)
            return None
        row.user_id = user.id
    elif user and row.purpose in {"sign_up", "email_change"}:
        row.token_hash = None
        return Message(row.email, "auth/account_exists", {"requested_at": requested_at})
    token = token_urlsafe(32)
    row.token_hash = hash_token(token)
    values: dict[str, object] = {"token": token, "requested_at": requested_at}
    values["expires_at"] = format_time(row.expires_at)
    return Message(row.email, f"auth/{row.purpose}", values)


def format_time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


async def lock_user(session: AsyncSession, token: str) -> User | None:
    """Lock the active user of a token. That of a sign-up has none."""
    statement = select(User).join(EmailToken, EmailToken.user_id == User.id)
    statement = statement.where(EmailToken.token_hash == hash_token(token), User.is_active)
    return await session.scalar(statement.with_for_update(of=User, key_share=True))


async def redeem(
    session: AsyncSession, token: str, purposes: Collection[Purpose]
) -> RedeemedToken | None:
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
    """Return whether a change of address was reverted, and the password was not reset since.

    Whoever changed the address knows the password. Otherwise, they could change it again.
    """
    statement = select(EmailToken.id).where(EmailToken.user_id == user_id)
    statement = statement.where(EmailToken.purpose == RENEWAL, EmailToken.expires_at > utc_now())
    return await session.scalar(statement) is not None


async def end(
    session: AsyncSession, user_id: UUID, *, kept: Collection[Purpose] = (REVERT, RENEWAL)
) -> None:
    """Delete the tokens of a user, except those that help its owner against a thief."""
    statement = delete(EmailToken).where(EmailToken.user_id == user_id)
    await session.execute(statement.where(EmailToken.purpose.not_in(kept)))


async def end_reverts(session: AsyncSession, user_id: UUID, since: datetime) -> None:
    """Delete the tokens that revert later changes. Those of earlier ones remain valid.

    Otherwise somebody who has changed the address twice could end the token of its owner.
    """
    statement = delete(EmailToken).where(EmailToken.user_id == user_id)
    statement = statement.where(EmailToken.purpose == REVERT, EmailToken.created_at >= since)
    await session.execute(statement)

"""Limits for attempts to log in, to sign up and to refresh: further ones have to wait.

They are counted in the database, so all processes count together. What is answered never depends on
whether an account exists: attempts at unknown addresses are counted, too.

A client that has logged in before proves it with its device token, and is counted on its own:
others who guess at the account, or share its network, do not lock it out. OWASP calls the protocol
"device cookies".
"""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from ipaddress import IPv6Network
from math import ceil
from uuid import UUID

from sqlalchemy import case, delete, false, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import utc_now
from ..errors import TooManyRequests
from .models import Attempts


@dataclass(frozen=True, slots=True)
class Limit:
    """After `free` attempts the wait is 1, 2, 4 ... seconds, `longest` at most.

    The `window` begins with the first attempt. After `most` attempts, the wait lasts until its end.
    """

    free: int
    longest: int
    window: timedelta = timedelta(hours=1)
    most: int | None = None


# NIST SP 800-63B ("Rate Limiting"): at most 100 failures in a row.
ACCOUNT = Limit(free=5, longest=60, window=timedelta(days=30), most=100)
NETWORK = Limit(free=20, longest=600)
# Whoever has one IPv6 network often has a whole /48 of them.
WIDE_NETWORK = Limit(free=40, longest=600)
SIGN_UP = Limit(free=20, longest=600)
REFRESH = Limit(free=60, longest=60)


class TooManyAttempts(TooManyRequests):
    def __init__(self, wait: timedelta) -> None:
        seconds = max(1, ceil(wait.total_seconds()))
        detail = f"There were too many attempts. Try again in {seconds} s."
        super().__init__(seconds, detail, error="temporarily_unavailable", error_description=detail)


@dataclass(frozen=True, slots=True)
class Counter:
    key: bytes
    limit: Limit


def make_counter(limit: Limit, *parts: str) -> Counter:
    """Hash what is counted, so that the table does not tell who tried what."""
    return Counter(sha256("\0".join(parts).encode(errors="surrogatepass")).digest(), limit)


def count_account(email: str) -> Counter:
    return make_counter(ACCOUNT, "account", email)


def count_device(token_id: str) -> Counter:
    return make_counter(ACCOUNT, "device", token_id)


def count_change(user_id: UUID) -> Counter:
    """Count changes of a password, which a thief of an access token may try."""
    return make_counter(ACCOUNT, "change", str(user_id))


def count_refresh(session_id: UUID) -> Counter:
    return make_counter(REFRESH, "refresh", str(session_id))


def count_networks(limit: Limit, kind: str, network: str) -> list[Counter]:
    """Count a client by its address, or an IPv6 client by its /64 and its /48 network."""
    counters = [make_counter(limit, kind, network)]
    if network.endswith("/64"):
        wide = IPv6Network(network).supernet(new_prefix=48)
        counters.append(make_counter(WIDE_NETWORK, kind, str(wide)))
    return counters


class Throttle:
    """The counters of one attempt. Any of them can block it."""

    def __init__(self, *counters: Counter) -> None:
        self._counters = counters

    async def check(self, session: AsyncSession) -> None:
        """Raise `TooManyAttempts` while one of them is blocked."""
        now = utc_now()
        keys = [counter.key for counter in self._counters]
        blocked = select(Attempts.blocked_until).where(
            Attempts.key.in_(keys), Attempts.blocked_until > now
        )
        waits = [until - now for until in await session.scalars(blocked)]
        if waits:
            raise TooManyAttempts(max(waits))

    async def count(self, session: AsyncSession) -> timedelta | None:
        """Count an attempt, which the caller has to commit. Return the wait if it came too early.

        Of many attempts at once, those that come too early make the next wait longer, but they
        do not count towards `most`: else one burst would block an account for the whole window.
        """
        waits = [await self._count(session, counter) for counter in self._counters]
        return max((wait for wait in waits if wait), default=None)

    async def _count(self, session: AsyncSession, counter: Counter) -> timedelta | None:
        now = utc_now()
        limit = counter.limit
        has_expired = Attempts.expires_at <= now
        is_too_early = Attempts.blocked_until > now if limit.most else false()
        statement = (
            insert(Attempts)
            .values(key=counter.key, failures=1, blocked_until=now, expires_at=now + limit.window)
            .on_conflict_do_update(
                index_elements=[Attempts.key],
                set_={
                    "failures": case(
                        (has_expired, 1),
                        (is_too_early, Attempts.failures),
                        else_=Attempts.failures + 1,
                    ),
                    "expires_at": case(
                        (has_expired, now + limit.window), else_=Attempts.expires_at
                    ),
                    "updated_at": now,
                },
            )
            .returning(Attempts.failures, Attempts.blocked_until, Attempts.expires_at)
        )
        failures, blocked_until, expires_at = (await session.execute(statement)).one()
        if limit.most and failures >= limit.most:
            until = expires_at
        elif failures >= limit.free and blocked_until <= now:
            until = now + timedelta(seconds=min(2 ** min(failures - limit.free, 20), limit.longest))
        else:
            until = blocked_until
        if until != blocked_until:
            mine = update(Attempts).where(Attempts.key == counter.key)
            await session.execute(mine.values(blocked_until=until))
        return blocked_until - now if blocked_until > now else None

    async def reset(self, session: AsyncSession) -> None:
        """Forget the failures of the account, or of the device, but not those of its network."""
        keys = [counter.key for counter in self._counters if counter.limit == ACCOUNT]
        await session.execute(delete(Attempts).where(Attempts.key.in_(keys)))

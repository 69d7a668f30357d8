"""Limits how often somebody can try to log in, to sign up and to refresh tokens.

Attempts are counted in the database, so the count is the same in all processes. Attempts to log in
to an unknown address are counted, too, so responses do not reveal which accounts exist.

A client that has logged in to an account before has a device token for it and a counter of its own.
Nobody else can lock it out by guessing the password or by using the same network. OWASP calls this
"device cookies".
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import IPv6Network
from math import ceil
from uuid import UUID

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import utc_now
from ..errors import TooManyRequests
from .models import Attempts


@dataclass(frozen=True, slots=True)
class Limit:
    """After `free` attempts the client has to wait 1, 2, 4 ... seconds, `longest` at most.

    The count is reset when the `window` ends, which starts with the first attempt. With `most`,
    each attempt restarts the window, and `most` attempts block further ones until it ends.
    """

    free: int
    longest: int
    window: timedelta = timedelta(hours=1)
    most: int | None = None


# NIST SP 800-63B ("Rate Limiting"): at most 100 failures in a row.
ACCOUNT = Limit(free=5, longest=60, window=timedelta(days=30), most=100)
NETWORK = Limit(free=20, longest=600)
# Customers of a provider often have a whole /48, which is 65,536 networks.
WIDE_NETWORK = Limit(free=40, longest=600)
SIGN_UP = Limit(free=20, longest=600)
REFRESH = Limit(free=60, longest=60)

NEVER = datetime.fromtimestamp(0, UTC)


class TooManyAttempts(TooManyRequests):
    type = "urn:problem-type:too-many-attempts"

    def __init__(self, wait: timedelta) -> None:
        seconds = max(1, ceil(wait.total_seconds()))
        detail = f"There were too many attempts. Try again in {seconds} s."
        super().__init__(seconds, detail, error="temporarily_unavailable", error_description=detail)


@dataclass(frozen=True, slots=True)
class Counter:
    key: bytes
    limit: Limit


def make_counter(limit: Limit, *parts: str) -> Counter:
    """Hash what is counted, so that the table contains no email addresses and no IP addresses."""
    return Counter(sha256("\0".join(parts).encode(errors="surrogatepass")).digest(), limit)


def account_counter(email: str) -> Counter:
    return make_counter(ACCOUNT, "account", email)


def device_counter(user_id: UUID) -> Counter:
    """Make the counter of an account's attempts with device tokens, all devices together."""
    return make_counter(ACCOUNT, "devices", str(user_id))


def change_counter(user_id: UUID) -> Counter:
    """Make the counter of password changes, which a thief of an access token may try."""
    return make_counter(ACCOUNT, "change", str(user_id))


def refresh_counter(session_id: UUID) -> Counter:
    return make_counter(REFRESH, "refresh", str(session_id))


def network_counters(limit: Limit, kind: str, network: str) -> list[Counter]:
    """Make the counter of an IPv4 address, or those of an IPv6 client's /64 and /48 networks."""
    counters = [make_counter(limit, kind, network)]
    with suppress(ValueError):
        wide = IPv6Network(network).supernet(new_prefix=48)
        counters.append(make_counter(WIDE_NETWORK, kind, str(wide)))
    return counters


class Throttle:
    """The counters of one attempt, those of networks first. Each of them can block it."""

    def __init__(self, *counters: Counter) -> None:
        self._counters = counters

    async def check(self, session: AsyncSession) -> timedelta | None:
        """Return how long the attempt has to wait, or None.

        An attempt from a blocked network counts for that network, so its next wait is longer.
        """
        now = utc_now()
        keys = [counter.key for counter in self._counters]
        blocked = select(Attempts.key, Attempts.blocked_until).where(
            Attempts.key.in_(keys), Attempts.blocked_until > now
        )
        waits = {row.key: row.blocked_until - now for row in await session.execute(blocked)}
        for counter in self._counters:
            if counter.key in waits and not counter.limit.most:
                await self._count(session, counter)
        return max(waits.values(), default=None)

    async def count(self, session: AsyncSession) -> timedelta | None:
        """Count an attempt. Return how long it should have waited, or None. The caller commits.

        Of many parallel attempts, all but the first ones should have waited. They are refused, even
        with the right password. A blocked network adds nothing to the count of an account.
        """
        for counter in self._counters:
            if wait := await self._count(session, counter):
                return wait
        return None

    async def _count(self, session: AsyncSession, counter: Counter) -> timedelta | None:
        now = utc_now()
        limit = counter.limit
        end = now + limit.window
        has_expired = Attempts.expires_at <= now
        is_early = Attempts.blocked_until > now
        # Early attempts do not count towards `most`. Otherwise one burst would reach it.
        is_counted = case((is_early, 0), else_=1) if limit.most else 1
        next_end = case((is_early, Attempts.expires_at), else_=end)
        statement = (
            insert(Attempts)
            .values(key=counter.key, failures=1, blocked_until=NEVER, expires_at=end)
            .on_conflict_do_update(
                index_elements=[Attempts.key],
                set_={
                    "failures": case((has_expired, 1), else_=Attempts.failures + is_counted),
                    "expires_at": case(
                        (has_expired, end), else_=next_end if limit.most else Attempts.expires_at
                    ),
                    "updated_at": now,
                },
            )
            .returning(Attempts.failures, Attempts.blocked_until)
        )
        failures, blocked_until = (await session.execute(statement)).one()
        if blocked_until > now:
            return blocked_until - now
        if failures >= limit.free:
            await self._block(session, counter, now + find_wait(limit, failures))
        return None

    async def _block(self, session: AsyncSession, counter: Counter, until: datetime) -> None:
        expires_at = func.greatest(Attempts.expires_at, until)
        statement = update(Attempts).where(Attempts.key == counter.key)
        await session.execute(statement.values(blocked_until=until, expires_at=expires_at))

    async def reset(self, session: AsyncSession) -> int:
        """Reset the counters of accounts and devices, not those of networks. Return how many."""
        keys = [counter.key for counter in self._counters if counter.limit.most]
        statement = delete(Attempts).where(Attempts.key.in_(keys)).returning(Attempts.id)
        return len((await session.scalars(statement)).all())


def find_wait(limit: Limit, failures: int) -> timedelta:
    if limit.most and failures >= limit.most:
        return limit.window
    return timedelta(seconds=min(2 ** min(failures - limit.free, 20), limit.longest))

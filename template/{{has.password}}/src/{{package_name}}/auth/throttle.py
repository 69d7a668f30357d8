"""Limits for attempts to log in, to sign up and to refresh: further ones have to wait.

They are counted in the database, so all processes count together. What is answered never depends on
whether an account exists: attempts at unknown addresses are counted, too.

A client that has logged in to an account before proves it with a device token, and is not counted
with the others: who guesses at the account, or shares the client's network, does not lock it out.
OWASP calls the protocol "device cookies".
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
    """After `free` attempts the wait is 1, 2, 4 ... seconds, `longest` at most.

    They are forgotten at the end of the `window`, which begins with the first one. With `most`, it
    begins again with each one, and after `most` attempts there is no other before its end.
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
    """Hash what is counted, so that the table does not tell who tried what."""
    return Counter(sha256("\0".join(parts).encode(errors="surrogatepass")).digest(), limit)


def count_account(email: str) -> Counter:
    return make_counter(ACCOUNT, "account", email)


def count_devices(user_id: UUID) -> Counter:
    """Count attempts with any device token of an account together."""
    return make_counter(ACCOUNT, "devices", str(user_id))


def count_change(user_id: UUID) -> Counter:
    """Count changes of a password, which a thief of an access token may try."""
    return make_counter(ACCOUNT, "change", str(user_id))


def count_refresh(session_id: UUID) -> Counter:
    return make_counter(REFRESH, "refresh", str(session_id))


def count_networks(limit: Limit, kind: str, network: str) -> list[Counter]:
    """Count a client by its address, or an IPv6 client by its /64 and its /48 network."""
    counters = [make_counter(limit, kind, network)]
    with suppress(ValueError):
        wide = IPv6Network(network).supernet(new_prefix=48)
        counters.append(make_counter(WIDE_NETWORK, kind, str(wide)))
    return counters


class Throttle:
    """The counters of one attempt, networks first. Any of them can block it."""

    def __init__(self, *counters: Counter) -> None:
        self._counters = counters

    async def check(self, session: AsyncSession) -> timedelta | None:
        """Return how long the attempt has to wait. Those of a blocked network count."""
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
        """Count an attempt, which the caller has to commit. Return the wait if it came too early.

        Of many attempts at once, the later ones come too early: they are refused whatever they
        guess. A network that is blocked adds nothing to the count of an account.
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
        # Attempts that come too early do not count towards `most`: else one burst would use it up.
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
        """Forget failures in a row, but not those of a network. Return how many counters it had."""
        keys = [counter.key for counter in self._counters if counter.limit.most]
        statement = delete(Attempts).where(Attempts.key.in_(keys)).returning(Attempts.id)
        return len((await session.scalars(statement)).all())


def find_wait(limit: Limit, failures: int) -> timedelta:
    if limit.most and failures >= limit.most:
        return limit.window
    return timedelta(seconds=min(2 ** min(failures - limit.free, 20), limit.longest))

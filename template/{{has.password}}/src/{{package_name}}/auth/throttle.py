"""Guessing is slow: after some failures, each further one makes its sender wait longer.

Failures are counted in the database, so all processes count together: per account, and per client
address. From an address from which somebody has logged in to an account before, only failures there
and at it block it, so that neither strangers nor neighbours who guess lock its owner out.
"""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from math import ceil

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import utc_now
from ..errors import TooManyRequests
from .models import Attempts

FORGOTTEN_AFTER = timedelta(hours=1)
KNOWN_FOR = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Limit:
    """After `free` failures the wait is 1, 2, 4 ... seconds, `longest` at most."""

    free: int
    longest: int


ACCOUNT = Limit(free=5, longest=60)
ADDRESS = Limit(free=20, longest=600)


class TooManyAttempts(TooManyRequests):
    def __init__(self, wait: timedelta) -> None:
        seconds = max(1, ceil(wait.total_seconds()))
        detail = f"Too many attempts failed. Try again in {seconds} s."
        super().__init__(seconds, detail, error="temporarily_unavailable", error_description=detail)


class Throttle:
    """The attempts of a client at an account, or, without an `email`, to find one.

    Call `check` before an attempt, and `fail` or `succeed` after it, before its answer is sent.
    """

    def __init__(self, network: str, email: str = "") -> None:
        self._address = hash_key("address", network)
        self._known = hash_key("account", email, network)
        self._account = hash_key("account", email) if email else None

    async def check(self, session: AsyncSession) -> None:
        """Raise `TooManyAttempts` while the account or the address has to wait."""
        now = utc_now()
        mine = Attempts.key.in_([self._address, self._known, self._account])
        found = await session.scalars(select(Attempts).where(mine, Attempts.expires_at > now))
        counters = {counter.key: counter for counter in found}
        blocking = [self._account, self._address]
        if self._account and self._known in counters:
            self._account = self._known
            blocking = [self._known]
        for key in blocking:
            if key in counters and counters[key].blocked_until > now:
                raise TooManyAttempts(counters[key].blocked_until - now)

    async def fail(self, session: AsyncSession) -> None:
        """Count a failure; raise `TooManyAttempts` if others were faster and blocked it meanwhile.

        So of many guesses at once no more are answered than of as many in a row.
        """
        if self._account:
            await self._count(session, self._account, ACCOUNT)
        try:
            await self._count(session, self._address, ADDRESS)
        except TooManyAttempts:
            if self._account != self._known:
                raise

    async def _count(self, session: AsyncSession, key: bytes, limit: Limit) -> None:
        now = utc_now()
        forgotten = Attempts.created_at < now - FORGOTTEN_AFTER
        failures = await session.scalar(
            insert(Attempts)
            .values(key=key, failures=1, blocked_until=now, expires_at=now + FORGOTTEN_AFTER)
            .on_conflict_do_update(
                index_elements=[Attempts.key],
                set_={
                    "failures": case((forgotten, 1), else_=Attempts.failures + 1),
                    "created_at": case((forgotten, now), else_=Attempts.created_at),
                    "expires_at": func.greatest(Attempts.expires_at, now + FORGOTTEN_AFTER),
                    "updated_at": now,
                },
                where=Attempts.blocked_until <= now,
            )
            .returning(Attempts.failures)
        )
        mine = Attempts.key == key
        if failures is None:
            until = await session.scalar(select(Attempts.blocked_until).where(mine))
            raise TooManyAttempts((until or now) - now)
        if failures >= limit.free:
            wait = timedelta(seconds=min(2 ** min(failures - limit.free, 20), limit.longest))
            await session.execute(update(Attempts).where(mine).values(blocked_until=now + wait))

    async def succeed(self, session: AsyncSession) -> None:
        """Start the account's count anew, and know the address. Raise as `fail` does."""
        await self.check(session)
        now = utc_now()
        fresh = {"failures": 0, "blocked_until": now, "expires_at": now + KNOWN_FOR}
        await session.execute(delete(Attempts).where(Attempts.key == self._account))
        await session.execute(
            insert(Attempts)
            .values(key=self._known, **fresh)
            .on_conflict_do_update(index_elements=[Attempts.key], set_=fresh)
        )


def hash_key(*parts: str) -> bytes:
    """Name a counter, so that the table tells nobody who tried what."""
    return sha256("\0".join(parts).encode(errors="surrogatepass")).digest()

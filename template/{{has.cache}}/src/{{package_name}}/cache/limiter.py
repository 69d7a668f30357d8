"""Counts requests in Redis or Valkey, for all processes together."""

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from time import time
from typing import Any

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from .server import CacheServer, CacheUnavailable


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands after a request."""

    is_allowed: bool
    remaining: int  # requests
    seconds: float  # until another request is allowed


class Limiter:
    """Counts in a sliding window.

    It adds those of the current window to those of the previous one, weighted by the part of it
    that is still in the window. So it needs two numbers per caller.
    """

    def __init__(self, server: CacheServer, prefix: str) -> None:
        # `limits` does not declare the type of this option.
        options: dict[str, Any] = {"connection_pool": server.redis.connection_pool}
        storage = RedisStorage(
            "async+redis://",  # not used: the pool has the address
            implementation="redispy",
            key_prefix=f"{prefix}:limit",
            **options,
        )
        self._strategy = SlidingWindowCounterRateLimiter(storage)
        self._server = server

    async def count(self, rate: RateLimitItem, name: str, caller: str) -> Standing | None:
        """Count a request, unless it is refused. Return None if the server is unreachable."""
        # A hash, so that a key is short, whatever the caller sends.
        key = (name, sha256(caller.encode(errors="surrogatepass")).hexdigest())
        with suppress(CacheUnavailable):
            is_allowed = await self._server.run(self._strategy.hit, rate, *key)
            window = await self._server.run(self._strategy.get_window_stats, rate, *key)
            seconds = max(window.reset_time - time(), 0)
            # `limits` says "now" for the first request of a caller.
            is_first = seconds == 0 and window.remaining == rate.amount - 1
            return Standing(
                is_allowed, window.remaining, rate.get_expiry() if is_first else seconds
            )
        return None

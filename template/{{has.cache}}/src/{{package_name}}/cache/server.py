"""The connections to Redis or Valkey, which may be unreachable."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import ParamSpec, TypeVar

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from .settings import CacheSettings

TIME_LIMIT = 0.5  # seconds for a command, with its connection
PAUSE = 1.0  # seconds between the attempts to reach a server
MAX_CONNECTIONS = 20  # a command takes a tenth of a millisecond

UNREACHABLE = "the cache is unreachable"
REFUSES = "the cache refuses commands"

# A server that is full or read-only refuses it, and one that does not allow scripts.
CHECK = """
redis.call('set', KEYS[1], '', 'px', 1000)
return redis.call('del', KEYS[1])
"""

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class CacheUnavailable(Exception):
    """The server is unreachable, or refuses a command. Callers go on without it."""


class CacheServer:
    """Runs commands, and notices when the server is unreachable, or refuses them.

    While it is unreachable, one command per second tries to reach it, and all others fail at once.
    Only changes are logged.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis = redis
        self.problem = ""
        self._check = redis.register_script(CHECK)
        self._check_key = f"{prefix}:check"
        self._next_attempt = 0.0
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def run(
        self,
        command: Callable[Parameters, Awaitable[Result]],
        *arguments: Parameters.args,
        **options: Parameters.kwargs,
    ) -> Result:
        """Run a command, or raise `CacheUnavailable`."""
        if self.problem == REFUSES and monotonic() > self._next_attempt:
            self._next_attempt = monotonic() + PAUSE
            await self.check()
        return await self._run(command, *arguments, **options)

    async def _run(
        self,
        command: Callable[Parameters, Awaitable[Result]],
        *arguments: Parameters.args,
        **options: Parameters.kwargs,
    ) -> Result:
        async with self._slots:
            if self.problem == UNREACHABLE:
                if monotonic() < self._next_attempt:
                    raise CacheUnavailable
                self._next_attempt = monotonic() + PAUSE
            try:
                async with asyncio.timeout(TIME_LIMIT):
                    result = await command(*arguments, **options)
            except ResponseError as error:
                self._report(REFUSES, error)
                raise CacheUnavailable from error
            except (RedisError, OSError) as error:
                self._report(UNREACHABLE, error)
                raise CacheUnavailable from error
        if self.problem == UNREACHABLE:
            self._report_recovery()
        return result

    async def check(self) -> None:
        """Notice whether a problem has ended. Other commands may work before."""
        with suppress(CacheUnavailable):
            await self._run(self._check, keys=[self._check_key], args=[])
            if self.problem:
                self._report_recovery()

    def _report(self, problem: str, error: Exception) -> None:
        self._next_attempt = monotonic() + PAUSE
        if problem != self.problem:
            self.problem = problem
            cause = f"{type(error).__name__}: {error}".removesuffix(": ")
            logger.warning(problem, cause=cause)

    def _report_recovery(self) -> None:
        self.problem = ""
        logger.info("the cache works again")


@asynccontextmanager
async def open_server(settings: CacheSettings) -> AsyncGenerator[CacheServer]:
    """Make the pool. Nothing is connected before the first command."""
    pool = ConnectionPool.from_url(
        settings.url.get_secret_value(),
        # Once, for connections that the server has closed. A frozen server is not asked again.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    redis = Redis.from_pool(pool)
    try:
        yield CacheServer(redis, settings.prefix)
    finally:
        # A frozen server does not acknowledge the end of TLS.
        with suppress(RedisError, OSError):
            async with asyncio.timeout(TIME_LIMIT):
                await redis.aclose()

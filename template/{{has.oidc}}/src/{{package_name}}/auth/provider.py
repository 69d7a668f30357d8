"""The keys of the OpenID Connect provider: fetched, kept for a while, fetched again."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from math import inf
from time import monotonic
from typing import Any

import anyio
import structlog
from httpx2 import AsyncClient, HTTPError, InvalidURL
from jwt import InvalidKeyError, PyJWK, PyJWTError

from ..errors import Unavailable
from .client import make_client
from .settings import AuthSettings

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

MAX_SIZE = 1_048_576  # bytes of a document
# Seconds.
TIME_LIMIT = 5.0  # for both documents of a fetch together
FRESH = 600.0  # how long keys are used without a new fetch
KEPT = 86_400.0  # how long they are used while fetches fail
PAUSE = 30.0  # before the next fetch: tokens with unknown key ids must not cause many
PAUSE_WITHOUT_KEYS = 2.0

# A fetch fails if there is no response, not the expected JSON, or a URL with an invalid port. If a
# host has several addresses, their errors are in an `ExceptionGroup`.
FAILURES = (
    HTTPError,
    InvalidURL,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    OverflowError,
    ExceptionGroup,
)


class Provider:
    def __init__(self, settings: AuthSettings, client: AsyncClient, time_limit: float) -> None:
        self._settings = settings
        self._client = client
        self._time_limit = time_limit
        self._lock = anyio.Lock()
        self._keys: list[PyJWK] = []
        self._fetched = self._paused_until = -inf

    async def find_key(self, algorithm: str, key_id: str | None) -> PyJWK:
        """Return the matching key, or raise `InvalidKeyError`.

        Raise `Unavailable` without usable keys. An unknown key may be new, so fetch again.
        """
        # While one request fetches, the others go on with the keys that there are.
        if self._age() > FRESH and not (self._age() <= KEPT and self._lock.locked()):
            await self._fetch()
        keys = self._select(algorithm, key_id)
        if not keys:
            await self._fetch()
            keys = self._select(algorithm, key_id)
        if self._age() > KEPT:
            raise Unavailable
        if not keys or (len(keys) > 1 and key_id is None):
            raise InvalidKeyError
        return keys[0]

    async def ping(self) -> None:
        """Raise `Unavailable` unless there are keys. Old ones are enough."""
        if self._age() > KEPT:
            await self._fetch()
        if self._age() > KEPT:
            raise Unavailable

    def _age(self) -> float:
        return monotonic() - self._fetched

    def _select(self, algorithm: str, key_id: str | None) -> list[PyJWK]:
        return [
            key
            for key in self._keys
            if key.algorithm_name == algorithm and key_id in (key.key_id, None)
        ]

    async def _fetch(self) -> None:
        """Replace the keys, unless the last attempt was a moment ago. Parallel calls wait."""
        async with self._lock:
            if monotonic() < self._paused_until:
                return
            try:
                with anyio.fail_after(self._time_limit):
                    self._keys = await self._get_keys()
            except FAILURES as error:
                usable = self._age() <= KEPT
                self._paused_until = monotonic() + (PAUSE if usable else PAUSE_WITHOUT_KEYS)
                issuer = self._settings.issuer
                logger.warning("keys not fetched", issuer=issuer, reason=repr(error)[:200])
            else:
                self._fetched = monotonic()
                self._paused_until = self._fetched + PAUSE

    async def _get_keys(self) -> list[PyJWK]:
        metadata = await self._get(self._settings.discovery_url)
        # OpenID Connect Discovery, section 4.3. AD FS has another issuer for access tokens.
        issuer = metadata.get("access_token_issuer", metadata.get("issuer"))
        if issuer != self._settings.issuer:
            raise ValueError(f"it calls itself {issuer!r}")
        url = str(metadata.get("jwks_uri"))
        if self._settings.discovery_url.startswith("https:") and not url.startswith("https:"):
            raise ValueError(f"its keys are not at an https URL: {url}")
        keys = [
            key
            for key in parse_keys((await self._get(url)).get("keys"), self._settings)
            if key.public_key_use in ("sig", None)
            and key.algorithm_name in self._settings.algorithms
        ]
        if not keys:
            raise ValueError("none of its keys is for one of AUTH_ALGORITHMS")
        return keys

    async def _get(self, url: str) -> dict[str, Any]:
        text = bytearray()
        # Not compressed: a small answer could become a large one.
        headers = {"Accept-Encoding": "identity"}
        async with self._client.stream("GET", url, headers=headers) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                text += chunk
                if len(text) > MAX_SIZE:
                    raise ValueError(f"more than {MAX_SIZE} bytes at {url}")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise TypeError(f"no JSON object at {url}")
        return document


def parse_keys(keys: object, settings: AuthSettings) -> Iterator[PyJWK]:
    """Skip keys that PyJWT does not support, and keep the others."""
    for key in keys if isinstance(keys, list) else ():
        with suppress(PyJWTError, NotImplementedError, AttributeError, TypeError, ValueError):
            # Entra ID also publishes keys that are for one tenant only.
            if not settings.tenants or key.get("issuer", settings.issuer) == settings.issuer:
                yield PyJWK(key)


@asynccontextmanager
async def open_provider(
    settings: AuthSettings, time_limit: float = TIME_LIMIT
) -> AsyncGenerator[Provider]:
    """Open a client for the provider. Nothing is fetched before the first token or probe."""
    async with make_client(settings.discovery_url) as client:
        yield Provider(settings, client, time_limit)

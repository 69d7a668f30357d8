"""Argon2id with the parameters of OWASP's Password Storage Cheat Sheet."""

import os
import unicodedata
from secrets import token_hex

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from pydantic import Secret


class Passwords:
    """Hashes in worker threads, one per processor: each hash takes 19 MiB and some 30 ms.

    Call it while no database connection is held.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._limiter = CapacityLimiter(os.cpu_count() or 1)
        self._nobody = self._hasher.hash(token_hex())

    async def hash(self, password: Secret[str]) -> str:
        return await to_thread.run_sync(
            self._hasher.hash, normalize(password), limiter=self._limiter
        )

    async def verify(self, password: Secret[str], hashed: str | None) -> bool:
        """Take as long for no hash as for one: time must not tell who has an account."""
        return await to_thread.run_sync(
            self._verify, normalize(password), hashed, limiter=self._limiter
        )

    def _verify(self, password: str, hashed: str | None) -> bool:
        try:
            return self._hasher.verify(hashed or self._nobody, password) and hashed is not None
        except VerifyMismatchError:
            return False


def normalize(password: Secret[str]) -> str:
    """The same characters, whatever keyboard and system composed them (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password.get_secret_value())

"""Argon2id with the parameters of OWASP's Password Storage Cheat Sheet."""

import os
import unicodedata
from itertools import pairwise
from pathlib import Path
from secrets import token_hex

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import Secret

MIN_LENGTH = 12
MAX_LENGTH = 128
MAX_RAW_LENGTH = 1024  # before normalization, which composes characters

# The most common passwords that are long enough.
COMMON = frozenset(Path(__file__).with_name("common_passwords.txt").read_text().split())
# Characters that follow each other in the alphabet or on a keyboard.
ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
ROWS += ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik", "9ol")
PREDICTABLE = {pair for row in ROWS for way in (row, row[::-1]) for pair in pairwise(way)}
MIN_STEPS = 7  # different pairs of characters that are not predictable
MIN_WORD = 4  # characters: many passwords contain shorter words by chance

OWASP = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Passwords:
    """Hashes in a few worker threads. A hash takes 19 MiB and about 30 ms of a processor.

    Do not hold a database connection while you call it.
    """

    def __init__(self, hasher: PasswordHasher = OWASP) -> None:
        self._hasher = hasher
        # Leave one processor to the event loop: otherwise, its delays are four times as long. Use
        # four at most, since a container may have fewer processors than it sees.
        self._limiter = CapacityLimiter(max(1, min(4, (os.cpu_count() or 1) - 1)))
        self._nobody = hasher.hash(token_hex())

    async def hash(self, password: Secret[str]) -> str:
        return await to_thread.run_sync(
            self._hasher.hash, normalize(password.get_secret_value()), limiter=self._limiter
        )

    async def verify(self, password: Secret[str], hashed: str | None) -> bool:
        """Without a hash, verify a dummy one, so that the time does not reveal accounts."""
        return await to_thread.run_sync(
            self._verify, password.get_secret_value(), hashed, limiter=self._limiter
        )

    def _verify(self, password: str, hashed: str | None) -> bool:
        given = normalize(password).encode(errors="surrogatepass")
        try:
            return self._hasher.verify(hashed or self._nobody, given) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False

    def is_outdated(self, hashed: str) -> bool:
        """Return whether the parameters have changed since the hash was made."""
        return self._hasher.check_needs_rehash(hashed)


def normalize(password: str) -> str:
    """Return the same characters for each keyboard and system (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password[:MAX_RAW_LENGTH])


def check_password(password: str) -> str:
    """Return it normalized, or raise `ValueError`."""
    normalized = normalize(password)
    if not MIN_LENGTH <= len(normalized) <= MAX_LENGTH:
        raise ValueError(f"should have {MIN_LENGTH} to {MAX_LENGTH} characters")
    folded = normalized.casefold()
    if folded in COMMON:
        raise ValueError("is one of the passwords that are guessed first")
    if folded in (folded + folded)[1:-1] or len(find_steps(folded)) < MIN_STEPS:
        raise ValueError("repeats itself, or follows the alphabet or the keyboard")
    check_words(normalized)
    return normalized


def find_steps(password: str) -> set[tuple[str, str]]:
    """Return the pairs whose second character cannot be predicted from those before it."""
    steps: set[tuple[str, str]] = set()
    distance = 0
    for pair in pairwise(password):
        one, two = map(ord, pair)
        if two - one != distance and pair not in PREDICTABLE:
            steps.add(pair)
        distance = two - one
    return steps


def check_words(password: str, email: str = "") -> None:
    """Raise `ValueError` if the password contains the email address or the name of the service.

    Only letters and digits are compared, so punctuation does not hide a word.
    """
    local_part = email.partition("@")[0]
    service = __name__.partition(".")[0]
    for name, word in (
        ("your email address", email),
        ("your email address", local_part),
        ("the name of the service", service),
    ):
        letters = keep_letters(word)
        if len(letters) >= MIN_WORD and letters in keep_letters(password):
            raise ValueError(f"contains {name}")


def keep_letters(text: str) -> str:
    return "".join(filter(str.isalnum, normalize(text).casefold()))

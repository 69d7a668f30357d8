"""A payment provider for development."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def development_payments() -> Generator[dict[str, str]]:
    yield {"PAYMENTS_URL": "http://payments.localhost"}

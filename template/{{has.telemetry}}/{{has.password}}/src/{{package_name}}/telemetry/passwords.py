"""How many passwords wait to be hashed."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from opentelemetry.metrics import Observation

from ..auth.passwords import Passwords
from .gauges import Gauge

WAITING = Gauge(
    "auth.passwords.waiting",
    "sum",
    unit="{password}",
    description="Passwords that wait to be hashed or verified.",
)


@asynccontextmanager
async def observe_passwords(passwords: Passwords) -> AsyncGenerator[None]:
    with WAITING.observe(lambda: [Observation(passwords.count_waiting())]):
        yield

"""The client of the payment provider."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypedDict

from httpx2 import AsyncClient, HTTPError

from ..errors import BadGateway, Unavailable
from .settings import PaymentsSettings


class Payments:
    def __init__(self, settings: PaymentsSettings, client: AsyncClient) -> None:
        self.settings = settings
        self._client = client

    async def ping(self) -> None:
        """Raise `Unavailable` if there is no provider."""
        if not self.settings.url.startswith("http"):
            raise Unavailable

    async def refund(self, payment: str) -> str:
        """Return the state of the refund, or raise `BadGateway`."""
        try:
            response = await self._client.post(f"/payments/{payment}/refund")
            return str(response.raise_for_status().json()["state"])
        except (HTTPError, KeyError, ValueError) as error:
            raise BadGateway from error


class PaymentsState(TypedDict):
    payments: Payments


@asynccontextmanager
async def open_payments(settings: PaymentsSettings) -> AsyncGenerator[Payments]:
    headers = {"Authorization": f"Bearer {settings.key.get_secret_value()}"}
    async with AsyncClient(base_url=settings.url, headers=headers, timeout=5) as client:
        yield Payments(settings, client)

from pydantic import BaseModel, TypeAdapter

from ..cache.service import Cache, Entry


class Rate(BaseModel):
    currency: str
    euros: float


RATE = Entry("rate", TypeAdapter[Rate | None](Rate | None), seconds=60)
EUROS = {"USD": 0.9}


class RateService:
    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def find(self, currency: str) -> Rate | None:
        async def look_up() -> Rate | None:
            euros = EUROS.get(currency)
            return None if euros is None else Rate(currency=currency, euros=euros)

        return await self._cache.get(RATE, currency, compute=look_up)

    async def change(self, rate: Rate) -> None:
        EUROS[rate.currency] = rate.euros
        await self._cache.invalidate(RATE, rate.currency)

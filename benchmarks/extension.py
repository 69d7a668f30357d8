"""What the rendered service gets beside its own endpoints, at its extension points."""

import asyncio
import os
from time import perf_counter

from fastapi import APIRouter

from .auth.dependencies import TokenClaims
from .auth.tokens import Claims

router = APIRouter()


async def get_number(number: int) -> int:
    return number


# In front of those that are measured.
for route in range(int(os.environ.get("BENCHMARK_ROUTES", "0"))):
    router.add_api_route(f"/routes/{route}/{{number}}", get_number)


@router.get("/claims")
async def get_claims(claims: TokenClaims) -> Claims:
    return claims


@router.get("/lag")
async def measure_lag(seconds: float) -> list[float]:
    """Return how many milliseconds late the loop was, each time."""
    lags: list[float] = []
    end = perf_counter() + seconds
    while (started := perf_counter()) < end:
        await asyncio.sleep(0.005)
        lags.append((perf_counter() - started - 0.005) * 1000)
    return sorted(lags)

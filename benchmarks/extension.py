"""Endpoints that the benchmarks add to the rendered service, at its extension points."""

import asyncio
import os
from time import perf_counter

from fastapi import APIRouter, FastAPI
from sqlalchemy.pool import AsyncAdaptedQueuePool

from . import database
from .auth.dependencies import TokenClaims
from .auth.tokens import Claims
from .routing import Router

router = APIRouter()


def add_extension(app: FastAPI) -> None:
    """Add the measured endpoints, after features of ten routes each; or use SQLAlchemy's pool."""
    if os.environ.get("BENCHMARK_POOL") == "library":
        setattr(database, "FairPool", AsyncAdaptedQueuePool)  # noqa: B010
    for feature in range(int(os.environ.get("BENCHMARK_ROUTES", "0")) // 10):
        other = Router(prefix=f"/feature-{feature}")
        for route in range(10):
            other.add_api_route(f"/{route}/{{number}}", get_number)
        app.include_router(other, prefix="/v1")
    app.include_router(router, prefix="/v1")


async def get_number(number: int) -> int:
    return number


@router.get("/claims")
async def get_claims(claims: TokenClaims) -> Claims:
    return claims


@router.get("/lag")
async def measure_lag(seconds: float) -> list[float]:
    """Return the delays of the event loop in milliseconds, sorted."""
    lags: list[float] = []
    end = perf_counter() + seconds
    while (start := perf_counter()) < end:
        await asyncio.sleep(0.005)
        lags.append((perf_counter() - start - 0.005) * 1000)
    return sorted(lags)

"""Added to the rendered service: one endpoint, without and with a limit."""

from fastapi import Depends, FastAPI

from .auth.dependencies import TokenClaims
from .cache.limits import RateLimit
from .routing import Router

router = Router(prefix="/v1/limits")


@router.get("/none")
async def read_claims(claims: TokenClaims) -> str:
    return claims.token_id


@router.get("/one", dependencies=[Depends(RateLimit("1000000/second"))])
async def read_claims_with_a_limit(claims: TokenClaims) -> str:
    return claims.token_id


def add_limited(app: FastAPI) -> None:
    app.include_router(router)

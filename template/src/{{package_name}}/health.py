"""/health/live: the process runs. /health/ready: it can do its work."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Literal, TypedDict

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection
from pydantic import BaseModel

from .routing import Router


class HealthState(TypedDict):
    is_draining: bool  # the server sets it when the process is about to end


class HealthConnection(HTTPConnection[HealthState]):
    """Any request or WebSocket."""


class Health(BaseModel):
    status: Literal["ok"] = "ok"


def make_router(ping: Callable[[Any], Awaitable[None]]) -> Router:
    """Make the probes' router. `ping` takes the state, and raises unless each pool in it works."""
    router = Router(prefix="/health", tags=["health"])

    async def check_readiness(connection: HealthConnection) -> None:
        if connection.state["is_draining"]:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "The service is about to end.")
        await ping(connection.state)

    @router.get("/live")
    async def live() -> Health:
        """Restart the process when this does not answer."""
        return Health()

    @router.get("/ready", dependencies=[Depends(check_readiness)])
    async def ready() -> Health:
        """Send no requests while this answers 503."""
        return Health()

    return router

"""/health/live: the process runs. /health/ready: it can do its work."""

from http import HTTPStatus
from typing import Literal

from fastapi import Depends, HTTPException
from pydantic import BaseModel

from .lifespan import Connection, ping
from .routing import Router

router = Router(prefix="/health", tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


async def check_readiness(connection: Connection) -> None:
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

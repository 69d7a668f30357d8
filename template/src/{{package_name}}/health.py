"""/health/live: the process runs. /health/ready: it can do its work."""

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from .lifespan import Connection, ping

router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


async def ping_pools(connection: Connection) -> None:
    await ping(connection.state)


@router.get("/live")
async def live() -> Health:
    """Restart the process when this does not answer."""
    return Health()


@router.get("/ready", dependencies=[Depends(ping_pools)])
async def ready() -> Health:
    """Send no requests while this answers 503."""
    return Health()

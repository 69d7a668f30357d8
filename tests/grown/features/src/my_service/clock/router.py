"""A stream and a WebSocket."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fastapi import WebSocket
from fastapi.sse import EventSourceResponse

from ..auth.dependencies import CurrentPrincipal
from ..dependencies import DrainingDep
from ..routing import Router

router = Router(prefix="/clock", tags=["clock"])


@router.get("/ticks", response_class=EventSourceResponse)
async def stream_ticks(principal: CurrentPrincipal, draining: DrainingDep) -> AsyncGenerator[int]:
    tick = 0
    while not draining.is_set():
        yield tick
        tick += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(draining.wait(), timeout=0.1)


@router.websocket("/socket")
async def echo(websocket: WebSocket, principal: CurrentPrincipal) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())

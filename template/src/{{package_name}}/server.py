"""How the process listens, and how it ends."""

import asyncio
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click
import structlog
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import ChangeReload
from websockets.frames import CloseCode

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


CLOSING = 5  # seconds that the pools have to close, after the last request


class SocketProtocol(WebSocketsSansIOProtocol):
    """Closes with "going away": uvicorn's own code, 1012, promises that the service restarts."""

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.GOING_AWAY})
            self.conn.send_close(CloseCode.GOING_AWAY)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        super().shutdown()


class Server(uvicorn.Server):
    """Ends within `grace` seconds of SIGTERM, and still listens for the first `drain` of them.

    Meanwhile /health/ready answers 503, so that whatever balances the load sends no more requests,
    and streams can end. Ctrl-C waits for no balancer. The same signal again, and the end of the
    time, cancel what still runs, which ends as with any error. `is_cut_short` tells whether there
    was such a request.
    """

    def __init__(self, config: uvicorn.Config, *, drain: int, grace: int) -> None:
        super().__init__(config)
        self.drain = drain
        self.grace = grace
        self.signal: int | None = None  # the first one
        self.deadline: float | None = None  # in the time of the event loop, after a signal
        self.hurry = asyncio.Event()
        self.is_cut_short = False

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn's own would raise the signal again in the end; the exit code would be that of a
        # process that was killed.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            # Ctrl-C reaches the reloader, too, which sends SIGTERM then.
            if sig == self.signal:
                self.stop_listening()
                self.hurry.set()
            return
        self.signal = sig
        if self.started:
            self.lifespan.state["draining"].set()
        self.config.encoded_headers.append((b"connection", b"close"))
        drain = min(self.drain, self.grace) if self.started and sig == signal.SIGTERM else 0
        logger.info("going away", drain=drain, grace=self.grace)
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + self.grace
        loop.call_later(drain, self.stop_listening)

    def stop_listening(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        limit = self.deadline and self.deadline + CLOSING
        cut = asyncio.create_task(self.cut_short())
        try:
            async with asyncio.timeout_at(limit):
                await super().shutdown(sockets)
        except TimeoutError:
            self.is_cut_short = True
            logger.warning("cut short", requests=len(self.server_state.tasks))
        cut.cancel()

    async def cut_short(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self.deadline):
                await self.hurry.wait()
        if self.server_state.tasks:
            self.is_cut_short = True
            logger.warning("cut short", requests=len(self.server_state.tasks))
        for task in self.server_state.tasks:
            task.cancel("cut short")
        await asyncio.sleep(1)  # for the answers; then there are only clients that do not read
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(
    host: str,
    port: int,
    *,
    reload: bool,
    drain: int,
    grace: int,
    max_message_size: int,
    has_docs: bool,
) -> None:
    """Answer requests until a signal; exit with 1 if a request had to be cut short, else with 0."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or PORT."
        ) from None
    if has_docs:
        click.echo(f"Interactive docs: http://{host}:{port}/docs", err=True)
    app = f"{__package__}.main:app"
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        # "auto" would serve errors when the start fails.
        "lifespan": "on",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "ws": SocketProtocol,
        "ws_max_size": max_message_size,
    }
    config = uvicorn.Config(app, reload=reload, reload_dirs=["src"] if reload else None, **options)
    server = Server(config, drain=0 if reload else drain, grace=grace)
    if reload:
        ChangeReload(config, target=server.run, sockets=[config.bind_socket()]).run()
    else:
        server.run()
        sys.exit(int(server.is_cut_short))

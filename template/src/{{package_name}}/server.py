"""Runs the server, and ends it after a signal."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from errno import EACCES, EADDRINUSE
from functools import partial
from ipaddress import ip_network
from types import FrameType
from typing import Any

import click
import structlog
import uvicorn
from uvicorn.supervisors import ChangeReload

from . import signals
from .middleware import HttpSettings
from .protocols import HttpProtocol, SocketProtocol

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


CLOSING = 5  # seconds to close the pools after the last request


class Server(uvicorn.Server):
    """Shuts down after SIGTERM or Ctrl-C.

    After SIGTERM, it accepts requests for `drain` more seconds. /health/ready is 503, so that load
    balancers send no more of them, and streams can end. Ctrl-C does not drain. Running requests are
    cancelled after `grace` seconds, or at a second signal of the same kind; see `is_cut_short`.
    """

    def __init__(self, config: uvicorn.Config, *, drain: int, grace: int) -> None:
        super().__init__(config)
        self.drain = drain
        self.grace = grace
        self.signal: int | None = None  # the first one
        self.deadline: float | None = None  # in the time of the event loop, after a signal
        self.cancel_now = asyncio.Event()
        self.is_cut_short = False

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        # Replace uvicorn's handler, which raises the signal again at the end: the exit code would
        # be that of a killed process.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            # After Ctrl-C, the reloader sends a SIGTERM, too.
            if sig == self.signal:
                self.stop_listening()
                self.cancel_now.set()
            return
        if not self.started:
            signals.end(sig, frame)
        self.signal = sig
        self.lifespan.state["draining"].set()
        self.config.encoded_headers.append((b"connection", b"close"))
        drain = min(self.drain, self.grace) if sig == signal.SIGTERM else 0
        logger.info("going away", drain=drain, grace=self.grace)
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + self.grace
        loop.call_later(drain, self.stop_listening)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpProtocol):
                    connection.close_if_late()
        return await super().on_tick(counter)

    def stop_listening(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        limit = self.deadline and self.deadline + CLOSING
        cut = asyncio.create_task(self.cancel_at_deadline())
        try:
            async with asyncio.timeout_at(limit):
                await super().shutdown(sockets)
        except TimeoutError:
            self.is_cut_short = True
            logger.warning("shutdown timed out", requests=len(self.server_state.tasks))
        cut.cancel()

    async def cancel_at_deadline(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self.deadline):
                await self.cancel_now.wait()
        if self.server_state.tasks:
            self.is_cut_short = True
            logger.warning("requests cancelled", requests=len(self.server_state.tasks))
        for task in self.server_state.tasks:
            task.cancel("cut short")
        await asyncio.sleep(1)  # for the responses; then only clients that do not read are left
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def read_proxies() -> str | None:
    """Read FORWARDED_ALLOW_IPS. Refuse invalid addresses, which uvicorn would accept as names."""
    value = os.environ.get("FORWARDED_ALLOW_IPS", "").strip()
    try:
        networks = [ip_network(part.strip()) for part in value.split(",") if value not in {"", "*"}]
    except ValueError as error:
        raise click.ClickException(
            f"FORWARDED_ALLOW_IPS should be like 10.0.0.1,10.1.0.0/16, or *: {error}."
        ) from None
    return ",".join(map(str, networks)) or value or None


def serve(
    host: str,
    port: int,
    *,
    reload: bool,
    drain: int,
    grace: int,
    limits: HttpSettings,
    has_docs: bool,
) -> None:
    """Serve until a signal. Exit with 1 if a request was cancelled, else with 0."""
    proxies = read_proxies()
    try:
        host.encode("idna")  # fails before there is a socket, which would stay open
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # "::" is any address, also one of IPv4.
        is_dual = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=is_dual)
    except OSError as error:
        is_taken = error.errno in {EACCES, EADDRINUSE}
        option = "--port, or PORT" if is_taken else "--host, or LISTEN_HOST"
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another {option}."
        ) from None
    except UnicodeError:
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: this is no host name. "
            "Choose another --host, or LISTEN_HOST."
        ) from None
    if has_docs:
        click.echo(f"Interactive docs: http://{host}:{port}/docs", err=True)
    app = f"{__package__}.main:app"
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        # With "auto", a failed start would not end the process.
        "lifespan": "on",
        "workers": 1,  # whatever WEB_CONCURRENCY says
        "timeout_keep_alive": limits.keep_alive_timeout,
        "forwarded_allow_ips": proxies,
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "http": partial(HttpProtocol, limits),
        "ws": SocketProtocol,
        "ws_max_size": limits.max_message_size,
    }
    config = uvicorn.Config(app, reload=reload, reload_dirs=["src"] if reload else None, **options)
    server = Server(config, drain=0 if reload else drain, grace=grace)
    if reload:
        ChangeReload(config, target=server.run, sockets=[listener]).run()
    else:
        server.run([listener])
        sys.exit(int(server.is_cut_short))

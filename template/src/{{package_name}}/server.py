"""How the process listens, what it refuses, and how it ends."""

import asyncio
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from itertools import chain
from secrets import token_hex
from types import FrameType
from typing import Any

import click
import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import ChangeReload
from websockets.exceptions import InvalidMessage
from websockets.frames import CloseCode

from . import signals
from .errors import AppError, BadRequest, Unavailable, problem
from .middleware import SECURITY_HEADERS, HttpSettings

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


CLOSING = 5  # seconds that the pools have to close, after the last request
MAX_HEADERS = 100  # of a request
MAX_PIPELINE = 16  # requests of a connection that wait for the response to an earlier one


class InvalidRequest(BadRequest):
    detail = "This is not a valid HTTP request."


class RequestTimeout(AppError):
    status = HTTPStatus.REQUEST_TIMEOUT
    detail = "The request did not arrive in time."


class HeadersTooLarge(AppError):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    detail = "The headers are too large, or there are too many."


class TooManyConnections(Unavailable):
    detail = "There are too many connections at the moment. Try again soon."


def refuse(
    error: AppError, transport: asyncio.Transport, default_headers: list[tuple[bytes, bytes]]
) -> None:
    """Respond to what the application never sees, and close the connection."""
    request_id = token_hex(16)
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        logger.warning("request refused", status=error.status.value, cause=str(error))
        headers = {**error.headers, "X-Request-ID": request_id, "Connection": "close"}
        response = problem(error.status.value, str(error), headers)
    fields = [*default_headers, *response.raw_headers, *SECURITY_HEADERS]
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
    transport.close()


class HttpProtocol(HttpToolsProtocol):
    """Limits what clients can send before the application sees a request, and the connections.

    uvicorn's own collects headers without an end, keeps a connection that sends nothing, and
    begins whatever number of requests arrive at once on a connection.
    """

    def __init__(self, limits: HttpSettings, **options: Any) -> None:
        super().__init__(**options)
        self.limits = limits
        self.headers = []
        self.size = 0  # bytes that have arrived since the last part of a body, or a whole request
        # In the time of the event loop; None while a whole request waits for its response.
        self.deadline: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self.make_room()
        self.expect_request(self.limits.request_timeout)

    def make_room(self) -> None:
        """Close the connection that has not sent a whole request for the longest time."""
        logger.warning("too many connections", limit=self.limits.max_connections)
        deadlines = {
            connection: connection.deadline
            for connection in self.connections
            if isinstance(connection, HttpProtocol) and connection.deadline
        }
        if deadlines:
            oldest = min(deadlines, key=deadlines.__getitem__)
            # It is not lost before others are made.
            self.connections.discard(oldest)
            oldest.transport.abort()

    def expect_request(self, seconds: int) -> None:
        self.deadline = self.loop.time() + seconds

    def close_if_late(self) -> None:
        if self.deadline is None or self.loop.time() < self.deadline or self.transport.is_closing():
            return
        is_in_headers = self.scope is not None and "method" not in self.scope
        if is_in_headers or self.is_responding:
            self.refuse(RequestTimeout())
        else:
            self.transport.close()

    @property
    def is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.size += len(data)
        try:
            self.parser.feed_data(data)
            if self.size > self.limits.max_header_size or len(self.headers) > MAX_HEADERS:
                raise HeadersTooLarge
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._unsupported_upgrade_warning()
        except HeadersTooLarge as error:
            self.refuse(error)
        except httptools.HttpParserError as error:
            reason = error.__context__  # what `on_headers_complete` has raised
            self.refuse(reason if isinstance(reason, AppError) else InvalidRequest())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self.is_responding:
            self.expect_request(self.limits.request_timeout)

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or (
            self.size > self.limits.max_header_size  # perhaps with a body
            and len(self.url) + sum(map(len, chain(*self.headers))) > self.limits.max_header_size
        ):
            raise HeadersTooLarge
        if self.is_responding and (
            len(self.pipeline) == MAX_PIPELINE or self.parser.should_upgrade()
        ):
            raise InvalidRequest
        if len(self.connections) > self.limits.max_connections and not self.url.startswith(
            b"/health/"
        ):
            raise TooManyConnections
        self.size = 0
        # Trailers will be added to `self.headers`, and must not pass for headers.
        self.scope["headers"] = [*self.headers]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.size = 0
        super().on_message_complete()
        if self.is_responding:
            self.deadline = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The next request may be there already, in part or as a whole.
        if self.cycle.response_complete or self.cycle.more_body:
            # An idle connection is closed by uvicorn, a moment before.
            self.expect_request(self.limits.keep_alive_timeout + 1)

    def refuse(self, error: AppError) -> None:
        if self.is_responding and (
            self.pipeline or self.cycle.response_started or not self.cycle.more_body
        ):
            # The client would take it for another response.
            logger.warning("request refused", status=error.status.value, cause=str(error))
            self.transport.close()
        else:
            refuse(error, self.transport, self.server_state.default_headers)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Closes with "going away": uvicorn's own code, 1012, promises that the service restarts."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn leaves a handshake without a response that `websockets` cannot read.
        if self.conn.handshake_exc and not self.handshake_initiated:
            is_invalid = isinstance(self.conn.handshake_exc, InvalidMessage)
            error = InvalidRequest() if is_invalid else HeadersTooLarge()
            refuse(error, self.transport, self.default_headers)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # drops the pong, since the client does not read

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
    limits: HttpSettings,
    has_docs: bool,
) -> None:
    """Answer requests until a signal; exit with 1 if a request had to be cut short, else with 0."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # "::" is any address, also one of IPv4.
        is_dual = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=is_dual)
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
        "timeout_keep_alive": limits.keep_alive_timeout,
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

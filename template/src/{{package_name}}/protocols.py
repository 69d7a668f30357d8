"""What the server reads before the application sees a request, and its limits."""

import asyncio
from http import HTTPStatus
from itertools import chain
from secrets import token_hex
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import SecurityError
from websockets.frames import CloseCode
from websockets.http11 import Request

from .errors import AppError, BadRequest, Unavailable, problem
from .middleware import SECURITY_HEADERS, HttpSettings

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

MAX_HEADERS = 100  # of a request
MAX_PIPELINE = 16  # requests of a connection that wait for the response to an earlier one


class InvalidRequest(BadRequest):
    type = "urn:problem-type:invalid-http"
    detail = "This is not a valid HTTP request."


class RequestTimeout(AppError):
    status = HTTPStatus.REQUEST_TIMEOUT
    type = "urn:problem-type:request-timeout"
    detail = "The request did not arrive in time."


class HeadersTooLarge(AppError):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    type = "urn:problem-type:headers-too-large"
    detail = "The headers are too large, or there are too many."


class TooManyConnections(Unavailable):
    type = "urn:problem-type:too-many-connections"
    detail = "There are too many connections at the moment. Try again soon."


def send_error(
    error: AppError, transport: asyncio.Transport, default_headers: list[tuple[bytes, bytes]]
) -> None:
    """Respond to a request that does not reach the application, and close the connection."""
    request_id = token_hex(16)
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        logger.warning("request refused", status=error.status.value, cause=str(error))
        headers = {**error.headers, "X-Request-ID": request_id, "Connection": "close"}
        response = problem(error.status.value, str(error), headers, type=error.type)
    fields = [*default_headers, *response.raw_headers, *SECURITY_HEADERS]
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
    transport.close()


class HttpProtocol(HttpToolsProtocol):
    """Limits headers, pipelined requests, connections, and the time until a request has arrived.

    uvicorn's protocol has no limits for them.
    """

    def __init__(self, limits: HttpSettings, **options: Any) -> None:
        super().__init__(**options)
        self.limits = limits
        self.headers = []
        self.size = 0  # bytes received since the last body chunk, or the end of the last request
        # In the time of the event loop; None while a whole request waits for its response.
        self.deadline: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self.make_room()
        self.expect_request(self.limits.request_timeout)

    def make_room(self) -> None:
        """Close the connection with the earliest deadline: idle, or with an incomplete request."""
        logger.warning("too many connections", limit=self.limits.max_connections)
        deadlines = {
            connection: connection.deadline
            for connection in self.connections
            if isinstance(connection, HttpProtocol) and connection.deadline
        }
        if deadlines:
            first = min(deadlines, key=deadlines.__getitem__)
            # uvicorn removes it later, perhaps after more connections have been made.
            self.connections.discard(first)
            first.transport.abort()

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
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise InvalidRequest("A request should have one header Host.")
        if self.is_responding and (
            len(self.pipeline) == MAX_PIPELINE or self.parser.should_upgrade()
        ):
            raise InvalidRequest
        if (
            self.parser.should_upgrade()
            and not self._should_upgrade()
            and any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)
        ):
            # The parser would take the body for the next request.
            raise InvalidRequest("A request for an upgrade cannot have a body.")
        if len(self.connections) > self.limits.max_connections and not self.url.startswith(
            b"/health/"
        ):
            raise TooManyConnections
        self.size = 0
        # A copy, since trailers are added to `self.headers` and must not count as headers.
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
        # The next request may have arrived already.
        if self.cycle.response_complete or self.cycle.more_body:
            # An idle connection is closed by uvicorn, a moment before.
            self.expect_request(self.limits.keep_alive_timeout + 1)

    def refuse(self, error: AppError) -> None:
        if self.is_responding and (
            self.pipeline or self.cycle.response_started or not self.cycle.more_body
        ):
            # The client would read it as the response to another request.
            logger.warning("request refused", status=error.status.value, cause=str(error))
            self.transport.close()
        else:
            send_error(error, self.transport, self.server_state.default_headers)


class SocketProtocol(WebSocketsSansIOProtocol):
    """Closes with 1001, "going away". uvicorn's code, 1012, means that the service restarts."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn does not respond to a handshake that `websockets` cannot parse.
        if self.conn.handshake_exc and not self.handshake_initiated:
            is_large = isinstance(self.conn.handshake_exc, SecurityError)
            error = HeadersTooLarge() if is_large else InvalidRequest()
            send_error(error, self.transport, self.default_headers)

    def handle_connect(self, event: Request) -> None:
        # uvicorn would respond to an invalid handshake with plain text.
        if self.conn.accept(event).status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent:
            super().handle_parser_exception()
        else:
            self.transport.abort()  # a frame before the handshake is complete

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

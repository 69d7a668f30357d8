"""What happens around every request and every WebSocket.

It is pure ASGI, since a `BaseHTTPMiddleware` costs 130 µs.
"""

import asyncio
import re
from http import HTTPStatus
from ipaddress import ip_address
from secrets import token_hex
from time import perf_counter
from typing import Annotated

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from pydantic import AfterValidator, Field, PositiveInt
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .errors import Unavailable, problem, respond_to_app_error
from .groups import CommaSeparated, Group, Seconds

# isort: split
# Yours: imports

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()

SANE_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)

# What OWASP's REST Security Cheat Sheet asks for.
SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


# What browsers leave out of an origin.
DEFAULT_PORTS = {"http": 80, "https": 443}


def normalize_host(host: str) -> str:
    """Return it as clients send it in `Host` and `Origin`, or raise `ValueError`."""
    host = host.lower().removesuffix(".")
    if ":" in host:
        return f"[{ip_address(host.removeprefix('[').removesuffix(']'))}]"
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise ValueError("no host")
    return host


def normalize_pattern(pattern: str) -> str:
    if pattern.startswith("*."):
        return f"*.{normalize_host(pattern.removeprefix('*.'))}"
    return pattern if pattern == "*" else normalize_host(pattern)


def normalize_origin(origin: str) -> str:
    if origin == "*":
        return origin
    match = re.fullmatch(r"([\w+.-]+)://(\[.+\]|[^:/?#@*\s]+)(?::(\d*))?", origin, re.ASCII)
    if match is None or match[1].lower() in {"ws", "wss"}:
        raise ValueError("no origin")
    scheme, host, port = match[1].lower(), match[2], match[3]
    if scheme not in DEFAULT_PORTS:  # of an app or an extension, with a name of its own kind
        return scheme + origin[len(scheme) :]
    number = int(port or DEFAULT_PORTS[scheme])
    if number > 65_535:
        raise ValueError("no port")
    suffix = "" if number == DEFAULT_PORTS[scheme] else f":{number}"
    return f"{scheme}://{normalize_host(host)}{suffix}"


def normalize_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(map(normalize_pattern, hosts))
    except ValueError:
        raise ValueError("should be example.com, *.example.com or *, without a port") from None


def normalize_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(map(normalize_origin, origins))
    except ValueError:
        raise ValueError("should be https://example.com, without a path, or *") from None


class HttpSettings(Group):
    allowed_hosts: Annotated[
        CommaSeparated, AfterValidator(normalize_hosts), Field(min_length=1)
    ] = ("*",)
    cors_origins: Annotated[CommaSeparated, AfterValidator(normalize_origins)] = ()
    # Bytes, with the request line; almost no request has fewer than 1024.
    max_header_size: Annotated[int, Field(ge=1_024)] = 65_536
    max_body_size: PositiveInt = 1_048_576  # bytes
    max_message_size: PositiveInt = 65_536  # bytes, of a WebSocket
    max_connections: PositiveInt = 256
    request_timeout: Seconds = 60  # until a request has arrived
    keep_alive_timeout: Seconds = 75  # until an idle connection is closed


class Exchange:
    """A request and its response, which gets headers, and a line in the log when it is complete."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.request_id = (b"x-request-id", request_id.encode())
        self.started = perf_counter()
        self.status: int | None = None
        self.is_logged = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start_response(message)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.log()

    def start_response(self, message: Message) -> None:
        self.status = message["status"]
        headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
        names = {name for name, _ in headers}
        headers.append(self.request_id)
        headers += [pair for pair in SECURITY_HEADERS if pair[0] not in names]
        message["headers"] = headers

    def log(self) -> None:
        self.is_logged = True
        logger.info(
            "request",
            method=self.scope.get("method", "GET"),
            route=get_route(self.scope),
            status=self.status,
            milliseconds=round((perf_counter() - self.started) * 1000, 1),
        )


class SocketExchange(Exchange):
    """A WebSocket, which gets its line in the log when it is closed.

    An error refuses the handshake with a problem document. After the handshake, it closes the
    WebSocket: 401 with the code 4401, 500 with 4500.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        super().__init__(scope, self.receive_message, send, request_id)
        self._receive = receive
        self.is_accepted = False
        self.code: int | None = None

    async def receive_message(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect" and self.code is None:
            self.code = message["code"]
        return message

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                self.is_accepted = True
                message["headers"] = [*message.get("headers", ()), self.request_id]
            case "websocket.close":
                self.code, self.status = message.get("code", 1000), HTTPStatus.FORBIDDEN.value
            case "websocket.http.response.start" if self.is_accepted:
                if self.code is not None:
                    return
                self.code = 4000 + message["status"]
                message = {"type": "websocket.close", "code": self.code}
            case "websocket.http.response.body" if self.is_accepted:
                return
            case "websocket.http.response.start":
                self.start_response(message)
        await self._send(message)

    def log(self) -> None:
        if not self.is_accepted:
            super().log()
            return
        logger.info(
            "websocket",
            route=get_route(self.scope),
            code=self.code,
            milliseconds=round((perf_counter() - self.started) * 1000, 1),
        )


class RequestMiddleware:
    """Give each request an id and a line in the log, its response the id and security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("X-Request-ID", "")
        if not SANE_REQUEST_ID.fullmatch(request_id):
            request_id = token_hex(16)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        kind = SocketExchange if scope["type"] == "websocket" else Exchange
        exchange = kind(scope, receive, send, request_id)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.is_logged:
                raise
            # The response is complete, so only the log can know.
            logger.exception("unexpected error")
        finally:
            if not exchange.is_logged:
                exchange.log()


class ProblemMiddleware:
    """Problem documents for what error handlers do not see: bugs, and the text of middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        started = False
        refusal = 0

        async def send_problem(message: Message) -> None:
            nonlocal started, refusal
            # A WebSocket that is refused has a response, too: `websocket.http.response.start`.
            kind = message["type"].removeprefix("websocket.")
            if kind == "http.response.start":
                started = True
                status, headers = message["status"], Headers(raw=message["headers"])
                # An endpoint may answer with plain text. Only the body's limit comes after it.
                if "endpoint" not in scope or status == 413:
                    refusal = status if headers.get("Content-Type", "").startswith("text") else 0
            if not refusal:
                await send(message)
            elif kind == "http.response.body":
                await problem(refusal, message["body"].decode())(scope, receive, send)

        try:
            await self.app(scope, receive, send_problem)
        except WebSocketDisconnect:
            pass  # an endpoint need not catch it
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise  # of another task
            # The server ends and cannot wait any longer. The task ends here, too, so nobody else
            # has to know; a response that has begun is cut.
            if not started:
                await respond_to_app_error(Unavailable(), error)(scope, receive, send)
        except Exception:
            if started:
                raise  # so that the server cuts the connection: the response is not complete
            logger.exception("unexpected error")
            await problem(500)(scope, receive, send)


class ProblemCORSMiddleware(CORSMiddleware):
    """Refuse with a problem document: this is around `ProblemMiddleware`, so that errors, too, have
    the headers of CORS.
    """

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return problem(response.status_code, bytes(response.body).decode())


class HeadMiddleware:
    """Respond to HEAD as to GET, without the body, where no route declares it (RFC 9110 §9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        is_declared = True

        async def send_if_declared(message: Message) -> None:
            nonlocal is_declared
            if message["type"] == "http.response.start":
                is_declared = message["status"] != HTTPStatus.METHOD_NOT_ALLOWED
            if is_declared:
                await send(message)

        await self.app(scope, receive, send_if_declared)
        if is_declared:
            return
        get = {**scope, "method": "GET"}

        async def send_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope.update(get, method="HEAD")  # with the route, for the log
                await send(message)
                # The body may be a stream without an end, which ends with its response.
                await send({"type": "http.response.body"})

        await self.app(get, receive, send_start)


class HostMiddleware(TrustedHostMiddleware):
    """Refuse other hosts than the allowed ones, but not to probes: they ask an address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and path.startswith("/health/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def get_route(scope: Scope) -> str | None:
    """The template of the path, `/v1/items/{item_id}`, or None where no route matched."""
    # `scope["route"].path` lacks the prefixes of `include_router`.
    context = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    # That of a WebSocket has its path in a route of its own.
    route = getattr(context, "starlette_route", None) or context
    return getattr(route, "path", None)


def add_middleware(app: FastAPI, settings: HttpSettings) -> None:
    """Each is wrapped around those above it: the last one sees a request first."""
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_size)
    app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.add_middleware(ProblemMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            ProblemCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "WWW-Authenticate", "X-Request-ID"],
        )
    # Yours: middleware
    app.add_middleware(RequestMiddleware)

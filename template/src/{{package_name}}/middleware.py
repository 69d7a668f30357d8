"""What happens around every request; pure ASGI, since a `BaseHTTPMiddleware` costs 130 µs."""

import asyncio
import re
from secrets import token_hex
from time import perf_counter
from typing import Annotated

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from pydantic import AfterValidator, PositiveInt
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import Unavailable, problem, respond_to_app_error
from .groups import CommaSeparated, Group

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


def check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"\*|(\*\.)?[^*/\s]+", host) for host in hosts):
        raise ValueError("should be example.com, *.example.com or *")
    return hosts


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"\*|https?://[^*/\s]+", origin) for origin in origins):
        raise ValueError("should be https://example.com, without a path, or *")
    return origins


class HttpSettings(Group):
    allowed_hosts: Annotated[CommaSeparated, AfterValidator(check_hosts)] = ("*",)
    cors_origins: Annotated[CommaSeparated, AfterValidator(check_origins)] = ()
    max_body_size: PositiveInt = 1_048_576  # bytes


class RequestMiddleware:
    """Give each request an id and a line in the log, its response the id and security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        request_id = Headers(scope=scope).get("X-Request-ID", "")
        if not SANE_REQUEST_ID.fullmatch(request_id):
            request_id = token_hex(16)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                given = {name for name, _ in headers}
                headers.append((b"x-request-id", request_id.encode()))
                headers += [pair for pair in SECURITY_HEADERS if pair[0] not in given]
                message["headers"] = headers
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            logger.info(
                "request",
                method=scope["method"],
                route=get_route(scope),
                status=status,
                milliseconds=round((perf_counter() - started) * 1000, 1),
            )


class ProblemMiddleware:
    """Problem documents for what error handlers do not see: bugs, and the text of middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        refusal = 0

        async def send_problem(message: Message) -> None:
            nonlocal started, refusal
            if message["type"] == "http.response.start":
                started = True
                status, headers = message["status"], Headers(raw=message["headers"])
                # An endpoint may answer with plain text. Only the body's limit comes after it.
                if "endpoint" not in scope or status == 413:
                    refusal = status if headers.get("Content-Type", "").startswith("text") else 0
            if not refusal:
                await send(message)
            elif message["type"] == "http.response.body":
                await problem(refusal, message["body"].decode())(scope, receive, send)

        try:
            await self.app(scope, receive, send_problem)
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


class HostMiddleware(TrustedHostMiddleware):
    """Refuse other hosts than the allowed ones, but not to probes: they ask an address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/health/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def get_route(scope: Scope) -> str | None:
    """The template of the path, `/v1/items/{item_id}`, or None where no route matched."""
    # `scope["route"].path` lacks the prefixes of `include_router`.
    context = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return getattr(context, "path", None)


def add_middleware(app: FastAPI, settings: HttpSettings) -> None:
    """Each is wrapped around those above it: the last one sees a request first."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_size)
    app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    app.add_middleware(ProblemMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            ProblemCORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )
    # Yours: middleware
    app.add_middleware(RequestMiddleware)

"""The floor with request ids, an access log and security headers."""

import json
import sys
from datetime import UTC, datetime
from secrets import token_hex
from time import perf_counter

from floor import app as floor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class Frame:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = perf_counter(), 0
        request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode() or token_hex(16)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], own, *SECURITY_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            line = {
                "method": scope["method"],
                "route": scope["path"],
                "status": status,
                "milliseconds": round((perf_counter() - start) * 1000, 1),
                "event": "request",
                "request_id": request_id,
                "level": "info",
                "timestamp": datetime.now(UTC).isoformat(),
            }
            sys.stderr.write(json.dumps(line) + "\n")


app = Frame(floor)

"""Spans of requests to other services."""

from typing import Any

from httpx2 import AsyncClient, Request, Response
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind

from .spans import set_error, start_span


class TracedClient(AsyncClient):
    """Makes a span of each request, and sends the ids of the trace with it (W3C Trace Context).

    The span has neither the path nor the query, which may contain values. It ends when the headers
    of the response have arrived, for a stream, or else the body.
    """

    async def send(self, request: Request, **options: Any) -> Response:
        attributes = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "server.port": request.url.port or (443 if request.url.scheme == "https" else 80),
        }
        with start_span(request.method, kind=SpanKind.CLIENT, attributes=attributes) as span:
            inject(request.headers)
            response = await super().send(request, **options)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                set_error(span, str(response.status_code))
            return response

"""Serves metrics to Prometheus, on a port of their own."""

from collections.abc import Callable, Iterator
from io import StringIO
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_SCRAPES = 10  # at the same time

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


class MetricsHandler(WSGIRequestHandler):
    timeout = 5  # seconds without a byte from the client

    def get_stderr(self) -> TextIO:
        return StringIO()

    def log_message(self, format: str, *args: object) -> None:
        pass


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves a few clients at once, so that idle connections do not use up threads and files."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        self._places = BoundedSemaphore(MAX_SCRAPES)
        super().__init__((host, port), MetricsHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client has left, or is too slow. By default, this prints a traceback."""


def serve_metrics(
    registry: CollectorRegistry, host: str, port: int
) -> Iterator[Callable[[], object]]:
    """Serve `/metrics` in threads, so also while the event loop is blocked."""
    try:
        server = MetricsServer(host, port)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        logger.warning("metrics are not served", port=port, cause=cause)
        return
    server.set_app(make_wsgi_app(registry))
    Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    yield stop

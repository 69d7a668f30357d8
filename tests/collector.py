"""A receiver of OTLP over HTTP, which tests stop and restart, and whose data they read."""

import time
from collections.abc import Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from postgres import HOST, free_port

Attributes = dict[str, Any]


def read_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return kind and getattr(value, kind)


def read_attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: read_value(pair.value) for pair in pairs}


class Span:
    def __init__(self, span: trace_pb2.Span, resource: Attributes) -> None:
        self.name = span.name
        self.kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.trace_id = span.trace_id.hex()
        self.span_id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.is_error = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        self.attributes = read_attributes(span.attributes)
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.events = [(event.name, read_attributes(event.attributes)) for event in span.events]
        self.resource = resource

    def __repr__(self) -> str:
        return f"<{self.name} {self.attributes}>"


class Metric(NamedTuple):
    name: str
    kind: str  # counter, sum, gauge or histogram
    unit: str


def find_kind(metric: metrics_pb2.Metric) -> str:
    kind = str(metric.WhichOneof("data"))
    return "counter" if kind == "sum" and metric.sum.is_monotonic else kind


def find_attributes(metric: metrics_pb2.Metric) -> set[str]:
    """Return the keys of all points."""
    points = getattr(metric, str(metric.WhichOneof("data"))).data_points
    return {key for point in points for key in read_attributes(point.attributes)}


class Collector:
    """It comes back on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200  # of its responses; with another one, it ignores what it gets
        self.delay = 0.0  # seconds until it responds
        self.requests: list[str] = []  # the paths
        self.waiting = 0  # requests that it does not read, since it is frozen
        self.authorizations: set[str | None] = set()
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.metrics: dict[Metric, set[str]] = {}  # with the keys of their attributes
        self.resources: list[Attributes] = []  # of metrics
        self._is_running = Event()
        self._is_running.set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def begin(self) -> None:
        self._server = ThreadingHTTPServer((HOST, self.port), partial(Handler, self))
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def halt(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def freeze(self) -> None:
        """Accept connections, and do not read them."""
        self._is_running.clear()

    def go_on(self) -> None:
        self._is_running.set()

    def wait(self) -> None:
        self.waiting += 1
        self._is_running.wait()
        self.waiting -= 1
        time.sleep(self.delay)

    def receive(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/traces":
            for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = read_attributes(part.resource.attributes)
                scopes = part.scope_spans
                self.spans += [Span(span, resource) for scope in scopes for span in scope.spans]
        else:
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(read_attributes(group.resource.attributes))
                for metric in (each for scope in group.scope_metrics for each in scope.metrics):
                    key = Metric(metric.name, find_kind(metric), metric.unit)
                    self.metrics.setdefault(key, set()).update(find_attributes(metric))

    def has(self, value: str) -> bool:
        """Whether any span or metric contains a text."""
        return any(value.encode() in body for body in self.bodies)

    def list_trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


class Handler(BaseHTTPRequestHandler):
    def __init__(self, collector: Collector, *arguments: Any) -> None:
        self.collector = collector
        super().__init__(*arguments)

    def do_POST(self) -> None:
        collector = self.collector
        collector.requests.append(self.path)
        collector.wait()
        collector.authorizations.add(self.headers["Authorization"])
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if collector.status == 200 and len(body) == length:
            collector.receive(self.path, body)
        try:
            self.send_response(collector.status)
            self.end_headers()
        except OSError:
            self.close_connection = True  # the client has given up

    def log_message(self, format: str, *args: object) -> None:
        pass

"""Spans and metrics of requests, which FastAPI makes."""

from fastapi.telemetry import TelemetryConfig

from ..middleware import is_probe

TELEMETRY: TelemetryConfig = {
    "exclude": is_probe,
    "auto_configure": False,  # `open_telemetry` does it
    # Its log records contain values of requests. Our log does not, and has the ids of traces.
    "logs": False,
    # Spans for dependencies and serialization would double the cost of a trace.
    "operation_spans": False,
}

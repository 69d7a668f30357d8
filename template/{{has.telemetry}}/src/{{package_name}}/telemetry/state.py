"""What exports traces and metrics for as long as the process lives."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from threading import Thread

import structlog

from .settings import OtelSettings, TelemetrySettings

SHUTDOWN = 1.5  # seconds to export what is left

logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()


@asynccontextmanager
async def open_telemetry(
    settings: TelemetrySettings, otel: OtelSettings, environment: str
) -> AsyncGenerator[None]:
    """Export traces and metrics, as far as the settings ask for it.

    The providers are those of the process, as for every library that uses OpenTelemetry. They
    cannot be replaced, so only the first block in a process exports.
    """
    closing: list[Callable[[], object]] = []
    try:
        if not otel.sdk_disabled:
            closing += start(settings, otel, environment)
    except Exception as error:  # of a variable that only the SDK reads
        logger.warning("telemetry is incomplete", cause=f"{type(error).__name__}: {error}")
    try:
        yield
    finally:
        await asyncio.gather(*map(close, closing))


def start(
    settings: TelemetrySettings, otel: OtelSettings, environment: str
) -> Iterator[Callable[[], object]]:
    """Start what is configured, metrics first. Yield functions to call at the end."""
    has_traces = otel.traces_endpoint or "console" in otel.traces_exporter
    has_metrics = otel.metrics_endpoint or settings.metrics_port
    if has_traces or has_metrics:
        from . import export  # here, since importing the SDK takes a quarter of a second

        resource = export.make_resource(environment)
        if has_metrics:
            yield from export.start_metrics(settings, otel, resource)
        if has_traces:
            yield export.start_traces(otel, resource)


async def close(function: Callable[[], object]) -> None:
    """Call a function that may wait for a collector, but do not wait for longer than `SHUTDOWN`."""
    is_closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def run() -> None:
        with suppress(Exception):  # it has logged why nothing is exported
            function()
        with suppress(RuntimeError):  # the event loop has ended before
            loop.call_soon_threadsafe(is_closed.set)

    # A thread of an executor would keep the process alive.
    Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(SHUTDOWN):
            await is_closed.wait()

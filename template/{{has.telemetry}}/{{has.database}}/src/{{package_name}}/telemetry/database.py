"""Spans of SQL statements, and the usage of the pools."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

from opentelemetry.metrics import Observation
from opentelemetry.trace import Span, SpanKind, get_current_span
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext

from ..database import Database
from ..pool import FairPool
from .gauges import Gauge
from .spans import TRACER, set_error

CONNECTIONS = Gauge(
    "db.client.connection.count", "sum", unit="{connection}", description="Connections by state."
)
MAXIMUM = Gauge(
    "db.client.connection.max",
    "sum",
    unit="{connection}",
    description="Connections that the pool may open.",
)
PENDING = Gauge(
    "db.client.connection.pending_requests",
    "sum",
    unit="{request}",
    description="Requests that wait for a connection.",
)


class PoolUsage:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _pool(self) -> FairPool:
        return cast("FairPool", self._engine.pool)

    def count(self) -> Iterable[Observation]:
        counts = {"used": self._pool.checkedout(), "idle": self._pool.checkedin()}
        for state, number in counts.items():
            attributes = {**self._pool.attributes, "db.client.connection.state": state}
            yield Observation(number, attributes)

    def read_size(self) -> Iterable[Observation]:
        yield Observation(self._pool.size(), self._pool.attributes)

    def count_pending(self) -> Iterable[Observation]:
        yield Observation(self._pool.count_waiting(), self._pool.attributes)


@asynccontextmanager
async def observe_database(database: Database) -> AsyncGenerator[None]:
    """Trace the statements of both pools, and measure their usage."""
    with ExitStack() as stack:
        for sessions in (database.write, database.read):
            engine = sessions.kw["bind"].sync_engine
            trace_statements(engine)
            usage = PoolUsage(engine)
            stack.enter_context(CONNECTIONS.observe(usage.count))
            stack.enter_context(MAXIMUM.observe(usage.read_size))
            stack.enter_context(PENDING.observe(usage.count_pending))
        yield


def trace_statements(engine: Engine) -> None:
    """Make a span of each statement that is part of a trace, without its values."""
    event.listen(engine, "before_cursor_execute", start)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)


def start(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> None:
    # The span of a request has ended before its background tasks start.
    if not get_current_span().get_span_context().trace_flags.sampled:
        return
    operation = next(iter(statement.split(maxsplit=1)), "").upper()
    attributes = {
        "db.system.name": "postgresql",
        "db.namespace": connection.engine.url.database or "",
        "db.operation.name": operation,
        "db.query.text": statement,
        **connection.engine.pool.attributes,
    }
    context.span = TRACER.start_span(operation, kind=SpanKind.CLIENT, attributes=attributes)


def end(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> None:
    if span := pop_span(context):
        span.end()


def fail(error: ExceptionContext) -> None:
    if span := pop_span(error.execution_context):
        original = error.original_exception
        set_error(span, getattr(original, "sqlstate", None) or type(original).__name__)
        span.end()


def pop_span(context: Any) -> Span | None:
    return vars(context).pop("span", None) if context else None

"""Spans and metrics of jobs, and of their queue."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from functools import wraps
from time import monotonic, perf_counter
from typing import Any, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.trace import Link, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..jobs.engine import Claimed, JobEngine
from ..jobs.handlers import Outcome
from ..jobs.queue import Length
from .gauges import METER, Gauge
from .spans import set_error, start_span

TIME_LIMIT = 2.0  # seconds to measure the queue

DURATION = METER.create_histogram(
    "jobs.duration",
    unit="s",
    description="Duration of attempts to run a job.",
    explicit_bucket_boundaries_advisory=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300),
)
COUNT = Gauge("jobs.count", "gauge", unit="{job}", description="Jobs that are due, or failed.")
AGE = Gauge("jobs.oldest.age", "gauge", unit="s", description="How long the oldest job is due.")

WorkerType = TypeVar("WorkerType")
Execute = Callable[[WorkerType, Claimed], Coroutine[Any, Any, Outcome]]


def traced_job(execute: Execute[WorkerType]) -> Execute[WorkerType]:
    """Run each attempt in a trace of its own, with a link to the request that added the job."""

    @wraps(execute)
    async def call(worker: WorkerType, job: Claimed) -> Outcome:
        start = perf_counter()
        with start_span(
            f"job {job.name}",
            kind=SpanKind.CONSUMER,
            attributes={"job.name": job.name, "job.attempt": job.attempts},
            links=find_links(job.context),
            context=Context(),
        ) as span:
            outcome = await execute(worker, job)
            span.set_attribute("job.outcome", outcome.name)
            if outcome.error:
                set_error(span, type(outcome.error).__name__)
        attributes = {"job.name": job.name, "job.outcome": outcome.name}
        DURATION.record(perf_counter() - start, attributes)
        return outcome

    return call


def find_links(carrier: Mapping[str, str]) -> list[Link]:
    context = TraceContextTextMapPropagator().extract(carrier, Context())
    span_context = get_current_span(context).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


class QueueLength:
    """Measures the queue when a metric is exported, which happens in another thread."""

    def __init__(self, engine: JobEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._measurement: Future[Length | None] | None = None
        self._measured_at = 0.0
        self._length: Length | None = None

    def count(self) -> Iterable[Observation]:
        length = self._read()
        counts = {"due": length.due, "failed": length.failed} if length else {}
        return [Observation(number, {"job.state": state}) for state, number in counts.items()]

    def read_age(self) -> Iterable[Observation]:
        length = self._read()
        return [Observation(length.oldest)] if length else []

    def _read(self) -> Length | None:
        """Return None if the queue is unreachable, or the event loop is blocked."""
        if monotonic() - self._measured_at > 1:  # one query for both metrics
            if self._measurement is None or self._measurement.done():
                measurement = self._engine.measure()
                self._measurement = asyncio.run_coroutine_threadsafe(measurement, self._loop)
            try:
                self._length = self._measurement.result(TIME_LIMIT)
            except (CancelledError, TimeoutError):
                self._length = None
            self._measured_at = monotonic()
        return self._length


@asynccontextmanager
async def observe_queue(engine: JobEngine) -> AsyncGenerator[None]:
    length = QueueLength(engine)
    with COUNT.observe(length.count), AGE.observe(length.read_age):
        yield

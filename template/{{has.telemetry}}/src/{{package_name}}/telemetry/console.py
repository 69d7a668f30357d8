"""Prints finished traces, for development."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

# What a line shows of a span, besides its name and its time.
ATTRIBUTES = ("http.response.status_code", "job.outcome", "db.query.text", "error.type")
MAX_TEXT = 100  # characters of a value

Tree = defaultdict[int | None, list[ReadableSpan]]


class TracePrinter(SpanProcessor):
    """Prints a trace as a tree when none of its spans is open.

    So spans of background tasks, which start after the request has ended, are trees of their own.
    """

    def __init__(self) -> None:
        self._spans: defaultdict[int, list[ReadableSpan]] = defaultdict(list)
        self._open: Counter[int] = Counter()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._open[get_ids(span).trace_id] += 1

    def on_end(self, span: ReadableSpan) -> None:
        trace_id = get_ids(span).trace_id
        self._spans[trace_id].append(span)
        self._open[trace_id] -= 1
        if not self._open[trace_id]:
            del self._open[trace_id]
            print(format_trace(self._spans.pop(trace_id)), file=sys.stderr)


def get_ids(span: ReadableSpan) -> SpanContext:
    return span.get_span_context() or INVALID_SPAN_CONTEXT


def format_trace(spans: Sequence[ReadableSpan]) -> str:
    """Return a line for each span, below its parent and in order of time."""
    ids = {get_ids(span).span_id for span in spans}
    children: Tree = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent else None
        children[parent if parent in ids else None].append(span)
    trace_id = get_ids(spans[0]).trace_id
    return "\n".join([f"trace {trace_id:032x}", *format_children(children, None, "  ")])


def format_children(children: Tree, parent: int | None, indent: str) -> Iterator[str]:
    for span in children[parent]:
        milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1_000_000
        values = [(span.attributes or {}).get(name) for name in ATTRIBUTES]
        texts = [" ".join(str(value).split())[:MAX_TEXT] for value in values if value is not None]
        yield f"{indent}{milliseconds:8.1f} ms  {'  '.join([span.name, *texts])}"
        yield from format_children(children, get_ids(span).span_id, f"{indent}  ")

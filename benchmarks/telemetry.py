"""What telemetry costs requests: a service without it beside one that exports more and more."""

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from threading import Thread
from typing import Any

from harness import succeed
from postgres import HOST, free_port

from .servers import Bench, running
from .work import WORK, Sample, measure

ROUNDS = 7
WORKS = [WORK["health"], WORK["claims"], WORK["caller"], WORK["list"]]
REFERENCE = "without"
WATCHED = 20  # seconds
WATCH = f"""
import asyncio, sys, time
from contextlib import nullcontext
import uvloop
from my_service.event_loop import watch_event_loop
async def main():
    async with watch_event_loop() if sys.argv[1] else nullcontext():
        start = time.process_time()
        await asyncio.sleep({WATCHED})
        print(time.process_time() - start)
uvloop.run(main())
"""


class Collector(BaseHTTPRequestHandler):
    """Receives what a service exports, and forgets it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def collecting() -> Generator[str]:
    """Yield the endpoint of a collector."""
    with ThreadingHTTPServer((HOST, 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


def measure_watch(bench: Bench) -> float:
    """Return the processor time per second, in ms, of watching an idle event loop."""
    times = {
        is_watched: float(succeed(bench.project, ".venv/bin/python", "-c", WATCH, is_watched))
        for is_watched in ("", "watched")
    }
    return (times["watched"] - times[""]) / WATCHED * 1000


def measure_all(seconds: int) -> dict[str, Any]:
    """Return the median CPU time of each case by the kind of work, and of its ratio."""
    with (
        running() as default,
        running(telemetry="opentelemetry") as bench,
        collecting() as endpoint,
    ):
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
        servers = {
            REFERENCE: (default, default.start("keel")),
            "off": (bench, bench.start("keel")),
            "metrics": (bench, bench.start("keel", TELEMETRY_METRICS_PORT=str(free_port()))),
            "metrics and 10 % of the traces": (
                bench,
                bench.start("keel", **traces, **sampler, OTEL_TRACES_SAMPLER_ARG="0.1"),
            ),
            "metrics and traces": (bench, bench.start("keel", **traces)),
        }
        for each in (default, bench):
            each.log_in(next(server for owner, server in servers.values() if owner is each))
        watch = measure_watch(default)
        rounds: list[dict[str, dict[str, Sample]]] = [
            {
                work.name: {
                    case: measure(owner, server, work, 20, seconds)
                    for case, (owner, server) in servers.items()
                }
                for work in WORKS
            }
            for _ in range(ROUNDS)
        ]
    samples = [sample for each in rounds for kind in each.values() for sample in kind.values()]
    assert sum(sample.errors for sample in samples) == 0
    cases = {
        case: {
            work.name: {
                "cpu": median(each[work.name][case].cpu for each in rounds),
                "ratio": median(
                    each[work.name][case].cpu / each[work.name][REFERENCE].cpu for each in rounds
                ),
            }
            for work in WORKS
        }
        for case in servers
    }
    return {"watch": watch, "cases": cases}

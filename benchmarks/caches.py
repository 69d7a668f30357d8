"""What the cache saves, and what limits cost: pairs of requests that differ in one thing."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median

from breakable import Valkey

from . import HERE
from .servers import PACKAGE, Bench, Server, running
from .work import Sample, Work, measure

ROUNDS = 5
CONNECTIONS = (20, 100)
STATISTICS = Work("statistics", "/v1/items/statistics/words")
# What is compared: the server and the work without the cache, and those with it.
Pair = tuple[Server, Work, Server, Work]


@contextmanager
def caching() -> Generator[tuple[Bench, dict[str, Pair]]]:
    """Yield a bench whose service has a cache, and what to compare."""
    with running(cache="redis") as bench:
        valkey = Valkey(bench.project)
        valkey.begin()
        bench.stack.callback(valkey.halt)
        shutil.copy(HERE / "limited.py", bench.project / PACKAGE)
        app = bench.project / PACKAGE / "app.py"
        lines = "# Yours: imports\nfrom .limited import add_limited\n"
        text = app.read_text().replace("# Yours: imports\n", lines, 1)
        app.write_text(
            text.replace("    # Yours: routers\n", "    # Yours: routers\n    add_limited(app)\n")
        )
        limits = {"LIMITS_WRITES": "1000000/second"}
        cached = bench.start("keel", CACHE_URL=valkey.url, **limits)
        # Where no server listens: values are computed, and requests are not counted.
        computed = bench.start("keel", CACHE_URL="redis://127.0.0.1:1", **limits)
        bench.log_in(cached)
        plain, limited = (Work(name, f"/v1/limits/{name}") for name in ("none", "one"))
        create = Work("create", "/v1/items", "POST", '{"name": "new {number}"}', 201)
        yield (
            bench,
            {
                "a hit instead of the queries": (computed, STATISTICS, cached, STATISTICS),
                "a limit": (cached, plain, cached, limited),
                "a write, with its limit and an invalidation": (computed, create, cached, create),
                "the limit while the cache is unreachable": (computed, plain, computed, limited),
            },
        )


def measure_all(seconds: int) -> list[dict[str, str | float]]:
    """Return the medians of the CPU time and the rates, and of their ratios, measured in turn."""
    rows: list[dict[str, str | float]] = []
    with caching() as (bench, pairs):
        for connections in CONNECTIONS:
            rounds: dict[str, list[tuple[Sample, Sample]]] = {name: [] for name in pairs}
            for _ in range(ROUNDS):
                for name, (server, work, other_server, other_work) in pairs.items():
                    before = measure(bench, server, work, connections, seconds)
                    after = measure(bench, other_server, other_work, connections, seconds)
                    assert before.errors == after.errors == 0
                    rounds[name].append((before, after))
            rows += [
                {
                    "work": name,
                    "connections": connections,
                    "without": median(before.cpu for before, _ in samples),
                    "with": median(after.cpu for _, after in samples),
                    "cpu": median(after.cpu / before.cpu for before, after in samples),
                    "rate": median(after.rate / before.rate for before, after in samples),
                }
                for name, samples in rounds.items()
            ]
    return rows

"""Measures and writes the page: `uvx nox -s benchmarks`."""

import json
import os
import platform
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from harness import succeed

from . import HERE, caches, full, growth, own, page, queues, telemetry, tenants
from .servers import CORES, NAMES, OTHERS, Bench, Server, running
from .work import WORK, WORKS, Sample, Work, measure

RESULTS = "results.json"
CONNECTIONS = (1, 20, 100)
PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic", "sqlalchemy")
PACKAGES += ("asyncpg", "pyjwt", "argon2-cffi", "structlog")
# What can be measured alone, by its option and its place in the results.
PARTS: dict[str, Callable[[int], Any]] = {
    "tenants": tenants.measure_all,
    "caches": caches.measure_all,
    "telemetry": telemetry.measure_all,
    "full": full.measure_all,
}


def main(options: Namespace) -> None:
    folder = Path(mkdtemp(prefix="benchmarks-")) if options.quick else HERE
    if options.suite:
        keep(folder, read(folder) | {"suite": own.measure_suite()})
    elif options.queues:
        keep(folder, read(HERE) | {"queues": queues.measure_all(options.jobs, options.rounds)})
    elif names := [name for name in PARTS if getattr(options, name)]:
        os.sched_setaffinity(0, OTHERS)
        for name in names:
            keep(folder, read(HERE) | {name: PARTS[name](options.seconds)})
    elif not options.page:
        if not shutil.which("wrk"):
            sys.exit("The load comes from wrk: apt install wrk, or brew install wrk.")
        os.sched_setaffinity(0, OTHERS)  # child processes inherit these cores
        with running() as bench:
            results: dict[str, Any] = read(folder) if options.fairness else {}
            for part in measure_all(bench, options):
                results |= part  # saved after each part, because all take an hour
                keep(folder, results)
    page.write(folder)
    print(folder / "README.md")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULTS).read_text())


def keep(folder: Path, results: dict[str, Any]) -> None:
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n")


def measure_all(bench: Bench, options: Namespace) -> Iterator[dict[str, Any]]:
    servers = [bench.start(name) for name in NAMES]
    bench.log_in(servers[0])
    rounds, seconds = options.rounds, options.seconds
    yield {"fairness": growth.measure_fairness(bench, seconds)}
    if options.fairness:
        return
    yield {"about": describe(bench, options)}
    yield {"rounds": measure_rounds(bench, servers, rounds, seconds)}
    yield {"scaling": measure_scaling(bench, servers, rounds, seconds)}
    yield {"growth": growth.measure_all(bench, seconds, options.rows, options.requests)}
    os.sched_setaffinity(0, CORES)
    yield {"own": own.measure_all(bench)}
    yield {"queues": queues.measure_all(options.jobs, options.rounds)}
    for name, measure_part in PARTS.items():
        yield {name: measure_part(seconds)}


def describe(bench: Bench, options: Namespace) -> dict[str, Any]:
    code = f"from importlib.metadata import version as v; print(*map(v, {PACKAGES}))"
    versions = succeed(bench.project, ".venv/bin/python", "-c", code).split()
    with bench.postgres.connect() as connection:
        database = connection.execute("SHOW server_version").fetchone()
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(CORES),
        "machine": f"{cpu[0].partition(': ')[2] if cpu else platform.machine()}, "
        f"{len(CORES)} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        "load": [round(number, 1) for number in os.getloadavg()],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {"Python": platform.python_version(), "PostgreSQL": (database or [""])[0]}
        | dict(zip(PACKAGES, versions, strict=True)),
    }


def measure_rounds(
    bench: Bench, servers: list[Server], rounds: int, seconds: int
) -> list[list[dict[str, Any]]]:
    """Measure the servers in turn, so that other load on the machine affects all of them."""
    cells = [(work, connections) for connections in CONNECTIONS for work in WORKS]
    for work in WORKS:  # warm up
        for server in servers:
            measure(bench, server, work, 20, 1)
    results = []
    for number in range(rounds):
        samples: list[dict[str, Any]] = []
        for work, connections in cells:
            print(f"round {number + 1}: {work.name}, {connections} connections", file=sys.stderr)
            samples += [
                asdict(measure(bench, server, work, connections, seconds)) for server in servers
            ]
        results.append(samples)
    return results


def measure_scaling(
    bench: Bench, servers: list[Server], rounds: int, seconds: int
) -> list[dict[str, dict[str, float]]]:
    """Compare one process on one core with two processes on two cores, with the same load each."""
    second_servers = [bench.start(server.name, CORES[1:2] or CORES) for server in servers]
    works = [WORK["claims"], WORK["caller"]]
    for work, server in product(works, second_servers):  # warm up
        measure(bench, server, work, 20, 1)
    results = []
    for _ in range(rounds):
        ratios: dict[str, dict[str, float]] = {work.name: {} for work in works}
        for work, pair in product(works, zip(servers, second_servers, strict=True)):
            single = measure(bench, pair[0], work, 20, seconds)
            double = measure_together(bench, pair, work, seconds)
            ratios[work.name][single.server] = sum(sample.rate for sample in double) / single.rate
        results.append(ratios)
    for server in second_servers:
        server.stop()
    return results


def measure_together(
    bench: Bench, pair: tuple[Server, Server], work: Work, seconds: int
) -> list[Sample]:
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(measure, bench, server, work, 20, seconds) for server in pair]
        return [future.result() for future in running]


def parse() -> Namespace:
    parser = ArgumentParser(prog="nox -s benchmarks --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that it works: no page is kept")
    parser.add_argument("--page", action="store_true", help="write the page of the last results")
    parser.add_argument("--suite", action="store_true", help="add what the template's tests take")
    parser.add_argument("--fairness", action="store_true", help="measure the pool's fairness anew")
    parser.add_argument("--queues", action="store_true", help="measure only the queues of jobs")
    parser.add_argument("--tenants", action="store_true", help="measure only organizations")
    parser.add_argument("--caches", action="store_true", help="measure only the cache")
    parser.add_argument("--telemetry", action="store_true", help="measure only telemetry")
    parser.add_argument("--full", action="store_true", help="measure only a full project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one kind of work")
    parser.add_argument("--rows", type=int, default=1_000_000, help="for the last page")
    parser.add_argument("--requests", type=int, default=1_000_000, help="for the memory")
    parser.add_argument("--jobs", type=int, default=2000, help="for the queues")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.rows, options.requests = 1, 1, 10_000, 20_000
        options.jobs = 200
    return options


if __name__ == "__main__":
    main(parse())

"""How the cost of the service grows: with its rows, routes, requests, logins and imports."""

import re
import subprocess
import time
from collections import Counter
from itertools import cycle, product
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
from harness import make_environment

from .servers import CORES, NAMES, PACKAGE, Bench, Server
from .work import WORK, Work, launch, measure

PAGE = 20
FAIR_POOL = 10  # connections, the default of the service


def measure_all(bench: Bench, seconds: int, rows: int, requests: int) -> dict[str, Any]:
    return {
        "pages": measure_pages(bench, seconds, rows),
        "routes": measure_routes(bench, seconds),
        "lag": measure_lag(bench, seconds * 5),
        "memory": measure_memory(bench, seconds, requests),
        "imports": measure_imports(bench),
        "idle": {name: measure_idle(bench, name) for name in NAMES},
    }


def measure_pages(bench: Bench, seconds: int, rows: int) -> dict[str, Any]:
    """Compare pages of an owner with many items: the second follows as many items of another."""
    nth_last = "SELECT id FROM items ORDER BY id DESC OFFSET %s LIMIT 1"
    with bench.postgres.connect() as connection:
        cursors: list[object] = [None]
        cursors += connection.execute(nth_last, [0]).fetchone() or []
        for email in ("user1@example.com", "user0@example.com"):
            connection.execute(
                "INSERT INTO items (id, owner_id, name, description, created_at, updated_at) "
                "SELECT uuidv7(), users.id, 'item ' || number, repeat('text ', 20), now(), now() "
                "FROM generate_series(1, %s) AS number, users WHERE email = %s",
                [rows, email],
            )
        connection.execute("ANALYZE items")
        cursors += connection.execute(nth_last, [PAGE]).fetchone() or []
    path = f"/v1/items?limit={PAGE}"
    pages = {
        name: Work(name, f"{path}&after={after}" if after else path)
        for name, after in zip(("first", "behind another owner", "last"), cursors, strict=True)
    }
    server = bench.start("keel")
    results = compare({name: (server, page) for name, page in pages.items()}, bench, seconds)
    plans = {name: explain(bench, server, page) for name, page in pages.items()}
    server.stop()
    return {"rows": rows, "plans": plans, **results}


def compare(cases: dict[str, tuple[Server, Work]], bench: Bench, seconds: int) -> dict[str, Any]:
    """Return the medians of five rounds, and the medians of the ratios to the first case."""
    rounds = [
        {name: measure(bench, *case, 20, seconds) for name, case in cases.items()} for _ in range(5)
    ]
    first = next(iter(cases))
    return {
        "rate": {name: median(samples[name].rate for samples in rounds) for name in cases},
        "cpu": {name: median(samples[name].cpu for samples in rounds) for name in cases},
        "ratio": {
            name: median(samples[name].rate / samples[first].rate for samples in rounds)
            for name in cases
        },
        "errors": sum(sample.errors for samples in rounds for sample in samples.values()),
    }


def explain(bench: Bench, server: Server, page: Work) -> str:
    """Return the query plan of a page. The statement and its values come from the server's log."""
    bench.postgres.configure("log_min_duration_statement = 0")
    time.sleep(0.2)
    headers = {"Authorization": f"Bearer {bench.token}"}
    httpx2.get(server.url + page.path, headers=headers).raise_for_status()
    bench.postgres.configure()
    log = (bench.postgres.folder / "log").read_text()
    statement = r"execute \w+: (SELECT [^:]* FROM items.*?)\n\S+ .*?DETAIL: .*?(\$1 = .*?)\n"
    query, values = re.findall(statement, log.replace("\n\t", " "), re.DOTALL)[-1]
    arguments = ", ".join(re.findall(r"= ('.*?')", values))
    with bench.postgres.connect() as connection:
        connection.execute(f"PREPARE page AS {query}".encode())
        options = "ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF"
        plan = connection.execute(f"EXPLAIN ({options}) EXECUTE page({arguments})".encode())
        return "\n".join(line for (line,) in plan)


def measure_routes(bench: Bench, seconds: int) -> dict[str, Any]:
    """Compare the service with one that has fifty features of ten routes before the route."""
    servers = {"0": bench.start("keel"), "500": bench.start("keel", BENCHMARK_ROUTES="500")}
    cases = {name: (server, WORK["claims"]) for name, server in servers.items()}
    results = compare(cases, bench, seconds)
    for server in servers.values():
        server.stop()
    return results


def measure_fairness(bench: Bench, seconds: int) -> list[dict[str, Any]]:
    """Compare the pool with SQLAlchemy's, with more clients than pooled connections."""
    pools = {
        pool: bench.start("keel", DATABASE_POOL_SIZE=str(FAIR_POOL), BENCHMARK_POOL=pool)
        for pool in ("own", "library")
    }
    cells: list[dict[str, Any]] = []
    for work, factor in product((WORK["list"], WORK["create"]), (2, 10)):
        clients = factor * FAIR_POOL
        rounds = [
            {name: measure(bench, server, work, clients, seconds) for name, server in pools.items()}
            for _ in range(5)
        ]
        cells.append(
            {
                "work": work.name,
                "clients": clients,
                "connections": FAIR_POOL,
                "errors": sum(sample.errors for pair in rounds for sample in pair.values()),
                "rate": median(pair["own"].rate / pair["library"].rate for pair in rounds),
            }
            | {name: median(pair[name].tail for pair in rounds) for name in pools}
        )
    for server in pools.values():
        server.stop()
    return cells


def measure_lag(bench: Bench, seconds: int) -> dict[str, dict[str, float]]:
    """Measure the delay of the event loop in milliseconds, idle and while 20 clients log in."""
    server = bench.start("keel", CORES)
    lags = {}
    for name, clients in {"idle": 0, "sign in": 20}.items():
        load = launch(bench, server, WORK["sign in"], clients, seconds + 2) if clients else None
        time.sleep(1)
        url = f"{server.url}/v1/lag?seconds={seconds}"
        delays = httpx2.get(url, timeout=seconds + 60).raise_for_status().json()
        lags[name] = {
            "p50": median(delays),
            "p99": delays[len(delays) * 99 // 100],
            "most": delays[-1],
        }
        if load:
            load.communicate()
    server.stop()
    return lags


def measure_memory(bench: Bench, seconds: int, requests: int) -> dict[str, float]:
    """Return the resident MiB after 1 % of the requests, and after all of them."""
    server, count = bench.start("keel"), 0.0
    memory: dict[str, float] = {}
    works = cycle(WORK[name] for name in ("health", "caller", "list", "create", "422"))
    for target in (requests // 100, requests):
        while count < target:
            sample = measure(bench, server, next(works), 20, seconds)
            count += sample.rate * seconds
        memory[f"{round(count, -3):,.0f}"] = server.memory
    server.stop()
    return memory


def measure_imports(bench: Bench) -> dict[str, Any]:
    """Measure the time to import the service, and the part of each package."""
    empty, service = (min(clock(bench, code) for _ in range(5)) for code in ("", load_service()))
    report = run_python(bench, "-X", "importtime", "-c", load_service()).stderr
    lines = [line.split("|") for line in report.splitlines() if line.startswith("import time:")]
    own, modules = Counter[str](), Counter[str]()
    for times, _, module in lines[1:]:
        package = module.strip().split(".")[0]
        own[package] += int(times.rpartition(":")[2])
        modules[package] += 1
    return {
        "seconds": service - empty,
        "modules": modules.total(),
        "packages": [
            {"name": name, "part": times / own.total(), "modules": modules[name]}
            for name, times in own.most_common(12)
        ],
    }


def load_service() -> str:
    return f"import {PACKAGE.name}.main"


def run_python(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(".venv/bin/python"), *arguments],
        cwd=bench.project,
        env=make_environment(**bench.variables),
        capture_output=True,
        text=True,
        check=True,
    )


def clock(bench: Bench, code: str) -> float:
    start = time.perf_counter()
    run_python(bench, "-c", code)
    return time.perf_counter() - start


def measure_idle(bench: Bench, name: str) -> float:
    server = bench.start(name)
    memory = server.memory
    server.stop()
    return memory

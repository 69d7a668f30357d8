"""Writes README.md and chart.svg from results.json and findings.md."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from . import HERE
from .servers import NAMES
from .work import WORKS

Samples = list[dict[str, Any]]

HEAD = """\
# Benchmarks

The default service of the template (*keel*) is compared with reference services. These give the same responses from the same
PostgreSQL, with the same token check. The *floor* uses only Starlette, asyncpg, PyJWT and json. The *framed* floor adds request
ids, an access log and security headers, as keel has them. *Plain* is the service as the documentation of FastAPI and SQLAlchemy
writes it. Each server is one process on one core; the load and the database use the other cores. The servers are measured in
turn. Each figure is the median of the rounds; rounds with errors do not count.

    uvx nox -s benchmarks               # measures for an hour and writes this page; needs wrk (apt install wrk)
    uvx nox -s benchmarks -- --quick    # a short run that writes the page to another folder
    uvx nox -s benchmarks -- --suite    # also measures the template's own tests
    uvx nox -s benchmarks -- --fairness # measures only the waits for connections again
    uvx nox -s benchmarks -- --queues   # measures only the queues of jobs again
    uvx nox -s benchmarks -- --tenants  # measures only organizations again
    uvx nox -s benchmarks -- --caches   # measures only the cache again
    uvx nox -s benchmarks -- --telemetry  # measures only telemetry again
    uvx nox -s benchmarks -- --full     # measures only a project with every feature again
    uvx nox -s benchmarks -- --page     # writes this page again, after a change of findings.md
"""


class Results:
    """The medians of the rounds."""

    def __init__(self, rounds: list[Samples]) -> None:
        self.rounds = [
            {
                (sample["server"], sample["work"], sample["connections"]): sample
                for sample in samples
            }
            for samples in rounds
        ]

    def errors(self, server: str, work: str, connections: int) -> int:
        return sum(samples[server, work, connections]["errors"] for samples in self.rounds)

    def value(self, server: str, work: str, connections: int, figure: str) -> float | None:
        """Return the median, or None if every round had errors."""
        samples = [round_samples[server, work, connections] for round_samples in self.rounds]
        values = [sample[figure] for sample in samples if not sample["errors"]]
        return median(values) if values else None

    def ratio(
        self, server: str, work: str, connections: int, figure: str = "rate", base: str = "floor"
    ) -> float | None:
        """Return the median of the ratios to another server in the same round."""
        ratios = []
        for samples in self.rounds:
            own, reference = (samples[name, work, connections] for name in (server, base))
            if not own["errors"] and not reference["errors"]:
                ratio = own[figure] / reference[figure]
                ratios.append(ratio if figure == "rate" else 1 / ratio)
        return median(ratios) if ratios else None


def write(folder: Path) -> None:
    data = json.loads((folder / "results.json").read_text())
    results = Results(data["rounds"])
    parts = [
        HEAD,
        "![The rate of each kind of work, as a part of the floor's rate](chart.svg)",
        describe(data["about"]),
        describe_ratios(results),
        *(describe_rates(results, connections) for connections in (20, 1, 100)),
        describe_crowd(results),
        describe_fairness(data["fairness"]),
        describe_scaling(data["scaling"], data["about"]["cores"]),
        describe_growth(data["growth"]),
        describe_queues(data["queues"]),
        describe_tenants(data["tenants"]),
        describe_caches(data["caches"]),
        describe_telemetry(data["telemetry"]),
        describe_full(data["full"]),
        describe_own(data["own"] | data.get("suite", {})),
        (HERE / "findings.md").read_text(),
    ]
    (folder / "README.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")
    (folder / "chart.svg").write_text(draw(results))


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(show, line)) + " |" for line in lines)


def show(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    return str(value)


def describe(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured on {about['date']}: {about['machine']}; {about['rounds']} rounds of "
        f"{about['seconds']} s; the load average before was {about['load'][0]}.\n\n{versions}."
    )


def describe_ratios(results: Results) -> str:
    rows: list[list[object]] = []
    for work in WORKS:
        part = results.ratio("keel", work.name, 20, base="framed")
        is_reached = "" if work.goal is None or part is None else part >= work.goal
        rows.append(
            [
                work.name,
                work.goal or "",
                part,
                {"": "", True: "yes", False: "**no**"}[is_reached],
                results.ratio("keel", work.name, 20, "cpu", "framed"),
                results.ratio("keel", work.name, 1, base="framed"),
                results.ratio("keel", work.name, 100, base="framed"),
                results.ratio("keel", work.name, 20),
                results.ratio("keel", work.name, 20, "cpu"),
                results.ratio("plain", work.name, 20),
            ]
        )
    header = ["work", "goal", "framed", "reached", "CPU", "at 1", "at 100", "floor", "CPU", "plain"]
    note = (
        "First, the rate of keel as a part of the framed floor's rate, which does the same work; "
        "then as a part of the bare floor's rate; last, the rate of plain as a part of the bare "
        "floor's. There are 20 connections unless the column says otherwise. *CPU* compares the "
        "CPU time per request instead, which does not depend on other cores."
    )
    return f"## Parts of the floor's rate\n\n{note}\n\n{table(header, rows)}"


def describe_rates(results: Results, connections: int) -> str:
    figures = {"rate": "/s", "cpu": "µs", "p50": "p50 ms", "p99": "p99 ms"}
    rows: list[list[object]] = [
        [
            work.name,
            *(
                results.value(name, work.name, connections, key)
                for key in figures
                for name in NAMES
            ),
        ]
        for work in WORKS
    ]
    header = ["work", *(f"{name} {unit}" for unit in figures.values() for name in NAMES)]
    title = f"## {connections} connection{'s' * (connections > 1)}"
    return f"{title}\n\nµs: CPU time of the server per request.\n\n{table(header, rows)}"


def describe_crowd(results: Results) -> str:
    """The table of 100 connections on a pool of 20: errors and the longest waits."""

    def compare(server: str, work: str) -> float | None:
        rate = results.value(server, work, 100, "rate")
        p99 = results.value(server, work, 100, "p99")
        return p99 / (100_000 / rate) if rate and p99 else None

    rows: list[list[object]] = [
        [
            work.name,
            results.errors("keel", work.name, 100),
            compare("keel", work.name),
            compare("framed", work.name),
        ]
        for work in WORKS
    ]
    header = ["work", "errors", "p99 ÷ mean", "framed floor"]
    note = "The mean latency is 100 connections ÷ rate. The goal is at most 3."
    return f"## 100 connections on pools of 20\n\n{note}\n\n{table(header, rows)}"


def describe_fairness(cells: list[dict[str, Any]]) -> str:
    rows: list[list[object]] = [
        [
            f"{cell['work']}, {cell['clients']} clients",
            cell["errors"],
            cell["own"],
            cell["library"],
            cell["rate"],
        ]
        for cell in cells
    ]
    header = ["work", "errors", "p99 ÷ mean", "with SQLAlchemy's pool", "ratio of the rates"]
    note = (
        f"The clients share {cells[0]['connections']} connections, the default of the service. "
        "`pool.py` serves them in the order of their arrival. The goals: at most 3, and at least "
        "0.95 of the rate with SQLAlchemy's own pool."
    )
    return f"## More clients than connections\n\n{note}\n\n{table(header, rows)}"


def describe_scaling(results: list[dict[str, dict[str, float]]], cores: int) -> str:
    rows: list[list[object]] = [
        [work, *(median(ratios[work][name] for ratios in results) for name in NAMES)]
        for work in results[0]
    ]
    note = "The rate of two processes on two cores, as a multiple of the rate of one process."
    if cores < 4:
        note += f" With {cores} cores, the load and the database share them."
    return f"## Two processes\n\n{note}\n\n{table(['work', *NAMES], rows)}"


def describe_growth(growth: dict[str, Any]) -> str:
    pages, routes, imports = growth["pages"], growth["routes"], growth["imports"]
    lag: list[list[object]] = [
        [name, delay["p50"], delay["p99"], delay["most"]] for name, delay in growth["lag"].items()
    ]
    plans = "\n\n".join(
        f"The plan of the page *{name}*:\n\n```\n{plan}\n```"
        for name, plan in pages["plans"].items()
    )
    packages: list[list[object]] = [
        [package["name"], f"{package['part']:.0%}", package["modules"]]
        for package in imports["packages"]
    ]
    memory = ", ".join(f"{mib:.0f} MiB after {count}" for count, mib in growth["memory"].items())
    idle = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in growth["idle"].items())
    return f"""\
## How cost grows

**Pages.** One owner has {pages["rows"]:,} items, another owner as many. The ratio compares the rate with that of the first page.

{table(["page", "ratio", "/s", "µs"], compared(pages))}

{plans}

**Routes.** Routes before the measured one, ten in each feature:

{table(["routes", "ratio", "/s", "µs"], compared(routes))}

**Logins.** The delay of the event loop while 20 clients log in, in milliseconds. The goal is at most 10:

{table(["", "p50", "p99", "maximum"], lag)}

**Memory.** {memory} requests. Idle: {idle}.

**Imports.** {imports["seconds"]:.2f} s and {imports["modules"]:,} modules. The largest packages:

{table(["package", "time", "modules"], packages)}"""


def compared(cases: dict[str, Any]) -> list[list[object]]:
    return [
        [name, ratio, cases["rate"][name], cases["cpu"][name]]
        for name, ratio in cases["ratio"].items()
    ]


def describe_queues(data: dict[str, Any]) -> str:
    rounds: list[dict[str, dict[str, float]]] = data["rounds"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    base, *names = rounds[0]

    def compare(name: str, figure: str) -> str:
        value = median(queues[name][figure] for queues in rounds)
        ratio = median(queues[name][figure] / queues[base][figure] for queues in rounds)
        return f"{show(value)} ({ratio:.2f})"

    rows: list[list[object]] = [
        [
            figure,
            median(queues[base][figure] for queues in rounds),
            *(compare(name, figure) for name in names),
        ]
        for figure in rounds[0][base]
    ]
    return f"""## Jobs

The queues of `jobs: postgres` and `jobs: nats` beside [procrastinate](https://procrastinate.readthedocs.io/), on one PostgreSQL, measured in turn on
{data["date"]}, in {len(rounds)} rounds of {data["jobs"]:,} jobs: {versions}. In parentheses, the ratio to `jobs: postgres`: the median of the
ratios of the rounds, which is not exactly the ratio of the medians. Above 1 is better for jobs per second, below 1 for milliseconds.

- Workers are processes that run 10 jobs at once. A job only writes a line with the time of its start. With "session used", it also
  sends a statement in its session, so with `jobs: nats` the worker also stores in that transaction that the job is done. With "one relay",
  only the first worker publishes jobs; the others have `--no-relay`.
- The cost in a transaction is by how much a job makes a transaction with one other statement longer.
- From the commit to the start: with one worker, 100 jobs per second, and the time in which PostgreSQL commits.
- *nats-py* is the limit of NATS for one process in Python: it publishes and consumes the same messages, without transactions and without
  the service, one job after the other, and does not wait until an acknowledgement is stored.
- Neither PostgreSQL nor NATS waits for the disk, so in production there are fewer jobs per second. The workers and the servers share the
  cores of the machine.

{table(["", base, *names], rows)}"""


def describe_tenants(works: dict[str, dict[str, float]]) -> str:
    rows: list[list[object]] = [[name, *figures.values()] for name, figures in works.items()]
    return f"""## Organizations

The CPU time of the service per request in µs, without and with organizations, measured in turn with 20 connections. With them, a
request reads the membership, and sets the organization in its transaction; a read has no transaction without them.

{table(["work", "none", "members", "ratio"], rows)}"""


def describe_caches(works: list[dict[str, Any]]) -> str:
    rows = [list(work.values()) for work in works]
    header = ["work", "connections", "without", "with", "ratio of CPU time", "ratio of rates"]
    return f"""## The cache

The CPU time of the service per request in µs, without and with the cache, measured in turn. The statistics count 1,000 items and the
words of their names. A limit counts the requests of a principal; the endpoint beside it only verifies the token. For the statistics and
the write, "without" is the same service while its cache is unreachable: that includes 0.1 ms for a limit that counts nothing.

{table(header, rows)}"""


def describe_telemetry(data: dict[str, Any]) -> str:
    cases: dict[str, dict[str, dict[str, float]]] = data["cases"]
    works = next(iter(cases.values()))
    rows: list[list[object]] = [
        [case, *(f"{work['cpu']:.0f} ({work['ratio']:.2f})" for work in figures.values())]
        for case, figures in cases.items()
    ]
    return f"""## Telemetry

The CPU time of the service per request in µs, and its ratio to a project with `telemetry: none`, measured in turn with 20 connections.
"off" has `telemetry: opentelemetry`, but neither an endpoint nor a
port. Requests to `/health/` are neither traced nor measured.

{table(["exported", *works], rows)}

In every project, noticing a blocked event loop takes {data["watch"]:.1f} ms of processor time per second, which is {data["watch"] / 10:.2f} %,
whatever the number of requests."""


def describe_full(works: dict[str, dict[str, float]]) -> str:
    rows: list[list[object]] = [[name, *figures.values()] for name, figures in works.items()]
    return f"""## Every feature

Requests per second that use no optional feature: a default project beside one with all other features, without exports of telemetry, measured
in turn with 20 connections. The goal is 0.9.

{table(["work", "default", "full", "ratio"], rows)}"""


def describe_own(seconds: dict[str, float]) -> str:
    rows: list[list[object]] = [list(row) for row in seconds.items()]
    return f"## The template's own speed\n\n{table(['what', 'seconds'], rows)}"


BARS = [
    ("of the framed floor", "keel", "framed", "#2563eb"),
    ("of the bare floor", "keel", "floor", "#93c5fd"),
    ("plain, of the bare floor", "plain", "floor", "#94a3b8"),
]


def draw(results: Results) -> str:
    """Draw a bar per kind of work and server, and a line at each goal."""
    left, width, height = 80, 600, 54
    bottom = 50 + height * len(WORKS)
    shapes = [f'<rect width="{left + width + 60}" height="{bottom + 30}" fill="#fff"/>']
    for number, (name, _, _, color) in enumerate(BARS):
        x = left + 170 * number
        shapes.append(f'<rect x="{x}" y="18" width="12" height="12" fill="{color}"/>')
        shapes.append(f'<text x="{x + 18}" y="28">{name}</text>')
    shapes.append(f'<path d="M{left + 544} 16v16" stroke="#dc2626" stroke-width="2"/>')
    shapes.append(f'<text x="{left + 554}" y="28">goal</text>')
    for tenth in range(0, 11, 2):
        x = left + width * tenth / 10
        shapes.append(f'<path d="M{x} 44V{bottom}" stroke="#e2e8f0"/>')
        label = f"{tenth / 10:.1f}" if tenth < 10 else "1.0 = floor"
        shapes.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for number, work in enumerate(WORKS):
        y = 50 + height * number
        shapes.append(f'<text x="{left - 10}" y="{y + 24}" text-anchor="end">{work.name}</text>')
        for place, (_, name, base, color) in enumerate(BARS):
            ratio = results.ratio(name, work.name, 20, base=base) or 0
            bar = f'x="{left}" y="{y + 14 * place}" width="{width * min(ratio, 1):.0f}" height="12"'
            shapes.append(f'<rect {bar} fill="{color}"/>')
            x = left + width * min(ratio, 1) + 4
            shapes.append(f'<text x="{x:.0f}" y="{y + 14 * place + 10}">{ratio:.2f}</text>')
        if work.goal:
            x = left + width * work.goal
            shapes.append(f'<path d="M{x} {y - 3}v46" stroke="#dc2626" stroke-width="2"/>')
    box = f'viewBox="0 0 {left + width + 60} {bottom + 30}"'
    style = 'font-family="sans-serif" font-size="12" fill="#334155"'
    body = "\n".join(shapes)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>\n{body}\n</svg>\n'

"""Writes README.md and chart.svg from results.json, and adds what findings.md says by hand."""

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

The default service that the template renders (*keel*) beside references that give the same answers from the same
PostgreSQL, with the same token check: the *floor*, Starlette, asyncpg, PyJWT and json with nothing around them, and *plain*, as
the documentation of FastAPI and SQLAlchemy writes such a service. The floor is *framed* where it has request ids, access lines
and security headers, too, as keel has. Each is one process on one core, the load and the database have the others. They are
measured in turn, and each figure is the median of the rounds; a round with an error is none.

    uvx nox -s benchmarks               # measures for an hour, and writes this page; needs wrk (apt install wrk)
    uvx nox -s benchmarks -- --quick    # shows that it works, and writes a page elsewhere
    uvx nox -s benchmarks -- --suite    # adds what the template's own tests take
    uvx nox -s benchmarks -- --fairness  # measures again who waits for connections, and for how long
    uvx nox -s benchmarks -- --page     # writes this page anew, after findings.md was edited
"""


class Results:
    """The medians of what was measured."""

    def __init__(self, rounds: list[Samples]) -> None:
        self.rounds = [
            {
                (sample["server"], sample["work"], sample["connections"]): sample
                for sample in samples
            }
            for samples in rounds
        ]

    def errors(self, server: str, work: str, connections: int) -> int:
        return sum(found[server, work, connections]["errors"] for found in self.rounds)

    def value(self, server: str, work: str, connections: int, figure: str) -> float | None:
        """Return the median, or None if every round had errors."""
        samples = [found[server, work, connections] for found in self.rounds]
        values = [sample[figure] for sample in samples if not sample["errors"]]
        return median(values) if values else None

    def ratio(
        self, server: str, work: str, connections: int, figure: str = "rate", base: str = "floor"
    ) -> float | None:
        """Return the median of the ratios to another server in the same round."""
        ratios = []
        for found in self.rounds:
            mine, other = (found[name, work, connections] for name in (server, base))
            if not mine["errors"] and not other["errors"]:
                ratio = mine[figure] / other[figure]
                ratios.append(ratio if figure == "rate" else 1 / ratio)
        return median(ratios) if ratios else None


def write(folder: Path) -> None:
    data = json.loads((folder / "results.json").read_text())
    results = Results(data["rounds"])
    parts = [
        HEAD,
        "![The rate of each kind of work, as a part of the floor's](chart.svg)",
        describe(data["about"]),
        describe_ratios(results),
        *(describe_rates(results, connections) for connections in (20, 1, 100)),
        describe_crowd(results),
        describe_fairness(data["fairness"]),
        describe_scaling(data["scaling"], data["about"]["cores"]),
        describe_growth(data["growth"]),
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
        f"{about['seconds']} s; the load of the machine was {about['load'][0]} before.\n\n{versions}."
    )


def describe_ratios(results: Results) -> str:
    rows: list[list[object]] = []
    for work in WORKS:
        part = results.ratio("keel", work.name, 20, base="framed")
        reached = "" if work.goal is None or part is None else part >= work.goal
        rows.append(
            [
                work.name,
                work.goal or "",
                part,
                {"": "", True: "yes", False: "**no**"}[reached],
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
        "The rate of keel as a part of the framed floor's, which does the same work, and then of "
        "the bare floor's, at 20 connections unless the column says otherwise; last, what plain "
        "has of the bare floor's. *CPU* compares the processor time per request instead, which "
        "depends on no other core."
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
    return f"{title}\n\nµs: processor time of the server per request.\n\n{table(header, rows)}"


def describe_crowd(results: Results) -> str:
    """100 connections on a pool of 20: no error, and nobody waits for long."""

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
    header = ["work", "errors", "p99 ÷ mean", "of the framed floor"]
    note = "The mean is what the rate implies: 100 connections ÷ rate. The goal is 3 at most."
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
    header = ["work", "errors", "p99 ÷ mean", "with SQLAlchemy's pool", "rate, as a part of its"]
    note = (
        f"The clients wait for {cells[0]['connections']} connections, the default of the service. "
        "`pool.py` serves them in the order in which they came. The goals: 3 at most, and 0.95 of "
        "the rate that SQLAlchemy's own pool reaches."
    )
    return f"## More clients than connections\n\n{note}\n\n{table(header, rows)}"


def describe_scaling(measured: list[dict[str, dict[str, float]]], cores: int) -> str:
    rows: list[list[object]] = [
        [work, *(median(ratios[work][name] for ratios in measured) for name in NAMES)]
        for work in measured[0]
    ]
    note = "The rate of two processes on two cores, as a multiple of that of one."
    if cores < 4:
        note += f" With {cores} cores the load and the database have none of their own here."
    return f"## Two processes\n\n{note}\n\n{table(['work', *NAMES], rows)}"


def describe_growth(growth: dict[str, Any]) -> str:
    pages, routes, imports = growth["pages"], growth["routes"], growth["imports"]
    lag: list[list[object]] = [
        [name, late["p50"], late["p99"], late["most"]] for name, late in growth["lag"].items()
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

**Pages.** Of {pages["rows"]:,} items of an owner, beside as many of another, the ratio of the rate to that of the first page:

{table(["page", "ratio", "/s", "µs"], compared(pages))}

{plans}

**Routes.** In front of the measured one, ten in a feature:

{table(["routes", "ratio", "/s", "µs"], compared(routes))}

**Log-ins.** How late the event loop is while 20 clients log in, in milliseconds; the goal is 10 at most:

{table(["", "p50", "p99", "most"], lag)}

**Memory.** {memory} requests. Idle: {idle}.

**Imports.** {imports["seconds"]:.2f} s and {imports["modules"]:,} modules, of them:

{table(["package", "time", "modules"], packages)}"""


def compared(cases: dict[str, Any]) -> list[list[object]]:
    return [
        [name, ratio, cases["rate"][name], cases["cpu"][name]]
        for name, ratio in cases["ratio"].items()
    ]


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

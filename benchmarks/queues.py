"""Compares `jobs: postgres` and `jobs: nats` with procrastinate and nats-py: the same jobs."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from tempfile import mkdtemp
from typing import Any, LiteralString, NamedTuple

import psycopg
from breakable import COMMAND, Nats, Postgres
from harness import (
    UV,
    add_code,
    add_lines,
    eventually,
    make_environment,
    render,
    succeed,
    take_snapshot,
)

from . import HERE

PROCRASTINATE = "3.10.0"
PROCRASTINATED = ["procrastinate", "--app=procrastinated.app"]
WORKERS = (1, 2, 4)
TABLES: dict[LiteralString, LiteralString] = {
    "postgres": "jobs, procrastinate_jobs",
    "nats": "jobs, finished_jobs",
}
LATENCIES = 1000  # jobs whose latency is measured


class Queue(NamedTuple):
    engine: str  # of the project that it runs in
    add: list[str]
    first: list[str]  # worker
    others: list[str]  # workers


ADD = ["python", "-m", "my_service.noop.jobs"]
WORK = [COMMAND, "work"]
USING = ["env", "USES_SESSION=1", *WORK]
PULLED = ["python", "-m", "pulled"]
DEFERRED = [*PROCRASTINATED, "worker", "--concurrency=10", "--delete-jobs=always"]
# The first one is what the others are compared with.
QUEUES = {
    "postgres": Queue("postgres", [*ADD, "keel"], WORK, WORK),
    "nats": Queue("nats", [*ADD, "keel"], WORK, WORK),
    "postgres, session used": Queue("postgres", [*ADD, "keel"], USING, USING),
    "nats, session used": Queue("nats", [*ADD, "keel"], USING, USING),
    "nats, one relay": Queue("nats", [*ADD, "keel"], WORK, [*WORK, "--no-relay"]),
    "procrastinate": Queue("postgres", [*ADD, "procrastinate"], DEFERRED, DEFERRED),
    "nats-py": Queue("nats", PULLED, PULLED, PULLED),
}


class Start(NamedTuple):
    process: int
    job: int
    time: float  # seconds since the epoch


class Bench:
    """A project with each engine, with databases in one server, and a stream."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        for name in ("template", "postgres", "nats"):
            (folder / name).mkdir()
        template = take_snapshot(folder / "template")
        self.postgres = Postgres(folder / "postgres")
        self.postgres.begin()
        stack.callback(self.postgres.halt)
        self.projects: dict[str, Path] = {}
        self.urls: dict[str, str] = {}
        for engine in TABLES:
            name: LiteralString = f"jobs_{engine}"
            self.projects[engine] = self.make_project(template, folder / name, engine)
            self.urls[engine] = self.postgres.url.replace("app_test", name)
            with self.postgres.connect(autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
        self.nats = Nats(self.projects["nats"], folder / "nats")
        self.nats.begin()
        stack.callback(self.nats.halt)
        self.starts = folder / "starts"
        package = f"procrastinate=={PROCRASTINATE}"
        succeed(self.projects["postgres"], UV, "pip", "install", "--quiet", package)
        for engine in self.projects:
            self.run(engine, COMMAND, "migrate")
        self.run("postgres", *PROCRASTINATED, "schema", "--apply")
        self.run("nats", COMMAND, "jobs", "create-stream")

    def make_project(self, template: Path, folder: Path, engine: str) -> Path:
        project = render(template, folder, auth="none", jobs=engine)
        add_code(project, "src/my_service/noop/jobs.py", (HERE / "noop.py").read_text())
        app = project / "src" / "my_service" / "app.py"
        add_lines(app, "imports", "from .noop import jobs as _noop")
        succeed(project, UV, "sync", "--quiet")
        return project

    def make_environment(self, engine: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.urls[engine],
            "JOBS_NATS_URL": self.nats.url,
            "PYTHONPATH": str(HERE),
            "STARTS": str(self.starts),
            "PATH": f"{self.projects[engine] / '.venv/bin'}:{os.environ['PATH']}",
        }

    def run(self, engine: str, *command: str) -> str:
        return succeed(self.projects[engine], *command, **self.make_environment(engine))

    def read_versions(self) -> dict[str, str]:
        code = "from importlib.metadata import version as v; print(v('nats-py'))"
        return {
            "nats-server": self.run("nats", "nats-server", "--version").split()[-1].lstrip("v"),
            "nats-py": self.run("nats", "python", "-c", code).strip(),
            "procrastinate": PROCRASTINATE,
        }

    def add(self, queue: Queue, mode: str, count: int) -> list[float]:
        """Add jobs. Return when each commit began, and the end."""
        self.starts.write_text("")
        return json.loads(self.run(queue.engine, *queue.add, mode, str(count)))

    def clear(self) -> None:
        for engine, tables in TABLES.items():
            with psycopg.connect(self.urls[engine], autocommit=True) as connection:
                connection.execute(f"TRUNCATE {tables} CASCADE")
        self.nats.call(f"STREAM.PURGE.{COMMAND}")

    def wait_for_starts(self, count: int) -> list[Start]:
        """Wait until so many jobs have started."""
        if not eventually(lambda: self.starts.read_text().count("\n") == count, 300):
            raise RuntimeError(f"These are not {count} jobs:\n{self.starts.read_text()}")
        lines = (line.split() for line in self.starts.read_text().splitlines())
        return [Start(int(process), int(job), float(time)) for process, job, time in lines]

    @contextmanager
    def workers(self, queue: Queue, number: int) -> Generator[None]:
        """Run workers, each of which has run a job."""
        with ExitStack() as stack:
            stack.callback(self.clear)
            for command in [queue.first, *[queue.others] * (number - 1)]:
                process = subprocess.Popen(
                    command,
                    cwd=self.projects[queue.engine],
                    env=make_environment(**self.make_environment(queue.engine)),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(process.wait, 30)
                stack.callback(process.terminate)
            processes: set[int] = set()
            while len(processes) < number:
                self.add(queue, "together", 40)
                processes |= {start.process for start in self.wait_for_starts(40)}
            yield


def measure(bench: Bench, queue: Queue, count: int) -> dict[str, float]:
    times: dict[str, float] = {}
    for mode in ("nothing", "each"):
        commits = bench.add(queue, mode, count)
        times[mode] = (commits[-1] - commits[0]) / count
    figures = {"cost in a transaction, ms": (times["each"] - times["nothing"]) * 1000}
    bench.clear()
    for workers in WORKERS:
        with bench.workers(queue, workers):
            [commit, _] = bench.add(queue, "together", count)
            starts = bench.wait_for_starts(count)
            name = f"run per second, {workers} worker{'s' * (workers > 1)}"
            figures[name] = count / (max(start.time for start in starts) - commit)
            if workers == 1:
                commits = bench.add(queue, "paced", LATENCIES)
                starts = bench.wait_for_starts(LATENCIES)
                latencies = [(start.time - commits[start.job]) * 1000 for start in starts]
                figures["commit to start, p50 ms"] = median(latencies)
                figures["commit to start, p99 ms"] = quantiles(latencies, n=100)[98]
    return figures


def measure_all(count: int, rounds: int) -> dict[str, Any]:
    """Measure all queues in turn, so that other load on the machine affects all of them."""
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="queues-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bench = Bench(folder, stack)
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "jobs": count,
            "versions": bench.read_versions(),
            "rounds": [
                {name: measure(bench, queue, count) for name, queue in QUEUES.items()}
                for _ in range(rounds)
            ],
        }

"""Compares the queue of `jobs: postgres` with procrastinate: the same jobs in one database."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import mkdtemp
from typing import NamedTuple

from breakable import COMMAND, Postgres
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
WORKERS = {
    "keel": [COMMAND, "work"],
    "procrastinate": [
        *("procrastinate", "--app=procrastinated.app", "worker"),
        *("--concurrency=10", "--delete-jobs=always"),
    ],
}
ROUNDS = 5
LATENCIES = 1000  # jobs whose latency is measured


class Start(NamedTuple):
    process: int
    job: int
    time: float  # seconds since the epoch


class Bench:
    """A project with both queues in its database."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (folder / "template").mkdir()
        template = take_snapshot(folder / "template")
        self.project = render(template, folder / "project", auth="none", jobs="postgres")
        add_code(self.project, "src/my_service/noop/jobs.py", (HERE / "noop.py").read_text())
        app = self.project / "src" / "my_service" / "app.py"
        add_lines(app, "imports", "from .noop import jobs as _noop")
        succeed(self.project, UV, "sync", "--quiet")
        package = f"procrastinate=={PROCRASTINATE}"
        succeed(self.project, UV, "pip", "install", "--quiet", package)
        (folder / "postgres").mkdir()
        self.postgres = Postgres(folder / "postgres")
        self.postgres.begin()
        stack.callback(self.postgres.halt)
        self.starts = folder / "starts"
        self.environment = {
            "DATABASE_URL": self.postgres.url,
            "PYTHONPATH": str(HERE),
            "STARTS": str(self.starts),
            "PATH": f"{self.project / '.venv/bin'}:{os.environ['PATH']}",
        }
        self.run(COMMAND, "migrate")
        self.run("procrastinate", "--app=procrastinated.app", "schema", "--apply")

    def run(self, *command: str) -> str:
        return succeed(self.project, *command, **self.environment)

    def add(self, queue: str, mode: str, count: int) -> list[float]:
        """Add jobs. Return when each commit began, and the end."""
        self.starts.write_text("")
        return json.loads(self.run("python", "-m", "my_service.noop.jobs", queue, mode, str(count)))

    def clear(self) -> None:
        with self.postgres.connect(autocommit=True) as connection:
            connection.execute("TRUNCATE jobs, procrastinate_jobs CASCADE")

    def wait_for_starts(self, count: int) -> list[Start]:
        """Wait until so many jobs have started."""
        if not eventually(lambda: self.starts.read_text().count("\n") == count, 300):
            raise RuntimeError(f"These are not {count} jobs:\n{self.starts.read_text()}")
        lines = (line.split() for line in self.starts.read_text().splitlines())
        return [Start(int(process), int(job), float(time)) for process, job, time in lines]

    @contextmanager
    def workers(self, queue: str, number: int) -> Generator[None]:
        """Run workers, each of which has run a job."""
        with ExitStack() as stack:
            for _ in range(number):
                process = subprocess.Popen(
                    WORKERS[queue],
                    cwd=self.project,
                    env=make_environment(**self.environment),
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


def measure(bench: Bench, queue: str, count: int) -> dict[str, float]:
    commits = bench.add(queue, "each", count)
    figures = {"added per second": count / (commits[-1] - commits[0])}
    bench.clear()
    for workers in (1, 2):
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


def measure_all(count: int) -> list[dict[str, dict[str, float]]]:
    """Measure both queues in turn, so that other load on the machine affects both."""
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="queues-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bench = Bench(folder, stack)
        return [{queue: measure(bench, queue, count) for queue in WORKERS} for _ in range(ROUNDS)]

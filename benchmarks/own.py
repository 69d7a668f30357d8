"""The speed of the template itself: rendering, updating and testing projects."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import copier
from harness import ROOT, UV, commit, git, make_environment, render, succeed, take_snapshot

from .servers import Bench

SESSIONS = ("lint", "tests", "updates", "faults", "projects")


def measure_all(bench: Bench) -> dict[str, float]:
    """Measure in seconds."""
    # Not in pytest's private folder: as root, PostgreSQL runs as another user.
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "template").mkdir()
        template = take_snapshot(folder / "template")
        git(template, "init", "--quiet")
        commit(template, "The working tree")
        git(template, "tag", "v1.0.0")
        projects = [folder / f"project-{number}" for number in range(5)]
        seconds = {"render": median(clock(render, template, project) for project in projects)}
        project = projects[0]
        seconds["install, all cached"] = clock(succeed, project, UV, "sync", "--quiet")
        seconds["poe check"] = clock(succeed, project, UV, "run", "poe", "check")
        seconds |= measure_tests(bench, project)
        seconds["update"] = measure_update(template, projects[1:])
    return seconds


def measure_suite() -> dict[str, float]:
    """Measure each session of `uvx nox`, in seconds."""
    return {f"nox -s {session}": clock(run_session, session) for session in SESSIONS}


def run_session(name: str) -> None:
    command = ["uvx", "nox", "-s", name]
    subprocess.run(command, cwd=ROOT, env=make_environment(), stdout=sys.stderr, check=True)


def clock(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure_tests(bench: Bench, project: Path) -> dict[str, float]:
    with bench.postgres.connect(autocommit=True) as connection:
        connection.execute("CREATE DATABASE suite_test")
    url = bench.postgres.url.replace("/app_test", "/suite_test")
    command = ("env", f"DATABASE_URL={url}", UV, "run", "poe", "test")
    return {
        "poe test, on a PostgreSQL of its own": clock(succeed, project, *command[2:]),
        "poe test, on a PostgreSQL that runs": clock(succeed, project, *command),
    }


def measure_update(template: Path, projects: list[Path]) -> float:
    """Change a file of the template, and update projects to it."""
    for project in projects:
        git(project, "init", "--quiet")
        commit(project, "Start from the template")
    path = template / "template" / "dev" / "template.py"
    path.write_text(path.read_text() + "# changed\n")
    commit(template, "The next release")
    git(template, "tag", "v1.1.0")
    seconds = median(clock(update, project) for project in projects)
    assert all("# changed" in (project / "dev/template.py").read_text() for project in projects)
    return seconds


def update(project: Path) -> None:
    copier.run_update(project, defaults=True, overwrite=True, quiet=True, unsafe=False)

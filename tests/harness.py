"""Renders projects through copier's public API, and runs their commands."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import copier
import yaml
from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = {
    name: question
    for name, question in CONFIG.items()
    if not name.startswith("_") and question.get("when") is not False
}


# Jinja as copier sets it up for the template, with the filters that copier adds.
JINJA = Environment(autoescape=True, **CONFIG["_envops"] | {"undefined": StrictUndefined})
JINJA.filters |= dict.fromkeys(("fileglob", "regex_replace", "regex_search", "to_nice_yaml"), str)
LAYER = re.compile(r"\{\{has\.(\w+)\}\}/")


def list_values(question: str) -> list[str]:
    choices = QUESTIONS[question]["choices"].values()
    return [choice["value"] if isinstance(choice, dict) else choice for choice in choices]


def is_possible(answers: dict[str, str]) -> bool:
    """Ask the validators of the choices, as copier does, so far as their questions are answered."""
    for question, answer in answers.items():
        choices = QUESTIONS.get(question, {}).get("choices", {}).values()
        for choice in (choice for choice in choices if isinstance(choice, dict)):
            refusal = JINJA.from_string(choice["validator"])
            if choice["value"] == answer and refusal.render(answers):
                return False
    return True


SHORT = {"project_name": "X"}
LONG = {
    "project_name": "A Service’s Name – as Long as the Template × Accepts Names 🚀",
    "project_slug": "a-service-whose-slug-is-as-long-as-will-be-allowed",
    "package_name": "a_package_whose_name_is_as_long_as_may_b",
    "description": 'Says "hello" to C:\\, {{ braces }}, {# hashes #}, ünïcödé, 🚀, # % $HOME \'',
}

CHOICES = {name: list_values(name) for name in QUESTIONS if "choices" in QUESTIONS[name]}
# Every combination of what shapes the code.
SHAPES = [
    shape
    for database, auth in product(CHOICES["database"], CHOICES["auth"])
    if is_possible(shape := {"database": database, "auth": auth})
]
NAMES: dict[str, dict[str, str]] = {"default": {}, "short": SHORT, "long": LONG}


def choose_rows() -> list[dict[str, str]]:
    """Choose answers so that each possible pair of values is in a row; a new question joins."""
    axes = CHOICES | {"names": list(NAMES)}
    possible = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    pairs = [set(combinations(row.items(), 2)) for row in possible if is_possible(row)]
    missing = set[Any]().union(*pairs)
    rows: list[dict[str, str]] = []
    while missing:
        best = max(pairs, key=lambda pairs: len(pairs & missing))
        missing -= best
        row = dict(item for pair in best for item in pair)
        names = NAMES[row.pop("names")]
        rows.append({question: row[question] for question in CHOICES} | names)
    return rows


ROWS = choose_rows()


def name(answers: dict[str, str]) -> str:
    return "-".join(value[:9] for value in answers.values())


# What the tests leave in the template, since they import and lint some of it where it lies.
CACHES = ("__pycache__", ".ruff_cache", ".pytest_cache")
SOURCES = [
    path
    for path in (ROOT / "template").rglob("*")
    if path.is_file() and not set(CACHES).intersection(path.parts)
]


def take_snapshot(folder: Path) -> Path:
    """Copy what copier reads, as it lies here: committed or not."""
    shutil.copy(ROOT / "copier.yml", folder)
    ignore = shutil.ignore_patterns(*CACHES)
    shutil.copytree(ROOT / "template", folder / "template", ignore=ignore)
    return folder


def render(template: Path | str, project: Path, *, ref: str | None = None, **answers: str) -> Path:
    """Render without a prompt and without trust. An answer to no question is an error."""
    if unknown := answers.keys() - QUESTIONS.keys():
        raise ValueError(f"There is no question {', '.join(unknown)}.")
    copier.run_copy(
        str(template), project, data=answers, defaults=True, quiet=True, unsafe=False, vcs_ref=ref
    )
    return project


def read(project: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the content of each file and folder."""
    return {
        path.relative_to(project).as_posix(): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in project.rglob("*")
        if ".git" not in path.relative_to(project).parts
    }


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "gc.auto=0"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--allow-empty", "--message", message)


def list_releases() -> dict[str, str]:
    """Name the commit of each version: the one that wrote it into pyproject.toml, 0.1.0 first."""
    releases: dict[str, str] = {}
    for revision in git(ROOT, "log", "--reverse", "--format=%H", "--", "pyproject.toml").split():
        version = tomllib.loads(git(ROOT, "show", f"{revision}:pyproject.toml"))["project"][
            "version"
        ]
        if version != "0.0.1":
            releases.setdefault(version, revision)
    return releases


def read_section(project: Path, title: str) -> str:
    """Return what stands in the docs of a project under a heading."""
    docs = (project / "docs" / "development.md").read_text()
    return docs.split(f"## {title}\n")[1].split("\n## ")[0]


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def make_environment(**variables: str) -> dict[str, str]:
    """The environment of somebody who has configured nothing."""
    configured = ("AUTH_", "DATABASE_", "ENVIRONMENT", "HTTP_", "LOG_", "PORT", "VIRTUAL_ENV")
    runners = ("NOX", "PYTEST", "PYTHON", "UV_PROJECT")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(configured + runners)
    } | variables


UV = shutil.which("uv") or "uv"


def run(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=project,
        env=make_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def succeed(project: Path, *command: str, **variables: str) -> str:
    """Return what a command prints, or tell how it failed."""
    done = run(project, *command, **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout

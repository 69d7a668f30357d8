"""Renders projects through copier's public API, and runs their commands."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import copier
import yaml

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = {
    name: question
    for name, question in CONFIG.items()
    if not name.startswith("_") and question.get("when") is not False
}


def list_values(question: str) -> list[str]:
    choices = QUESTIONS[question]["choices"].values()
    return [choice["value"] if isinstance(choice, dict) else choice for choice in choices]


# Every combination but the one that is refused.
SHAPES = [
    {"database": database, "auth": auth}
    for database, auth in product(list_values("database"), list_values("auth"))
    if (database, auth) != ("none", "password")
]
ROWS = [shape | {"ci": ci} for shape in SHAPES for ci in list_values("ci")]
SHORT = {"project_name": "X"}
LONG = {
    "project_name": "A Service’s Name – as Long as the Template × Accepts Names 🚀",
    "project_slug": "a-service-whose-slug-is-as-long-as-will-be-allowed",
    "package_name": "a_package_whose_name_is_as_long_as_may_b",
    "description": 'Says "hello" to C:\\, {{ braces }}, {# hashes #}, ünïcödé, 🚀, # % $HOME \'',
}


def name(answers: dict[str, str]) -> str:
    return "-".join(value[:9] for value in answers.values())


def take_snapshot(folder: Path) -> Path:
    """Copy what copier reads, as it lies here: committed or not."""
    shutil.copy(ROOT / "copier.yml", folder)
    ignore = shutil.ignore_patterns("__pycache__", ".ruff_cache", ".pytest_cache")
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


def read_section(project: Path, title: str) -> str:
    """Return what stands in the README of a project under a heading."""
    return (project / "README.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]


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

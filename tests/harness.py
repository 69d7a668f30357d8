"""Renders projects with Copier's public API, and runs their commands."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from textwrap import indent
from types import CodeType
from typing import Any

import copier
import pytest
import yaml
from covertable import make
from jinja2 import Environment, Undefined, meta

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = {
    name: question
    for name, question in CONFIG.items()
    if not name.startswith("_") and question.get("when") is not False
}


COMPILED: dict[object, CodeType] = {}


def compile_once(
    environment: Environment, source: str, name: str | None = None, filename: str | None = None
) -> CodeType:
    """Compile a template, or return what was compiled for another project."""
    key = (environment.lexer, source, name)  # Copier clones the template to another folder
    if key not in COMPILED:
        COMPILED[key] = Environment.compile(environment, source, name, filename)
    return COMPILED[key]


# Jinja as Copier configures it for the template, with Copier's filters.
JINJA = Environment(autoescape=True, **CONFIG["_envops"] | {"undefined": Undefined})
JINJA.filters |= dict.fromkeys(("fileglob", "regex_replace", "regex_search", "to_nice_yaml"), str)
LAYER = re.compile(r"\{\{has\.(\w+)\}\}/")


def find_names(text: str) -> set[str]:
    """Find the variables that a Jinja text uses."""
    return meta.find_undeclared_variables(JINJA.parse(text))


def list_values(question: str) -> list[str]:
    choices = QUESTIONS[question]["choices"].values()
    return [choice["value"] if isinstance(choice, dict) else choice for choice in choices]


CHOICES = {name: list_values(name) for name in QUESTIONS if "choices" in QUESTIONS[name]}
# The questions that each flag depends on.
FLAGS = {
    flag: find_names(condition) & CHOICES.keys()
    for flag, condition in re.findall(r"^(\w+): (.+)$", CONFIG["has"]["default"], re.MULTILINE)
}


def get_flags(answers: Mapping[str, str]) -> dict[str, bool]:
    """Compute the flags from answers to all choices, as Copier does."""
    text = JINJA.from_string(CONFIG["has"]["default"]).render(answers)
    return {flag: bool(here) for flag, here in yaml.safe_load(text).items()}


class Constraint:
    """The validator of a value, which refuses it together with certain answers."""

    def __init__(self, question: str, value: str, validator: str) -> None:
        self.question = question
        self.value = value
        self.questions = {question} | find_names(validator)
        self.validator = JINJA.from_string(validator)

    def allows(self, answers: Mapping[str, str]) -> bool:
        return answers[self.question] != self.value or not self.validator.render(answers)


CONSTRAINTS = [
    Constraint(question, choice["value"], choice["validator"])
    for question in CHOICES
    for choice in QUESTIONS[question]["choices"].values()
    if isinstance(choice, dict) and "validator" in choice
]


def is_possible(answers: Mapping[str, str]) -> bool:
    """Whether the validators accept the answers. Those with unanswered questions are skipped."""
    return all(
        constraint.allows(answers)
        for constraint in CONSTRAINTS
        if constraint.questions <= answers.keys()
    )


NAMES: dict[str, dict[str, str]] = {
    "default": {},
    "short": {"project_name": "X"},
    "long": {
        "project_name": "A Service’s Name – as Long as the Template × Accepts Names 🚀",
        "project_slug": "a-service-whose-slug-is-as-long-as-will-be-allowed",
        "package_name": "a_package_whose_name_is_as_long_as_may_b",
        "description": (
            'Says "hello" to C:\\, {{ braces }}, {# hashes #}, ünïcödé, 🚀, # % $HOME \''
        ),
    },
}
# An answer to each question without choices that is not its default.
OTHER = {
    "project_name": "Quokka Mill",
    "project_slug": "grain-grinder",
    "package_name": "millstone",
    "description": "Turns wheat into flour.",
    "answers_version": "7",
}


def choose_rows(*questions: str, strength: int = 2) -> list[dict[str, str]]:
    """Choose rows of answers so that they contain each possible pair of values of the questions.

    With a strength of 1, they contain each value. `names` stands for short and long names.
    Other questions that the values depend on are included.
    """
    selection = {*questions}
    for _ in CONSTRAINTS:  # constraints may depend on each other
        for constraint in CONSTRAINTS:
            if not selection.isdisjoint(constraint.questions):
                selection |= constraint.questions
    axes = {
        name: values
        for name, values in (CHOICES | {"names": [*NAMES]}).items()
        if name in selection
    }
    rows: Any = make(
        axes,
        strength=min(strength, len(axes)),
        constraints=[
            {
                "operator": "fn",
                "requires": [*constraint.questions],
                "evaluate": constraint.allows,
            }
            for constraint in CONSTRAINTS
            if constraint.questions <= axes.keys()
        ],
    )
    return [
        {name: row[name] for name in axes if name != "names"} | NAMES[row.get("names", "default")]
        for row in rows
    ]


def get_target(source: Path) -> str:
    """Return the path of a source in a project, with the package name as a variable."""
    path = source.relative_to(ROOT / "template").as_posix()
    return LAYER.sub("", path).removesuffix(".jinja")


def find_flags(source: Path) -> set[str]:
    """Find the flags that decide whether and how a source is rendered."""
    path = source.relative_to(ROOT / "template").as_posix()
    return set(re.findall(r"\bhas\.(\w+)", f"{path}\n{source.read_text()}"))


def find_questions(*globs: str) -> list[str]:
    """Find the questions that decide what is rendered at these paths of a project."""
    questions = {
        question
        for source in SOURCES
        if any(fnmatch(get_target(source), glob) for glob in globs)
        for flag in find_flags(source)
        for question in FLAGS[flag]
    }
    return [question for question in CHOICES if question in questions]


def name(answers: dict[str, str]) -> str:
    return "-".join(value[:9] for value in answers.values())


def group(rows: list[dict[str, str]]) -> list[Any]:
    """Make a parameter of each row. Tests of a row run in one process and share fixtures."""
    return [
        pytest.param(row, id=name(row), marks=pytest.mark.xdist_group(name(row))) for row in rows
    ]


# Caches in the template, because the tests import and lint some files in place.
CACHES = ("__pycache__", ".ruff_cache", ".pytest_cache")
SOURCES = [
    path
    for path in (ROOT / "template").rglob("*")
    if path.is_file() and not set(CACHES).intersection(path.parts)
]
# The first value of each choice.
DEFAULTS = {question: values[0] for question, values in CHOICES.items()}
ROWS = choose_rows(*CHOICES, "names")
# Some files depend on three answers or more: mail about accounts and invitations, without jobs too,
# statistics with and without an owner, servers for the tests, and the examples of traces.
DEEP = [
    DEFAULTS | {"jobs": "postgres"},
    DEFAULTS | {"mail": "smtp", "jobs": "postgres", "organizations": "members"},
    DEFAULTS | {"mail": "smtp", "jobs": "postgres"},
    DEFAULTS | {"auth": "oidc", "mail": "smtp", "organizations": "members"},
    DEFAULTS | {"cache": "redis"},
    DEFAULTS | {"auth": "none", "cache": "redis"},
    DEFAULTS | {"auth": "oidc", "jobs": "nats", "cache": "redis"},
    DEFAULTS | {"database": "none", "auth": "none"},
    DEFAULTS | {"database": "none", "auth": "none", "cache": "redis"},
    DEFAULTS | {"database": "none", "auth": "none", "cache": "redis", "ci": "gitlab"},
    DEFAULTS | {"telemetry": "opentelemetry"},
    DEFAULTS | {"auth": "oidc", "organizations": "members", "telemetry": "opentelemetry"},
    DEFAULTS | {"database": "none", "auth": "none", "telemetry": "opentelemetry", "ci": "gitlab"},
]
ROWS += DEEP
# The answers that change code. The tests of a project take a minute or two, so those of a row run
# once: in a new project, or in one that a team has extended.
TESTED = choose_rows(*find_questions("src/*"))
EXTENDED = [row for row in TESTED if row["auth"] != "none"][1::3]


def take_snapshot(folder: Path) -> Path:
    """Copy the files that Copier reads, including uncommitted changes."""
    shutil.copy(ROOT / "copier.yml", folder)
    ignore = shutil.ignore_patterns(*CACHES)
    shutil.copytree(ROOT / "template", folder / "template", ignore=ignore)
    return folder


def render(template: Path | str, project: Path, *, ref: str | None = None, **answers: str) -> Path:
    """Render without prompts and without trust. Raise ValueError for an unknown question."""
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
    """Return the commit that set each version in pyproject.toml, oldest first."""
    releases: dict[str, str] = {}
    for revision in git(ROOT, "log", "--reverse", "--format=%H", "--", "pyproject.toml").split():
        version = tomllib.loads(git(ROOT, "show", f"{revision}:pyproject.toml"))["project"][
            "version"
        ]
        if version != "0.0.1":
            releases.setdefault(version, revision)
    return releases


def read_section(project: Path, title: str) -> str:
    """Return the text below a heading in docs/development.md of a project."""
    docs = (project / "docs" / "development.md").read_text()
    return docs.split(f"## {title}\n")[1].split("\n## ")[0]


def list_code(page: str) -> list[tuple[str, str]]:
    """List the Python blocks of a page, each with the path in its first line, or ''."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [
        ("".join(re.findall(r"\A# (\S+\.py)$", block, re.MULTILINE)), block) for block in blocks
    ]


def add_code(project: Path, path: str, code: str) -> None:
    """Add a module to a project, and make its folder a package."""
    file = project / path
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    file.write_text(code)


def add_lines(path: Path, point: str, lines: str, which: int = 0) -> None:
    """Add lines below an extension point. `which` selects one of several with the same name."""
    text = path.read_text()
    place = [*re.finditer(rf"^( *)# Yours: {point}\n", text, re.MULTILINE)][which]
    block = indent(lines.strip("\n") + "\n", place[1])
    path.write_text(text[: place.end()] + block + text[place.end() :])


def protect(migration: Path, table: str) -> None:
    """Add the policy of a table to its migration, as the docs say."""
    text = migration.read_text()
    line = "from my_service.organizations.policies import protect\n"
    text = text.replace("\nrevision", f"\n{line}\nrevision", 1)
    migration.write_text(
        text.replace("\n\n\ndef downgrade", f'\n    protect("{table}")\n\n\ndef downgrade', 1)
    )


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_true


def read_mail(project: Path, email: str) -> str:
    """Wait for a mail that `poe dev` writes for this address, and return it."""
    files = f"*-{email}.eml"
    folder = project / ".local" / "mail"
    # The service may be writing the last one.
    assert eventually(
        lambda: any(folder.glob(files)) and max(folder.glob(files)).stat().st_size > 0
    ), email
    return max(folder.glob(files)).read_text()


def read_token(project: Path, email: str) -> str:
    return re.findall(r"#token=(\S+)$", read_mail(project, email), re.MULTILINE)[0]


def make_environment(**variables: str) -> dict[str, str]:
    """Return the environment without variables that configure a service or a test runner."""
    example = (ROOT / "template" / ".env.example.jinja").read_text()
    variable_names = {*re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)}
    variable_names |= {"FORWARDED_ALLOW_IPS", "PORT", "VIRTUAL_ENV"}
    runners = ("NOX", "PYTEST", "PYTHON", "UV_PROJECT")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in variable_names and not name.startswith(runners)
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
        timeout=1200,  # only for what hangs: a busy machine is slow
        check=False,
    )


def succeed(project: Path, *command: str, **variables: str) -> str:
    """Return the output of a command that must succeed."""
    done = run(project, *command, **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_and_test(project: Path) -> None:
    succeed(project, UV, "run", "-q", "poe", "check")
    run_tests(project)


def run_tests(project: Path, *files: str) -> None:
    """Run the tests of a project, or those in some files. No test may be skipped."""
    output = succeed(project, UV, "run", "-q", "poe", "test", *files)
    assert re.search(r"^=* ?\d+ passed in [\d.]+s", output, re.MULTILINE), output

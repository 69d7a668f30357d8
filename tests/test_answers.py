"""An answer changes what it is about, and nothing else."""

import re
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

import pytest
from harness import CHOICES, NAMES, QUESTIONS, SHAPES, is_possible, read, render, run

FOR_ALL = [".copier-answers.yml", "docs/development.md"]
# The paths that each question may change; what another one changes, too, is in both.
CHANGES: dict[str, list[str]] = {
    "answers_version": [],
    "project_name": ["README.md", "src/*/__init__.py", "src/*/app.py"],
    "project_slug": [
        *["README.md", ".env.example", "pyproject.toml", "dev/__main__.py", "docs/*"],
        *["Dockerfile", "compose.yaml"],
        *["src/*/app.py", "src/*/settings.py", "tests/conftest.py"],
    ],
    "package_name": ["pyproject.toml", "migrations/env.py", "src/*", "tests/*", "docs/*"],
    "description": ["Dockerfile", "README.md", "pyproject.toml"],
    "database": [
        *[".dockerignore", ".github/workflows/ci.yml", ".gitlab-ci.yml", "Dockerfile"],
        *["compose.yaml"],
        *[".env.example", ".gitignore", "pyproject.toml", "dev/*", "migrations/*", "tests/*"],
        *["src/*/cli.py", "src/*/database.py", "src/*/dependencies.py", "src/*/errors.py"],
        *["src/*/items/*", "src/*/lifespan.py", "src/*/logs.py", "src/*/settings.py"],
        *["src/*/store.py", "src/*/auth/*", "src/*/app.py", "docs/*"],
    ],
    "auth": [
        *["compose.yaml"],
        *[".env.example", "pyproject.toml", "dev/*", "docs/*", "migrations/*", "tests/*"],
        *["src/*/app.py", "src/*/auth/*", "src/*/cli.py", "src/*/items/*", "src/*/lifespan.py"],
        *["src/*/settings.py"],
    ],
    "ci": [".github/dependabot.yml", ".github/workflows/*.yml", ".gitlab-ci.yml", "renovate.json"],
}
OTHER = {
    "project_name": "Quokka Mill",
    "project_slug": "grain-grinder",
    "package_name": "millstone",
    "description": "Turns wheat into flour.",
    "answers_version": "7",
}


def vary(question: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Pair answers that differ in one question only."""
    if question not in CHOICES:
        return [(SHAPES[0], SHAPES[0] | {question: OTHER[question]})]
    default = {"ci": CHOICES["ci"][0]}
    return [
        (default | shape, default | shape | {question: value})
        for shape, value in product(SHAPES, CHOICES[question])
        if (default | shape)[question] < value and is_possible(default | shape | {question: value})
    ]


def list_paths(project: Path) -> dict[str, tuple[int, bytes]]:
    return {path: kept for path, kept in read(project).items() if (project / path).is_file()}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_changes_only_its_own_paths(
    template: Path, tmp_path: Path, question: str
) -> None:
    identity = {"project_slug": "orders", "package_name": "orders"}
    for number, pair in enumerate(vary(question)):
        one, two = (
            list_paths(render(template, tmp_path / f"{number}-{side}", **identity | answers))
            for side, answers in enumerate(pair)
        )
        changed = {path for path in one | two if one.get(path) != two.get(path)}
        assert ".copier-answers.yml" in changed
        for path in changed:
            assert any(fnmatch(path, glob) for glob in FOR_ALL + CHANGES[question]), (
                f"{path}: {pair}"
            )


def test_no_value_of_one_project_is_in_another(template: Path, tmp_path: Path) -> None:
    one = {
        "project_name": "Zebra Ledger",
        "project_slug": "stripe-counter",
        "package_name": "savannah",
        "description": "Counts what gallops.",
        "answers_version": "9",
    }
    shapes = [{"database": "asyncpg", "auth": "password", "ci": "github"}] * 2
    shapes += [{"database": "none", "auth": "oidc", "ci": "gitlab"}] * 2
    assert one.keys() | shapes[0].keys() == OTHER.keys() | shapes[0].keys() == QUESTIONS.keys()
    for number, (shape, mine, theirs) in enumerate(
        zip(shapes, [one, OTHER] * 2, [OTHER, one] * 2, strict=True)
    ):
        project = render(template, tmp_path / str(number), **shape, **mine)
        for path, (_, content) in list_paths(project).items():
            text = f"{path}\n{content.decode()}"
            for value in [*theirs.values(), "My Service", "my-service", "my_service"]:
                assert not re.search(rf"\b{re.escape(value)}\b", text) or value.isdigit(), path
        answers = (project / ".copier-answers.yml").read_text()
        assert f"answers_version: {mine['answers_version']}" in answers


def test_every_shape_is_formatted_with_every_name(template: Path, tmp_path: Path) -> None:
    for shape, names in product(SHAPES, NAMES):
        folder = tmp_path / "-".join([*shape.values(), names])
        render(template, folder, **shape, **NAMES[names])
    for command in (["format", "--check"], ["check"]):
        done = run(tmp_path, "ruff", *command, "--quiet", ".")
        assert done.returncode == 0, done.stdout

"""`copier update` of projects that nobody has edited."""

import subprocess
from pathlib import Path

import copier
import pytest
from harness import SHAPES, name, read, render, take_snapshot


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "gc.auto=0"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--message", message)


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template whose version 1 lacked a file, had another, and worded a third differently."""
    template = tmp_path_factory.mktemp("releases")
    git(template, "init", "--initial-branch", "main")
    take_snapshot(template)
    sources = template / "template"
    ignored = (sources / ".gitignore.jinja").read_text()
    (sources / ".gitignore.jinja").write_text(ignored.replace("/dist/\n", "/build/\n"))
    (sources / "old.txt").write_text("gone in version 2\n")
    package = sources / "src" / "{{package_name}}"
    schemas = (package / "items" / "schemas.py").read_text()
    (package / "items" / "schemas.py").unlink()
    commit(template, "1")
    git(template, "tag", "v1.0.0")
    (sources / ".gitignore.jinja").write_text(ignored)
    (sources / "old.txt").unlink()
    (package / "items" / "schemas.py").write_text(schemas)
    commit(template, "2")
    git(template, "tag", "v2.0.0")
    return template


@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_an_update_equals_a_fresh_render(
    releases: Path, tmp_path: Path, shape: dict[str, str]
) -> None:
    updated = render(releases, tmp_path / "updated", ref="v1.0.0", **shape)
    fresh = render(releases, tmp_path / "fresh", ref="v2.0.0", **shape)
    assert read(updated) != read(fresh)

    git(updated, "init")
    commit(updated, "Start from the template")
    for _ in range(2):  # the second time there is nothing to do
        copier.run_update(updated, defaults=True, overwrite=True, quiet=True, unsafe=False)
        assert read(updated) == read(fresh)
        git(updated, "add", "--all")
        git(updated, "commit", "--allow-empty", "--message", "Update")


@pytest.mark.parametrize(
    "changes",
    [
        [{"auth": "oidc"}, {"auth": "none"}],
        [{"database": "none", "auth": "oidc"}, {"auth": "none"}, {"database": "asyncpg"}],
        [{"ci": "none"}],
    ],
    ids=["auth", "database", "ci"],
)
def test_answers_can_change_and_change_back(
    releases: Path, tmp_path: Path, changes: list[dict[str, str]]
) -> None:
    answers = {"database": "asyncpg", "auth": "password", "ci": "github"}
    project = render(releases, tmp_path / "project", ref="v2.0.0")
    git(project, "init")
    commit(project, "Start from the template")
    for number, change in enumerate([*changes, answers.copy()]):
        before = read(project)
        answers |= change
        copier.run_update(
            project, data=answers, defaults=True, overwrite=True, quiet=True, unsafe=False
        )
        assert read(project) != before
        fresh = render(releases, tmp_path / str(number), ref="v2.0.0", **answers)
        assert read(project) == read(fresh)
        commit(project, "Change an answer")

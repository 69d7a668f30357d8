"""`copier update`: exact where nobody edited, without loss where somebody did."""

import re
from itertools import pairwise
from pathlib import Path

import copier
import pytest
import yaml
from harness import (
    CHOICES,
    CONFIG,
    DEFAULTS,
    OTHER,
    QUESTIONS,
    ROOT,
    ROWS,
    choose_rows,
    commit,
    git,
    is_possible,
    list_releases,
    name,
    read,
    read_section,
    render,
)
from releases import ADDED, CURRENT, NEXT, start

RELEASES = list_releases()
SEEDS = set(CONFIG["_skip_if_exists"])
Tree = dict[str, tuple[int, bytes]]


def update(project: Path, ref: str, **answers: str) -> None:
    copier.run_update(
        project,
        data=answers,
        vcs_ref=ref,
        defaults=True,
        overwrite=True,
        quiet=True,
        unsafe=False,
    )


def read_managed(project: Path) -> Tree:
    return {path: kept for path, kept in read(project).items() if f"/{path}" not in SEEDS}


def assert_no_conflict(project: Path) -> None:
    assert git(project, "ls-files", "--unmerged") == ""
    for path, (_, content) in read(project).items():
        assert b"<<<<<<<" not in content, path
        assert not path.endswith(".rej")


def keep_known(release: str, answers: dict[str, str]) -> dict[str, str]:
    """Leave out the answers to questions that a release does not ask."""
    config = yaml.safe_load(git(ROOT, "show", f"{RELEASES[release]}:copier.yml"))
    return {question: answer for question, answer in answers.items() if question in config}


@pytest.mark.parametrize("row", choose_rows(*CHOICES, "names", strength=1), ids=name)
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_updates_to_what_a_fresh_render_gives(
    releases: Path, tmp_path: Path, release: str, row: dict[str, str]
) -> None:
    answers = keep_known(release, row)
    fresh = render(releases, tmp_path / "fresh", ref=CURRENT, **answers)
    project = start(releases, tmp_path / "project", f"v{release}", **answers)
    assert read(project) != read(fresh)  # if only for the version in the answers
    for _ in range(2):  # the second time there is nothing to do
        update(project, CURRENT)
        assert read_managed(project) == read_managed(fresh)
        commit(project, "Update")


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_next_release_gives_what_a_fresh_render_gives(
    releases: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    fresh = render(releases, tmp_path / "fresh", ref=NEXT, **row)
    project = start(releases, tmp_path / "project", CURRENT, **row)
    before = read_managed(project)
    assert len(before.items() ^ read_managed(fresh).items()) > 10
    for _ in range(2):
        update(project, NEXT)
        assert read_managed(project) == read_managed(fresh)
        commit(project, "Update")


# The other answers to each question; and rows, since a value may need one of another question.
TOGGLES = [
    [{question: value}]
    for question, values in CHOICES.items()
    for value in values[1:]
    if is_possible(DEFAULTS | {question: value})
]
TOGGLES += [[row, DEFAULTS, row] for row in choose_rows(*CHOICES, strength=1)]
TOGGLES += [[{question: value}] for question, value in OTHER.items()]


@pytest.mark.parametrize("changes", TOGGLES, ids=lambda changes: name(changes[-1]))
def test_answers_can_change_and_change_back(
    releases: Path, tmp_path: Path, changes: list[dict[str, str]]
) -> None:
    project = start(releases, tmp_path / "project", CURRENT)
    before = read(project)
    recorded = yaml.safe_load((project / ".copier-answers.yml").read_text())
    original = {question: str(recorded[question]) for question in QUESTIONS}
    for number, answers in enumerate([*changes, original]):
        fresh = render(releases, tmp_path / str(number), ref=CURRENT, **original | answers)
        update(project, CURRENT, **original | answers)
        assert read_managed(project) == read_managed(fresh)
        commit(project, "Change an answer")
    assert read(project) == before


def test_every_answer_is_changed() -> None:
    changed = {item for changes in TOGGLES for change in changes for item in change.items()}
    assert changed >= OTHER.items()
    for question, values in CHOICES.items():
        assert {value for key, value in changed if key == question} == {*values}


def add_mine(project: Path) -> list[str]:
    """Add a line of one's own at each extension point. Return where."""
    points: list[str] = []
    for path in sorted(project.rglob("*")):
        if path.is_file() and ".git" not in path.parts and "docs" not in path.parts:
            lines = path.read_text().splitlines(keepends=True)
            for number in reversed([n for n, line in enumerate(lines) if "# Yours: " in line]):
                indent = lines[number].partition("#")[0]
                lines.insert(number + 1, f"{indent}# mine\n")
                points.append(path.relative_to(project).as_posix())
            path.write_text("".join(lines))
    return points


@pytest.mark.parametrize("row", choose_rows(*CHOICES), ids=name)
def test_lines_at_extension_points_survive(
    releases: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    project = start(releases, tmp_path / "project", CURRENT, **row)
    points = add_mine(project)
    commit(project, "Add lines")
    fresh = render(releases, tmp_path / "fresh", ref=NEXT, **row)
    assert add_mine(fresh) == points
    for path in points:
        assert ADDED in (fresh / path).read_text(), path
    update(project, NEXT)
    assert_no_conflict(project)
    assert read_managed(project) == read_managed(fresh)

    # And the docs tell of each.
    section = read_section(project, "Extend it, and stay up to date")
    places = re.findall(r"^\| [^|]+ \| ([^|]+) \|", section, re.MULTILINE)
    told = {path for place in places for path in re.findall(r"`([\w./-]+)`", place)}
    assert {path for path in told if (project / path).is_file()} == {*points}


def test_seeds_are_never_touched(releases: Path, tmp_path: Path) -> None:
    project = start(releases, tmp_path / "project", CURRENT)
    assert {"/README.md"} == SEEDS
    (project / "README.md").write_text("ours\n")
    commit(project, "Write our own")
    update(project, NEXT)
    assert (project / "README.md").read_text() == "ours\n"
    commit(project, "Update")
    copier.run_recopy(project, defaults=True, overwrite=True, quiet=True, unsafe=False)
    assert (project / "README.md").read_text() == "ours\n"

    other = start(releases, tmp_path / "other", CURRENT)
    (other / "README.md").unlink()
    commit(other, "Do without")
    update(other, NEXT)
    assert not (other / "README.md").exists()


def test_an_edit_a_line_away_from_a_change_is_merged(releases: Path, tmp_path: Path) -> None:
    project = start(releases, tmp_path / "project", CURRENT)
    ignored = project / ".gitignore"
    lines = ignored.read_text().splitlines(keepends=True)
    lines[0] = "# ours\n" + lines[0]
    ignored.write_text("".join(lines))
    (project / "src" / "my_service" / "middleware.py").unlink()
    (project / "ours.txt").write_text("ours\n")
    commit(project, "Edit, delete and add")
    update(project, NEXT)
    assert_no_conflict(project)
    assert ignored.read_text().startswith("# ours\n")
    assert ADDED in ignored.read_text()
    assert not (project / "src" / "my_service" / "middleware.py").exists()
    assert (project / "ours.txt").read_text() == "ours\n"


def test_a_file_of_a_team_where_the_template_adds_one_is_a_conflict(
    releases: Path, tmp_path: Path
) -> None:
    project = start(releases, tmp_path / "project", "v0.1.0")
    (project / "Dockerfile").write_text("FROM ours\n")
    commit(project, "Write our own")
    update(project, CURRENT)
    assert git(project, "ls-files", "--unmerged", "Dockerfile")
    assert "FROM ours\n" in (project / "Dockerfile").read_text()


def test_a_project_in_a_folder_of_a_larger_repository_updates(
    releases: Path, tmp_path: Path
) -> None:
    fresh = render(releases, tmp_path / "fresh", ref=NEXT)
    repository = tmp_path / "repository"
    project = render(releases, repository / "services" / "orders", ref=CURRENT)
    (repository / "other.txt").write_text("other\n")
    git(repository, "init", "--quiet")
    commit(repository, "Start")
    update(project, NEXT)
    assert read_managed(project) == read_managed(fresh)
    assert {path.name for path in repository.iterdir()} == {".git", "other.txt", "services"}


def test_versions_go_up_and_their_changes_are_told() -> None:
    versions = [tuple(map(int, version.split("."))) for version in RELEASES]
    assert all(older < newer for older, newer in pairwise(versions))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    told = re.findall(r"^## (\d+\.\d+\.\d+) ", changelog, re.MULTILINE)
    assert told == [*reversed(RELEASES)]
    for section in changelog.split("\n## ")[1:]:
        assert section.startswith("Unreleased") or "### After updating" in section


def test_a_new_question_keeps_what_projects_have(releases: Path, tmp_path: Path) -> None:
    """`answers_version` tells those who were born before a question from those who answered it."""
    template = tmp_path / "template"
    git(releases, "clone", "--quiet", str(releases), str(template))
    version = CONFIG["answers_version"]["default"] + 1
    config = (template / "copier.yml").read_text()
    config = re.sub(
        r"(?<=^answers_version:\n  type: int\n  default: )\d+",
        str(version),
        config,
        flags=re.MULTILINE,
    )
    config += (
        "invented:\n  type: str\n  choices: [chosen, none]\n"
        f"  default: \"{{{{ 'chosen' if answers_version >= {version} else 'none' }}}}\"\n"
    )
    (template / "copier.yml").write_text(config)
    used = template / "template" / "{{ '.' if invented == 'chosen' else '' }}" / "invented.txt"
    used.parent.mkdir()
    used.write_text("chosen\n")
    commit(template, "Ask another question")
    git(template, "tag", "v9002.0.0")

    project = start(template, tmp_path / "project", NEXT)
    before = set(read(project))
    update(project, "v9002.0.0")
    assert set(read(project)) == before
    assert "invented: none" in (project / ".copier-answers.yml").read_text()
    fresh = render(template, tmp_path / "fresh", ref="v9002.0.0")
    assert (fresh / "invented.txt").exists()

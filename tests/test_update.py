"""`copier update`: exact for unedited files, without loss for edited ones."""

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
    """Return only the answers to questions that a release has."""
    config = yaml.safe_load(git(ROOT, "show", f"{RELEASES[release]}:copier.yml"))
    return {question: answer for question, answer in answers.items() if question in config}


@pytest.mark.parametrize("row", choose_rows(*CHOICES, "names", strength=1), ids=name)
@pytest.mark.parametrize("release", RELEASES)
def test_each_release_updates_to_a_fresh_render(
    releases: Path, tmp_path: Path, release: str, row: dict[str, str]
) -> None:
    answers = keep_known(release, row)
    expected = render(releases, tmp_path / "fresh", ref=CURRENT, **answers)
    project = start(releases, tmp_path / "project", f"v{release}", **answers)
    assert read(project) != read(expected)  # at least the version in the answers differs
    for _ in range(2):  # the second update changes nothing
        update(project, CURRENT)
        assert read_managed(project) == read_managed(expected)
        commit(project, "Update")


@pytest.mark.parametrize("row", choose_rows(*CHOICES), ids=name)
def test_the_next_release_updates_to_a_fresh_render(
    releases: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    expected = render(releases, tmp_path / "fresh", ref=NEXT, **row)
    project = start(releases, tmp_path / "project", CURRENT, **row)
    files = read_managed(project)
    assert len(files.items() ^ read_managed(expected).items()) > 10
    for _ in range(2):
        update(project, NEXT)
        assert read_managed(project) == read_managed(expected)
        commit(project, "Update")


# The other answers to each question; and whole rows, because some values need other answers.
TOGGLES = [
    [{question: value}]
    for question, values in CHOICES.items()
    for value in values[1:]
    if is_possible(DEFAULTS | {question: value})
]
TOGGLES += [[row, DEFAULTS, row] for row in choose_rows(*CHOICES, strength=1)]
TOGGLES += [[OTHER]]


@pytest.mark.parametrize("changes", TOGGLES, ids=lambda changes: name(changes[-1]))
def test_answers_can_change_and_change_back(
    releases: Path, tmp_path: Path, changes: list[dict[str, str]]
) -> None:
    project = start(releases, tmp_path / "project", CURRENT)
    files = read(project)
    recorded_answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    original = {question: str(recorded_answers[question]) for question in QUESTIONS}
    for number, answers in enumerate([*changes, original]):
        expected = render(releases, tmp_path / str(number), ref=CURRENT, **original | answers)
        update(project, CURRENT, **original | answers)
        assert read_managed(project) == read_managed(expected)
        commit(project, "Change an answer")
    assert read(project) == files


def test_every_answer_is_changed() -> None:
    answers = {item for changes in TOGGLES for change in changes for item in change.items()}
    assert answers >= OTHER.items()
    for question, values in CHOICES.items():
        assert {value for key, value in answers if key == question} == {*values}


def add_mine(project: Path) -> list[str]:
    """Add a line at each extension point, and return the paths."""
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
    expected = render(releases, tmp_path / "fresh", ref=NEXT, **row)
    assert add_mine(expected) == points
    for path in points:
        assert ADDED in (expected / path).read_text(), path
    update(project, NEXT)
    assert_no_conflict(project)
    assert read_managed(project) == read_managed(expected)

    # The docs list each extension point.
    section = read_section(project, "Extend it, and stay up to date")
    places = re.findall(r"^\| [^|]+ \| ([^|]+) \|", section, re.MULTILINE)
    documented = {path for place in places for path in re.findall(r"`([\w./-]+)`", place)}
    assert {path for path in documented if (project / path).is_file()} == {*points}


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
    gitignore = project / ".gitignore"
    lines = gitignore.read_text().splitlines(keepends=True)
    lines[0] = "# ours\n" + lines[0]
    gitignore.write_text("".join(lines))
    (project / "src" / "my_service" / "middleware.py").unlink()
    (project / "ours.txt").write_text("ours\n")
    commit(project, "Edit, delete and add")
    update(project, NEXT)
    assert_no_conflict(project)
    assert gitignore.read_text().startswith("# ours\n")
    assert ADDED in gitignore.read_text()
    assert not (project / "src" / "my_service" / "middleware.py").exists()
    assert (project / "ours.txt").read_text() == "ours\n"


def test_a_new_file_of_the_template_conflicts_with_one_of_the_team(
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
    expected = render(releases, tmp_path / "fresh", ref=NEXT)
    repository = tmp_path / "repository"
    project = render(releases, repository / "services" / "orders", ref=CURRENT)
    (repository / "other.txt").write_text("other\n")
    git(repository, "init", "--quiet")
    commit(repository, "Start")
    update(project, NEXT)
    assert read_managed(project) == read_managed(expected)
    assert {path.name for path in repository.iterdir()} == {".git", "other.txt", "services"}


def test_versions_increase_and_the_changelog_lists_them() -> None:
    versions = [tuple(map(int, version.split("."))) for version in RELEASES]
    assert all(older < newer for older, newer in pairwise(versions))
    changelog = (ROOT / "CHANGELOG.md").read_text()
    documented = re.findall(r"^## (\d+\.\d+\.\d+) ", changelog, re.MULTILINE)
    assert documented == [*reversed(RELEASES)]
    for section in changelog.split("\n## ")[1:]:
        assert section.startswith("Unreleased") or "### After updating" in section


def test_a_new_question_does_not_change_projects(releases: Path, tmp_path: Path) -> None:
    """`answers_version` distinguishes projects that are older than a question from newer ones."""
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
    path = template / "template" / "{{ '.' if invented == 'chosen' else '' }}" / "invented.txt"
    path.parent.mkdir()
    path.write_text("chosen\n")
    commit(template, "Ask another question")
    git(template, "tag", "v9002.0.0")

    project = start(template, tmp_path / "project", NEXT)
    paths = set(read(project))
    update(project, "v9002.0.0")
    assert set(read(project)) == paths
    assert "invented: none" in (project / ".copier-answers.yml").read_text()
    new_project = render(template, tmp_path / "fresh", ref="v9002.0.0")
    assert (new_project / "invented.txt").exists()

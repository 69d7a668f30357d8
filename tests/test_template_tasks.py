"""`poe template-update` and `poe template-diff` of a project."""

import re
import shutil
import sys
from pathlib import Path
from subprocess import CalledProcessError, CompletedProcess

import pytest
from harness import commit, git, read, render, run, take_snapshot


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with two versions: the second changes a line, adds a file and deletes two."""
    template = take_snapshot(tmp_path_factory.mktemp("releases"))
    git(template, "init", "--quiet")
    sources = template / "template"
    for file in ("old.txt", "older.txt"):
        (sources / file).write_text("one\ntwo\n")
    commit(template, "1")
    git(template, "tag", "v1.0.0")
    gitignore = sources / ".gitignore.jinja"
    gitignore.write_text(gitignore.read_text().replace("/dist/\n", "/build/\n"))
    (sources / "README.md.jinja").write_text("another README\n")
    (sources / "new.txt").write_text("new\n")
    (sources / "old.txt").unlink()
    (sources / "older.txt").unlink()
    commit(template, "2")
    git(template, "tag", "v2.0.0")
    return template


@pytest.fixture
def project(releases: Path, tmp_path: Path) -> Path:
    project = render(releases, tmp_path / "a project", ref="v1.0.0", database="none")
    (project / ".venv").mkdir()
    (project / ".venv" / "lib64").symlink_to(tmp_path)
    git(project, "init", "--quiet")
    commit(project, "Start from the template")
    return project


def template(project: Path, *arguments: str, **variables: str) -> CompletedProcess[str]:
    task = (f"template-{arguments[0]}", *arguments[1:])
    return run(project, sys.executable, "-B", "-m", "dev.template", *task, **variables)


def test_an_update_shows_and_makes_the_changes(
    releases: Path, tmp_path: Path, project: Path
) -> None:
    done = template(project, "update")
    assert done.returncode == 0, done.stdout
    assert " create mode 100644 new.txt" in done.stdout.replace("new/new.txt", "new.txt")
    assert "delete mode 100644" in done.stdout
    assert ".gitignore" in done.stdout
    assert "README.md" not in done.stdout
    assert "The update has no conflicts." in done.stdout
    assert "lines of yours" not in done.stdout
    expected = render(releases, tmp_path / "fresh", database="none")
    (expected / "README.md").write_bytes((project / "README.md").read_bytes())
    shutil.rmtree(project / ".venv")
    assert read(project) == read(expected)
    commit(project, "Update")
    second = template(project, "update")
    assert second.returncode == 0
    assert git(project, "status", "--porcelain") == ""


def test_an_update_runs_as_a_task(project: Path) -> None:
    (project / ".venv" / "lib64").unlink()
    assert run(project, "uv", "lock").returncode == 0
    commit(project, "Lock the dependencies")
    done = run(project, "uv", "run", "poe", "template-update")
    assert done.returncode == 0, done.stdout
    assert (project / "new.txt").exists()
    assert not (project / "old.txt").exists()


def test_options_are_passed_to_copier(project: Path) -> None:
    done = template(project, "update", "--vcs-ref", "v1.0.0", "--data", "ci=gitlab")
    assert done.returncode == 0, done.stdout
    assert (project / ".gitlab-ci.yml").exists()
    assert not (project / ".github").exists()
    assert not (project / "new.txt").exists()


@pytest.mark.parametrize("options", [(), ("--conflict", "rej")])
def test_conflicts_fail(project: Path, options: tuple[str, ...]) -> None:
    gitignore = project / ".gitignore"
    gitignore.write_text(gitignore.read_text().replace("/dist/\n", "/out/\n"))
    commit(project, "Edit")
    done = template(project, "update", *options)
    assert done.returncode == 1
    assert "The update has conflicts. Resolve them, then commit:" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == (".gitignore.rej" if options else ".gitignore")
    path = project / (".gitignore.rej" if options else ".gitignore")
    assert "/out/\n" in path.read_text()


def test_lost_lines_are_shown(project: Path) -> None:
    (project / "old.txt").write_text("one\nmine\ntwo\n")
    commit(project, "Edit")
    done = template(project, "update")
    assert done.returncode == 0
    assert "The template has deleted old.txt, and with it these lines of yours:\n  mine\n" in (
        done.stdout
    )
    assert "older.txt, and" not in done.stdout
    assert "`git show HEAD:./old.txt`" in done.stdout
    assert git(project, "show", "HEAD:./old.txt") == "one\nmine\ntwo\n"


def test_a_difference_shows_what_the_project_has_changed(project: Path) -> None:
    assert template(project, "diff").stdout == ""
    (project / "old.txt").write_text("one\nmine\ntwo\n")
    (project / "older.txt").unlink()
    (project / "README.md").write_text("ours\n")
    (project / "ours.txt").write_text("ours\n")
    done = template(project, "diff")
    assert done.returncode == 0
    assert "\n+mine\n" in done.stdout
    assert "older.txt" in done.stdout
    assert "ours" not in done.stdout
    assert "answers" not in done.stdout


def test_files_of_the_team_in_moved_folders_are_listed(project: Path) -> None:
    package = project / "src" / "my_service"
    (package / "orders").mkdir()
    (package / "orders" / "router.py").write_text("")
    (project / "src" / "tools.py").write_text("")
    commit(project, "Add a feature")
    done = template(project, "update", "--data", "package_name=orders")
    assert done.returncode == 0, done.stdout
    assert (
        "The template has moved or deleted the folders of these files of yours:\n"
        "  src/my_service/orders/router.py\n"
        "Move them"
    ) in done.stdout
    paths = [path for path in package.rglob("*") if path.is_file()]
    assert paths == [package / "orders" / "router.py"]


def test_files_that_git_cannot_restore_are_not_overwritten(tmp_path: Path, project: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "conftest.py").write_text("mine\n")
    commit(library, "Start")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "development.md").write_text("mine\n")

    git(project, "rm", "-r", "--quiet", ".github", "docs", "tests", ".dockerignore")
    git(project, "rm", "--cached", "--quiet", ".copier-answers.yml", "Dockerfile", "old.txt")
    exclude = project / ".git" / "info" / "exclude"
    exclude.write_text("*.rej\n.copier-answers.yml\nDockerfile\nold.txt\n.dockerignore\n")
    (project / ".github").write_text("mine\n")
    (project / "docs").symlink_to(tmp_path / "elsewhere")
    (project / "new.txt").mkdir()
    (project / "new.txt" / "note").write_text("mine\n")
    source = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library))
    git(project, *source, "tests")
    commit(project, "Make it ours")
    (project / ".dockerignore").symlink_to("older.txt")
    (project / "Dockerfile").write_text("mine\n")
    (project / "Dockerfile.rej").write_text("mine\n")
    git(project, "update-index", "--skip-worktree", "pyproject.toml")
    git(project, "update-index", "--assume-unchanged", "older.txt")
    (project / "older.txt").write_text("mine\n")
    assert git(project, "status", "--porcelain") == ""

    contents, other_contents = read(project), read(tmp_path / "elsewhere")
    done = template(project, "update")
    assert done.returncode == 1
    assert done.stdout.partition("Git could not give them back:\n")[2] == (
        "  .copier-answers.yml: not committed\n"
        "  .dockerignore: not committed\n"
        "  .github: not a folder of this repository, as in the template\n"
        "  Dockerfile: not committed\n"
        "  Dockerfile.rej: not committed\n"
        "  docs: not a folder of this repository, as in the template\n"
        "  new.txt: a folder, but a file in the template\n"
        "  old.txt: not committed\n"
        "  older.txt: hidden: run `git update-index --no-assume-unchanged older.txt`\n"
        "  pyproject.toml: hidden: run `git update-index --no-skip-worktree pyproject.toml`\n"
        "  tests: not a folder of this repository, as in the template\n"
        "Commit them (`git add --force` adds ignored files), or move them elsewhere during the "
        "update.\n"
    )
    assert read(project) == contents
    assert read(tmp_path / "elsewhere") == other_contents


def test_problems_of_an_update_are_reported(tmp_path: Path, project: Path) -> None:
    def assert_refused(task: str, sentence: str) -> None:
        contents = read(project)
        done = template(project, task)
        assert done.returncode == 1
        assert sentence in done.stdout
        assert "Traceback" not in done.stdout
        assert read(project) == contents

    (project / "old.txt").write_text("mine\n")
    assert_refused("update", "Commit or stash these changes first, then update:\n M old.txt")
    commit(project, "Edit")

    answers = project / ".copier-answers.yml"
    text = answers.read_text()
    answers.write_text(text.replace("_src_path: /", "_src_path: /nowhere/"))
    commit(project, "Lose the template")
    for task in ("update", "diff"):
        assert_refused(task, "Copier cannot use the template")
    answers.write_text("\n".join(line for line in text.splitlines() if "_commit" not in line))
    commit(project, "Lose the version")
    for task in ("update", "diff"):
        assert_refused(task, "has no _commit")
    answers.unlink()
    commit(project, "Lose the answers")
    for task in ("update", "diff"):
        assert_refused(task, "There is no .copier-answers.yml")

    (project / ".git").rename(tmp_path / "git")
    assert_refused("update", "This is not a Git repository")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PATH": "/nowhere"}, "There is no git on the PATH. Install it first."),
        (
            {"GIT_DIR": ".git", "GIT_INDEX_FILE": "index"},
            "The environment has GIT_DIR, GIT_INDEX_FILE",
        ),
        # Simulates a folder of another user.
        ({"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}, "git config --global --add safe.directory"),
        (
            {"UV_OFFLINE": "1", "UV_CACHE_DIR": "{}/cache"},
            "cause: Because copier was not found in ",
        ),
    ],
)
def test_an_unsuitable_environment_is_reported(
    tmp_path: Path, project: Path, variables: dict[str, str], sentence: str
) -> None:
    variables = {name: value.format(tmp_path) for name, value in variables.items()}
    done = template(project, "update", **variables)
    assert done.returncode == 1
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout
    assert git(project, "status", "--porcelain") == ""


def test_an_unreachable_template_is_reported(project: Path) -> None:
    answers = project / ".copier-answers.yml"
    url = "_src_path: git+http://127.0.0.1:1/template.git"
    answers.write_text(re.sub("^_src_path: .*", url, answers.read_text(), flags=re.MULTILINE))
    commit(project, "Move the template")
    for task in ("update", "diff"):
        done = template(project, task, NO_PROXY="127.0.0.1")
        assert done.returncode == 1
        first, second = done.stdout.splitlines()
        assert first.startswith("Copier cannot use the template, whose place is _src_path in ")
        assert second.startswith("  fatal: unable to access 'http://127.0.0.1:1/template.git/'")


def test_a_git_operation_in_progress_is_reported(project: Path) -> None:
    (project / "note").write_text("")
    commit(project, "Add a note")
    other = git(project, "commit-tree", "-p", "HEAD", "-m", "Other", "HEAD^{tree}").strip()
    git(project, "merge", "--no-commit", "--no-ff", other)
    done = template(project, "update")
    assert done.stdout.startswith("A merge is in progress. Finish it with `git merge --continue`")
    git(project, "merge", "--abort")
    with pytest.raises(CalledProcessError):
        git(project, "rebase", "--exec", "false", "HEAD~1")
    assert git(project, "status", "--porcelain") == ""
    done = template(project, "update")
    assert done.stdout.startswith("A rebase is in progress. Finish it with `git rebase --continue`")


@pytest.mark.parametrize("source", ["../releases", "releases", ".", "{project}"])
def test_a_relative_path_of_the_template_is_reported(
    releases: Path, project: Path, source: str
) -> None:
    answers = project / ".copier-answers.yml"
    source = source.format(project=project)
    text = answers.read_text()
    assert f"\n_src_path: {releases}\n" in text
    answers.write_text(text.replace(str(releases), source))
    commit(project, "Move the template")
    for task in ("update", "diff"):
        done = template(project, task)
        assert done.returncode == 1
        assert f"The _src_path in .copier-answers.yml is {source}: a relative path" in done.stdout
        assert "to the URL or the absolute path of the template" in done.stdout
        assert git(project, "status", "--porcelain") == ""


def test_a_template_may_be_at_a_url(releases: Path, project: Path) -> None:
    answers = project / ".copier-answers.yml"
    url = f"git+file://{releases}"
    answers.write_text(answers.read_text().replace(f"_src_path: {releases}", f"_src_path: {url}"))
    done = template(project, "diff")
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""

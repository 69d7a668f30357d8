"""The first feature of a team, and common mistakes that the tests must explain."""

import re
import shlex
from pathlib import Path

import pytest
from harness import ROOT, UV, add_lines, choose_rows, find_questions, name, render, run, succeed

TEMPLATE = "gh:OWNER/keel"
# A command, a file, or lines at an extension point: a fenced block and the text before it.
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
FILE = re.compile(r"`(?P<path>[\w/.]+)`:")
LINES = re.compile(r"below `Yours: (?P<point>\w+)` in `(?P<path>[\w/.]+)`:")


def follow(page: str, folder: Path, source: Path) -> list[str]:
    """Run the commands of a page and write its files, in order."""
    paths: list[str] = []
    for block in BLOCK.finditer(page):
        text = block["text"]
        if block["language"] == "sh":
            for command in text.replace(TEMPLATE, shlex.quote(str(source))).splitlines():
                output = succeed(folder, "sh", "-c", f"{command} && pwd")
                folder = Path(output.splitlines()[-1])
        elif lines := LINES.search(block["before"]):
            add_lines(folder / lines["path"], lines["point"], text)
        else:
            [path] = FILE.findall(block["before"])
            (folder / path).write_text(text)
            paths.append(path)
    return paths


def test_the_page_about_the_first_feature_can_be_followed(template: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "first-feature.md").read_text()
    assert page.count("```sh") == 5
    assert page.count("```") == 2 * len(BLOCK.findall(page))
    paths = follow(page, tmp_path, template)
    assert len(paths) == 6
    [migration] = (tmp_path / "my-service" / "migrations" / "versions").glob("*_add_labels.py")
    assert 'op.create_table(\n        "labels"' in migration.read_text()


MODEL = """
from sqlalchemy.orm import Mapped

from ..database import Base


class Note(Base):
    __tablename__ = "notes"

    text: Mapped[str]
"""
ROUTER = """
from ..routing import Router

router = Router(prefix="/notes", tags=["notes"])


@router.get("")
async def list_notes() -> list[str]:
    return []
"""


def add_feature(project: Path, **modules: str) -> None:
    folder = project / "src" / "my_service" / "notes"
    folder.mkdir()
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def include(project: Path, module: str, *routers: str) -> None:
    """Import a module of the feature in app.py, and include its router."""
    app = project / "src" / "my_service" / "app.py"
    add_lines(app, "imports", f"from .notes import {module}")
    for router in routers:
        add_lines(app, "routers", f'app.include_router({router}, prefix="/v1")')


def fail(project: Path, path: str) -> str:
    """Return the output of failing tests as one line."""
    done = run(project, UV, "run", "-q", "poe", "test", path)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    return " ".join(done.stdout.split())


def test_a_model_without_a_migration_fails_and_names_the_command(
    template: Path, tmp_path: Path
) -> None:
    project = render(template, tmp_path / "project", auth="none")
    add_feature(project, models=MODEL)
    tests = "tests/test_migrations.py"
    output = fail(project, tests)
    assert "Nothing imports src/my_service/notes/models.py" in output
    assert "Include the router of the feature in app.py" in output

    include(project, "models")
    output = fail(project, tests)
    [command] = {*re.findall(r"The models and the migrations differ. Run `(.+?)`", output)}
    succeed(project, "sh", "-c", command)
    assert "passed" in succeed(project, UV, "run", "-q", "poe", "test", tests)


ROWS = [row for row in choose_rows(*find_questions("src/*/auth/*")) if row["auth"] != "none"]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_route_without_protection_fails_and_names_the_fix(
    template: Path, tmp_path: Path, row: dict[str, str]
) -> None:
    project = render(template, tmp_path / "project", **row)
    add_feature(project, router=ROUTER)
    include(project, "router", "router.router")
    tests = "tests/auth/test_protection.py"
    output = fail(project, tests)
    assert "GET /v1/notes asks for no credential. If anybody may call it, put @public" in output

    router = project / "src" / "my_service" / "notes" / "router.py"
    public = ROUTER.replace("import Router", "import Router, public")
    router.write_text(public.replace('get("")', 'get("")\n@public'))
    assert "passed" in succeed(project, UV, "run", "-q", "poe", "test", tests)

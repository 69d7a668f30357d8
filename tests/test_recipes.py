"""The code in docs/recipes.md of a project works."""

import json
import re
import shutil
from pathlib import Path

import pytest
from harness import (
    DEFAULTS,
    UV,
    add_code,
    add_lines,
    choose_rows,
    find_questions,
    get_flags,
    list_code,
    name,
    render,
    succeed,
)

RECIPES = Path(__file__).with_name("recipes")
APP = "src/my_service/app.py"


def add_recipes(project: Path, page: str) -> str:
    """Add the code of the recipes, and return that of the migration, which is written later."""
    blocks = dict(list_code(page))
    assert "" not in blocks
    migration = blocks.pop("migrations/versions/..._add_late_tasks.py", "")
    for path, code in blocks.items():
        add_code(project, path, code)
    return migration


def add_overlays(project: Path, flags: dict[str, bool]) -> None:
    """Add the code that the recipes omit, and the tests."""
    for overlay in RECIPES.iterdir():
        if flags.get(overlay.name, True):
            shutil.copytree(overlay, project, dirs_exist_ok=True)
            for module in overlay.glob("src/my_service/*.py"):
                if flags["organizations"]:  # the example is below an organization then
                    path = project / module.relative_to(overlay)
                    code = path.read_text().replace("get_item_service", "get_organization_service")
                    path.write_text(code.replace(".items.dep", ".organizations.dep"))
                add_lines(
                    project / APP, "imports", f"from .{module.stem} import routers as {module.stem}"
                )
                include = 'app.include_router(router, prefix="/v1")'
                loop = f"for router in {module.stem}:\n    {include}"
                add_lines(project / APP, "routers", loop)


def add_migrations(project: Path, code: str) -> None:
    """Follow the recipe of enum columns: a type, and later another member."""
    succeed(project, UV, "run", "-q", "poe", "migration", "add tasks")
    model = project / "src" / "my_service" / "tasks" / "models.py"
    member = '    DONE = "done"\n'
    assert member in model.read_text()
    model.write_text(model.read_text().replace(member, f'{member}    LATE = "late"\n'))
    succeed(project, UV, "run", "-q", "poe", "migration", "--empty", "add late tasks")
    [path] = project.glob("migrations/versions/*_add_late_tasks.py")
    functions = re.search(r"\ndef upgrade.+", code, re.DOTALL)
    assert functions
    text = path.read_text().replace("revision =", "from alembic import op\n\nrevision =", 1)
    path.write_text(text[: text.index("\ndef upgrade")] + functions[0])


# Tests of a project that also check the code of the recipes, by the flag that they need.
TESTS = {
    "auth": "tests/auth/test_protection.py::test_each_route_is_public_or_asks_for_a_credential",
    "database": "tests/test_migrations.py::test_migrations_upgrade_downgrade_and_match_the_models",
}
# With a database, test only one kind of authentication, because migrations are slow.
ROWS = [
    row
    for row in choose_rows(*find_questions("docs/recipes.md"))
    if row["database"] == "none" or row["auth"] == "password"
]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_recipes_work(template: Path, tmp_path: Path, row: dict[str, str]) -> None:
    project = render(template, tmp_path / "project", **row)
    flags = get_flags(DEFAULTS | row)
    page = (project / "docs" / "recipes.md").read_text()
    for package in re.findall(r"`uv add ([\w-]+)`", page):
        succeed(project, UV, "add", "-q", package)
    migration = add_recipes(project, page)
    add_overlays(project, flags)
    if flags["database"]:
        add_migrations(project, migration)
    document = json.loads(succeed(project, UV, "run", "-q", "poe", "-q", "openapi"))
    assert document["paths"]["/v1/comments"]["post"]["operationId"] == "add_comment"
    tests = ["tests/recipes", "tests/test_rates.py"]
    tests += [test for flag, test in TESTS.items() if flags[flag]]
    output = succeed(project, UV, "run", "-q", "poe", "test", *tests)
    assert re.search(r"^=* ?\d+ passed in [\d.]+s", output, re.MULTILINE), output

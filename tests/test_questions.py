"""The questions: accepted answers are rendered correctly, refused ones have a clear message."""

import keyword
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from harness import CHOICES, CONFIG, QUESTIONS, ROOT, render, run


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        ({"project_name": 'The "Best"'}, "No quotes, braces"),
        ({"project_name": "Ada's"}, "No quotes, braces"),
        ({"project_name": "{{ 7 * 7 }}"}, "No quotes, braces"),
        ({"project_name": "{# a #}"}, "No quotes, braces"),
        ({"project_name": "{% raw %}"}, "No quotes, braces"),
        ({"project_name": "a\\nb"}, "No quotes, braces"),
        ({"project_name": "a\nb"}, "No quotes, braces"),
        ({"project_name": "a\x00b"}, "No quotes, braces"),
        ({"project_name": "a\u2028b"}, "No quotes, braces"),
        ({"project_name": "`id`"}, "No quotes, braces"),
        ({"project_name": "x" * 300}, "1 to 60 characters"),
        ({"project_name": ""}, "1 to 60 characters"),
        ({"project_name": " Orders"}, "1 to 60 characters"),
        ({"project_name": "x" * 61}, "1 to 60 characters"),
        ({"project_slug": "Orders"}, "'project_slug': Lower-case words"),
        ({"project_slug": "orders-"}, "'project_slug': Lower-case words"),
        ({"project_slug": "3d"}, "'project_slug': Lower-case words"),
        ({"project_slug": "orders\n"}, "'project_slug': Lower-case words"),
        ({"project_slug": "x" * 51}, "'project_slug': Lower-case words"),
        ({"project_slug": "fastapi"}, "'project_slug': fastapi is the name of something"),
        ({"project_slug": "pydantic-settings"}, "'project_slug': pydantic-settings is the name"),
        ({"package_name": "x" * 41}, "'package_name': Lower-case words"),
        ({"package_name": "test"}, "module of Python"),
        ({"package_name": "my-service"}, "Lower-case words"),
        ({"package_name": "Orders"}, "Lower-case words"),
        ({"package_name": "class"}, "keyword"),
        ({"package_name": "json"}, "module of Python"),
        ({"package_name": "email"}, "module of Python"),
        ({"package_name": "fastapi"}, "something that the service installs"),
        ({"package_name": "alembic"}, "something that the service installs"),
        ({"package_name": "tests"}, "one of its folders"),
        ({"description": "two\nlines"}, "One line"),
        ({"description": "x" * 201}, "One line"),
        ({"description": " x"}, "One line"),
        ({"database": "mysql"}, "Invalid choice"),
        ({"database": "none", "auth": "password"}, "database=asyncpg, or auth=oidc, or auth=none"),
    ],
)
def test_an_invalid_answer_is_refused_before_files_are_written(
    template: Path, tmp_path: Path, answers: dict[str, str], rule: str
) -> None:
    answers = {"package_name": "ours"} | answers
    with pytest.raises(ValueError, match=re.escape(rule)):
        render(template, tmp_path / "project", **answers)
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("project_name", "slug"),
    [
        ("Order Service", "order-service"),
        ("Rocket 🚀 & <Söhne>: 100 % #1, $HOME!", "rocket-s-hne-100-1-home"),
        ("3D Prints", "d-prints"),
        ("🚀", "service"),
        ("-- _ --", "service"),
        ("Ada’s Orders – Ω × 2", "ada-s-orders-2"),
        (
            "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
            "llanfairpwllgwyngyllgogerychwyrndrobwllllantysilio",
        ),
    ],
)
def test_a_name_is_rendered_wherever_it_appears(
    template: Path, tmp_path: Path, project_name: str, slug: str
) -> None:
    project = render(template, tmp_path / "project", project_name=project_name, database="none")
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert answers["project_name"] == project_name
    assert answers["project_slug"] == slug
    assert (project / "README.md").read_text().startswith(f"# {project_name}\n")
    package = slug.replace("-", "_")[:40]
    app = (project / "src" / package / "app.py").read_text()
    assert f'title="{project_name}"' in app


@pytest.mark.parametrize(
    "description", ["\"quoted\" \\ and 'single'", "{{ 7 * 7 }} {# x #} {% y %}", "ünïcödé 🚀 # $X"]
)
def test_a_description_is_rendered_as_it_is(
    template: Path, tmp_path: Path, description: str
) -> None:
    project = render(template, tmp_path / "project", description=description)
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    assert pyproject["project"]["description"] == description
    assert f"\n{description}\n" in (project / "README.md").read_text()
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert answers["description"] == description


@pytest.mark.parametrize(
    "file", ["note.txt", ".env", "src/ours/app.py", "tests/conftest.py", ".github/workflows/ci.yml"]
)
@pytest.mark.parametrize("name", ["project", "g[1]*"])
def test_a_folder_with_files_is_refused(
    template: Path, tmp_path: Path, name: str, file: str
) -> None:
    project = tmp_path / name
    (project / file).parent.mkdir(parents=True)
    (project / file).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="has files in it"):
        render(template, project)
    assert sorted(tmp_path.rglob("*")) == before
    assert (project / file).read_text() == "mine"


def test_a_folder_with_an_empty_repository_is_accepted(template: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "git", "init").returncode == 0
    assert (render(template, tmp_path) / "pyproject.toml").exists()


def test_unanswered_questions_have_their_defaults(template: Path, tmp_path: Path) -> None:
    project = render(template, tmp_path / "project")
    first_choices = {question: values[0] for question, values in CHOICES.items()}
    assert yaml.safe_load((project / ".copier-answers.yml").read_text()) == {
        "_src_path": str(template),
        "answers_version": CONFIG["answers_version"]["default"],
        "description": "",
        "package_name": "my_service",
        "project_name": "My Service",
        "project_slug": "my-service",
        **first_choices,
    }


def test_the_harness_refuses_an_unknown_question(template: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no question databse"):
        render(template, tmp_path / "project", databse="none")


def test_names_of_python_are_reserved() -> None:
    taken = set(yaml.safe_load(CONFIG["python_names"]["default"]))
    names = {*keyword.kwlist, *sys.stdlib_module_names, "test"}
    assert {name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name)} <= taken


def test_the_readme_lists_each_question_and_value() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", readme, re.MULTILINE))
    assert rows.keys() == QUESTIONS.keys()
    for name in QUESTIONS:
        for value in CHOICES.get(name, []):
            assert f"`{value}`" in rows[name], name

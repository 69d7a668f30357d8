"""What the sources of the template promise, read without rendering them."""

import ast
import re
from pathlib import Path
from typing import Any

from harness import CONFIG, JINJA, LAYER, QUESTIONS, ROOT, SOURCES, list_releases
from jinja2 import meta

TEMPLATES = {path: path.read_text() for path in SOURCES if path.suffix == ".jinja"}
# An optional line ends in a mark; several stand between tags.
FLAGS = set(re.findall(r"^(\w+):", CONFIG["has"]["default"], re.MULTILINE))
FLAG = rf"(?:not )?has\.(?:{'|'.join(FLAGS)})"
CONDITION = rf"{FLAG}(?: and {FLAG})*|{FLAG}(?: or {FLAG})*"
MARK = re.compile(rf"\S  # if (?:{CONDITION})$", re.MULTILINE)
TAG = re.compile(
    rf" *#: (?:(?:if|elif) (?:{CONDITION}|description)|else|endif|raw|endraw|endfilter|set .+)"
)
MARKED = "#: filter regex_replace(unchosen, '')\n"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_each_row_about_faults_is_a_test() -> None:
    docs = (ROOT / "template" / "docs" / "faults.md.jinja").read_text()
    rows = set(re.findall(r"^\| (.+?) \|", docs, re.MULTILINE)) - {"fault"}
    tests = "".join(
        (ROOT / "tests" / f"test_{part}.py").read_text() for part in ("faults", "hostile")
    )
    assert rows == set(re.findall(r'^@row\("(.+)"\)$', tests, re.MULTILINE))


def test_trust_is_never_needed() -> None:
    assert not CONFIG.keys() & {"_tasks", "_migrations", "_jinja_extensions"}


# What copier itself defines.
BUILT_IN = {"_copier_answers", "_copier_conf", "_copier_operation", "range", "namespace"}
# Questions of older versions, whose answers the default of another one still reads.
RENAMED: set[str] = set()
VARIABLES = [key for key in CONFIG if not key.startswith("_")]


def find_names(value: Any) -> set[str]:
    """Find the variables that a text, or the texts in a part of copier.yml, ask for."""
    match value:
        case dict():
            return set[str]().union(*map(find_names, value.values()))
        case list():
            return set[str]().union(*map(find_names, value))
    return meta.find_undeclared_variables(JINJA.parse(str(value))) - BUILT_IN - RENAMED


def test_each_name_is_declared_and_each_declaration_used() -> None:
    used: set[str] = set()
    for path in SOURCES:
        asked = find_names(name(path))
        if path in TEMPLATES:
            asked |= find_names(TEMPLATES[path])
        assert asked <= set(VARIABLES), name(path)
        used |= asked
    for key in VARIABLES:
        used |= find_names(CONFIG[key]) - {key}
    # `answers_version` is for questions to come; see test_update.py.
    assert set(VARIABLES) - used == {"answers_version"}


def test_a_question_asks_only_for_those_above_it() -> None:
    for number, key in enumerate(VARIABLES):
        above = set(VARIABLES[:number])
        for attribute, value in CONFIG[key].items():
            own = {key} if attribute == "validator" else set()
            assert find_names(value) <= above | own, f"{key}: {attribute}"


def test_seeds_are_the_same_for_update_and_recopy_and_none_while_nothing_is_defined() -> None:
    seeds = [JINJA.from_string(pattern) for pattern in CONFIG["_exclude"]]
    assert [seed.render().strip() for seed in seeds] == [""] * len(seeds)
    on_update = [seed.render(_copier_operation="update").strip() for seed in seeds]
    assert on_update == CONFIG["_skip_if_exists"]
    script = (ROOT / "template" / "dev" / "template.py").read_text()
    assert str({seed.removeprefix("/") for seed in on_update}).replace("'", '"') in script


# Teams have lines below them: a point is never removed or moved.
EXTENSION_POINTS = {
    (".dockerignore", "files"),
    (".editorconfig", "files"),
    (".env.example", "settings"),
    (".gitattributes", "files"),
    (".github/workflows/ci.yml", "steps"),
    (".gitignore", "files"),
    (".gitlab-ci.yml", "steps"),
    (".pre-commit-config.yaml", "hooks"),
    ("Dockerfile", "build steps"),
    ("Dockerfile", "steps"),
    ("pyproject.toml", "dependencies"),
    ("pyproject.toml", "rules"),
    ("pyproject.toml", "tasks"),
    ("pyproject.toml", "warnings"),
    ("src/{{package_name}}/app.py", "imports"),
    ("src/{{package_name}}/app.py", "routers"),
    ("src/{{package_name}}/lifespan.py", "imports"),
    ("src/{{package_name}}/lifespan.py", "pools"),
    ("src/{{package_name}}/middleware.py", "imports"),
    ("src/{{package_name}}/middleware.py", "middleware"),
    ("src/{{package_name}}/settings.py", "groups"),
    ("src/{{package_name}}/settings.py", "imports"),
    ("tests/conftest.py", "fixtures"),
    ("tests/conftest.py", "imports"),
}


def test_extension_points_are_api() -> None:
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        rendered = LAYER.sub("", path.relative_to(ROOT / "template").as_posix())
        if points := re.findall(r"^ *# Yours: (.+)$", path.read_text(), re.MULTILINE):
            # Variants of a file have the same points.
            known = found.setdefault(rendered.removesuffix(".jinja"), points)
            assert sorted(known) == sorted(points), path
    assert {(path, point) for path, points in found.items() for point in points} == (
        EXTENSION_POINTS
    )
    pools = found["src/{{package_name}}/lifespan.py"].count("pools")
    assert pools == 4  # in the state, the lifespan, what it yields, and the readiness


def test_a_feature_is_a_choice_with_none() -> None:
    for key, question in QUESTIONS.items():
        assert question["type"] != "bool", key
        assert len(question.get("help", "").splitlines()) == (question.get("ask") is not False), key


def test_the_history_has_the_releases() -> None:
    shallow = (ROOT / ".git" / "shallow").exists()
    assert not shallow, "Updates are tested from each release: run `git fetch --unshallow`."
    assert list_releases()


def test_an_undefined_name_is_an_error() -> None:
    assert CONFIG["_envops"]["undefined"] == "jinja2.StrictUndefined"


def test_a_tag_stands_alone_on_its_line() -> None:
    for path, text in TEMPLATES.items():
        for line in text.removeprefix(MARKED).splitlines():
            if "#: " in line:
                assert TAG.fullmatch(line), f"{name(path)}: {line}"


def test_a_mark_is_of_a_flag_and_in_a_file_that_takes_it_out() -> None:
    for path, text in TEMPLATES.items():
        marks = MARK.findall(text)
        assert text.count("# if ") == len(marks), name(path)
        assert bool(marks) == text.startswith(MARKED) == text.endswith("\n#: endfilter\n"), name(
            path
        )


def test_a_template_of_python_is_python() -> None:
    for path, text in TEMPLATES.items():
        if "/src/" in name(path) and path.name.endswith(".py.jinja"):
            ast.parse(text, name(path))


def test_paths_suit_every_system_and_only_ask_for_flags() -> None:
    for path in SOURCES:
        assert len(name(path)) <= 140
        assert not set(name(path)) & set('"<>:|?*\\')
        where = LAYER.sub("", name(path).removeprefix("template/"))
        assert set(LAYER.findall(name(path))) <= FLAGS
        assert set(re.findall(r"\{\{(.+?)\}\}", where)) <= {
            "package_name",
            "_copier_conf.answers_file",
        }


def test_python_without_answers_has_no_suffix() -> None:
    for path, text in TEMPLATES.items():
        assert "{{" in text or "#: " in text, name(path)

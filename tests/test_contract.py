"""Rules for the sources of the template, checked without rendering them."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import (
    CHOICES,
    CONFIG,
    FLAGS,
    JINJA,
    LAYER,
    QUESTIONS,
    ROOT,
    SOURCES,
    find_names,
    get_target,
    git,
    list_releases,
)
from jinja2 import StrictUndefined

TEMPLATES = {path: path.read_text() for path in SOURCES if path.suffix == ".jinja"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_each_row_about_faults_is_a_test() -> None:
    docs = (ROOT / "template" / "docs" / "faults.md.jinja").read_text()
    rows = set(re.findall(r"^\| (.+?) \|", docs, re.MULTILINE)) - {"fault"}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert rows == set(re.findall(r'^@row\("(.+)"\)$', tests, re.MULTILINE))


def test_trust_is_never_needed() -> None:
    assert not CONFIG.keys() & {"_tasks", "_migrations", "_jinja_extensions"}


# Variables that Copier defines.
BUILT_IN = {"_copier_answers", "_copier_conf", "_copier_operation", "range", "namespace"}
# Renamed questions. The default of the new question reads the old answer.
RENAMED: set[str] = set()
VARIABLES = [key for key in CONFIG if not key.startswith("_")]


def find_all_names(value: Any) -> set[str]:
    """Find the variables that a part of copier.yml uses."""
    match value:
        case dict():
            return set[str]().union(*map(find_all_names, value.values()))
        case list():
            return set[str]().union(*map(find_all_names, value))
    return find_names(str(value)) - BUILT_IN - RENAMED


def test_each_name_is_declared_and_each_declaration_used() -> None:
    used_names: set[str] = set()
    for path in SOURCES:
        names = find_all_names(name(path))
        if path in TEMPLATES:
            names |= find_all_names(TEMPLATES[path])
        assert names <= set(VARIABLES), name(path)
        used_names |= names
    for key in VARIABLES:
        used_names |= find_all_names(CONFIG[key]) - {key}
    # `answers_version` is for future questions; see test_update.py.
    assert set(VARIABLES) - used_names == {"answers_version"}


def test_each_flag_is_used_and_each_choice_has_one() -> None:
    texts = [name(path) + path.read_text() for path in SOURCES]
    assert {*re.findall(r"\bhas\.(\w+)", "\n".join(texts))} == FLAGS.keys()
    assert set[str]().union(*FLAGS.values()) == CHOICES.keys()


def test_a_question_uses_only_earlier_ones() -> None:
    for number, key in enumerate(VARIABLES):
        earlier = set(VARIABLES[:number])
        for attribute, value in CONFIG[key].items():
            own = {key} if attribute == "validator" else set()
            assert find_all_names(value) <= earlier | own, f"{key}: {attribute}"


def test_seeds_are_the_same_for_update_and_recopy() -> None:
    strict = JINJA.overlay(undefined=StrictUndefined)
    seeds = [strict.from_string(pattern) for pattern in CONFIG["_exclude"]]
    assert [seed.render().strip() for seed in seeds] == [""] * len(seeds)
    on_update = [seed.render(_copier_operation="update").strip() for seed in seeds]
    assert on_update == CONFIG["_skip_if_exists"]
    # The update task of a project has the same list.
    script = ast.parse((ROOT / "template" / "dev" / "template.py.jinja").read_text())
    [task_seeds] = [
        ast.literal_eval(node.value)
        for node in script.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SEEDS"
    ]
    assert task_seeds == {seed.removeprefix("/") for seed in on_update}


# Teams add lines below these points, so they are never removed or moved.
EXTENSION_POINTS = {
    (".dockerignore", "files"),
    (".editorconfig", "files"),
    (".env.development", "settings"),
    (".env.example", "settings"),
    (".gitattributes", "files"),
    (".github/workflows/ci.yml", "services"),
    (".github/workflows/ci.yml", "steps"),
    (".github/workflows/ci.yml", "variables"),
    (".gitignore", "files"),
    (".gitlab-ci.yml", "services"),
    (".gitlab-ci.yml", "steps"),
    (".gitlab-ci.yml", "variables"),
    (".pre-commit-config.yaml", "hooks"),
    ("AGENTS.md", "conventions"),
    ("Dockerfile", "build steps"),
    ("Dockerfile", "steps"),
    ("dev/__main__.py", "imports"),
    ("dev/__main__.py", "processes"),
    ("dev/__main__.py", "servers"),
    ("migrations/env.py", "imports"),
    ("migrations/env.py", "options"),
    ("pyproject.toml", "dependencies"),
    ("pyproject.toml", "options"),
    ("pyproject.toml", "pytest"),
    ("pyproject.toml", "rules"),
    ("pyproject.toml", "tasks"),
    ("pyproject.toml", "warnings"),
    ("src/{{package_name}}/app.py", "arguments"),
    ("src/{{package_name}}/app.py", "imports"),
    ("src/{{package_name}}/app.py", "routers"),
    ("src/{{package_name}}/cli.py", "commands"),
    ("src/{{package_name}}/cli.py", "imports"),
    ("src/{{package_name}}/dependencies.py", "aliases"),
    ("src/{{package_name}}/dependencies.py", "imports"),
    ("src/{{package_name}}/lifespan.py", "imports"),
    ("src/{{package_name}}/lifespan.py", "pools"),
    ("src/{{package_name}}/middleware.py", "imports"),
    ("src/{{package_name}}/middleware.py", "middleware"),
    ("src/{{package_name}}/settings.py", "groups"),
    ("src/{{package_name}}/settings.py", "imports"),
    ("tests/conftest.py", "fixtures"),
    ("tests/conftest.py", "imports"),
    ("tests/conftest.py", "variables"),
}


def test_extension_points_are_api() -> None:
    points_by_path: dict[str, list[str]] = {}
    for path in SOURCES:
        if points := re.findall(r"^ *# Yours: (.+)$", path.read_text(), re.MULTILINE):
            # Sources in different layers have the same points.
            first_points = points_by_path.setdefault(get_target(path), points)
            assert sorted(first_points) == sorted(points), path
    assert {(path, point) for path, points in points_by_path.items() for point in points} == (
        EXTENSION_POINTS
    )
    pools = points_by_path["src/{{package_name}}/lifespan.py"].count("pools")
    assert pools == 4  # in the state, the lifespan, what it yields, and the readiness


def test_a_feature_is_a_choice_with_none() -> None:
    for key, question in QUESTIONS.items():
        assert question["type"] != "bool", key
        lines = 0 if question.get("ask") is False else 1
        assert len(question.get("help", "").splitlines()) == lines, key
    for key, values in CHOICES.items():
        assert "none" in values, key


def test_the_changelog_lists_each_unreleased_question() -> None:
    *_, latest = list_releases().values()
    release_config = yaml.safe_load(git(ROOT, "show", f"{latest}:copier.yml"))
    unreleased = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    for question in QUESTIONS.keys() - release_config.keys():
        assert f"`{question}`" in unreleased


def test_the_history_has_the_releases() -> None:
    shallow = (ROOT / ".git" / "shallow").exists()
    assert not shallow, "Updates are tested from each release: run `git fetch --unshallow`."
    assert list_releases()


def test_an_undefined_name_is_an_error() -> None:
    assert CONFIG["_envops"]["undefined"] == "jinja2.StrictUndefined"


FLAG = rf"(?:not )?has\.(?:{'|'.join(FLAGS)})"
CONDITION = rf"{FLAG}(?: and {FLAG})*|{FLAG}(?: or {FLAG})*"
# An optional line ends in a mark; several stand between tags.
MARK = re.compile(rf" *\S.*  # if (?:{CONDITION})")
TAG = re.compile(
    rf" *#: (?:(?:if|elif) (?:{CONDITION}|description)|else|endif|set \w+ = .+"
    "|raw|endraw|endfilter)"
)
MARKED = "#: filter regex_replace(unchosen, '')\n"


def find_mistakes(text: str) -> list[str]:
    """Return the lines that look like a tag or a mark but are invalid."""
    return [
        line
        for line in text.splitlines()
        if re.search(r"#:|# ?if |\bhas\.\w|\{%", line)
        and not (TAG.fullmatch(line) or MARK.fullmatch(line))
    ]


@pytest.mark.parametrize(
    "line",
    [
        "#: if has.nothing",
        "#:if has.auth",
        "#: if auth == 'oidc'",
        "#: if has.auth and has.oidc or has.store",
        "#: end",
        "{% if has.auth %}",
        "x = 1  # if has.nothing",
        "x = 1  # if has.auth and has.nothing",
        "x = 1  # if has.auth and has.oidc or has.store",
        "x = 1  # if auth",
        "x = 1 # if has.auth",
        "x = 1  #if has.auth",
        "x = 1  # has.auth",
        "# if has.auth",
    ],
)
def test_an_invalid_tag_or_mark_is_reported(line: str) -> None:
    assert find_mistakes(f"before\n    {line}\nafter\n") == [f"    {line}"]


def test_each_tag_and_mark_is_valid() -> None:
    for path, text in TEMPLATES.items():
        assert find_mistakes(text.removeprefix(MARKED)) == [], name(path)
        has_marks = any(map(MARK.fullmatch, text.splitlines()))
        assert text.startswith(MARKED) == has_marks, name(path)
        assert text.endswith("\n#: endfilter\n") == has_marks, name(path)
    for path in SOURCES:
        if path not in TEMPLATES:
            lines = path.read_text().splitlines()
            assert not any(TAG.fullmatch(line) or MARK.fullmatch(line) for line in lines), name(
                path
            )


def test_a_template_of_python_is_python() -> None:
    for path, text in TEMPLATES.items():
        if "/src/" in name(path) and path.name.endswith(".py.jinja"):
            ast.parse(text, name(path))


def is_path(source: str) -> bool:
    """Whether a path has no conditions other than layers, and is valid on all systems."""
    path = LAYER.sub("", source)
    return (
        len(f"template/{source}") <= 140
        and not set(source) & set('"<>:|?*\\%')
        and FLAGS.keys() >= {*LAYER.findall(source)}
        and {"package_name", "_copier_conf.answers_file"} >= {*re.findall(r"\{\{(.*?)\}\}", path)}
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{has.nothing}}/a.py",
        "{{ has.auth }}/a.py",
        "{{has.auth and has.oidc}}/a.py",
        "{{has.auth}}a.py",
        "{% if has.auth %}a.py{% endif %}",
        "{{auth}}/a.py",
        "a?.py",
        "a" * 140,
    ],
)
def test_an_invalid_path_is_reported(source: str) -> None:
    assert not is_path(source)


def test_paths_are_valid_on_all_systems() -> None:
    for path in SOURCES:
        assert is_path(path.relative_to(ROOT / "template").as_posix()), name(path)


def test_python_without_answers_has_no_suffix() -> None:
    for path, text in TEMPLATES.items():
        assert "{{" in text or "#: " in text, name(path)

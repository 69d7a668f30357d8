"""What the sources of the template promise, read without rendering them."""

import re
from pathlib import Path

from harness import CONFIG, ROOT

SOURCES = [path for path in (ROOT / "template").rglob("*") if path.is_file()]
TEMPLATES = {path: path.read_text() for path in SOURCES if path.suffix == ".jinja"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_trust_is_never_needed() -> None:
    assert not CONFIG.keys() & {"_tasks", "_migrations", "_jinja_extensions"}


def test_an_undefined_name_is_an_error() -> None:
    assert CONFIG["_envops"]["undefined"] == "jinja2.StrictUndefined"


def test_a_tag_stands_alone_on_its_line_and_keeps_blank_lines() -> None:
    for path, text in TEMPLATES.items():
        for line in text.splitlines():
            if "{%" in line:
                assert re.fullmatch(r"\{% (if [a-z_]+|elif [a-z_]+|else|endif) %\}", line), name(
                    path
                )


def test_at_most_a_tenth_of_a_python_file_is_tags() -> None:
    shares = {
        name(path): sum("{%" in line for line in text.splitlines()) / len(text.splitlines())
        for path, text in TEMPLATES.items()
        if path.name.endswith(".py.jinja")
    }
    assert shares
    assert {path: share for path, share in shares.items() if share > 0.1} == {}


def test_paths_suit_every_system_and_only_ask_for_flags() -> None:
    flags = {
        key for key, value in CONFIG.items() if key.startswith("has_") and value["type"] == "bool"
    }
    for path in SOURCES:
        assert len(name(path)) <= 140
        assert not set(name(path)) & set('"<>:|?*\\')
        assert set(re.findall(r"\{% if (.+?) %\}", name(path))) <= flags


def test_python_without_answers_has_no_suffix() -> None:
    for path, text in TEMPLATES.items():
        assert "{{" in text or "{%" in text, name(path)

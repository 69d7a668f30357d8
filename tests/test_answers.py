"""An answer changes only the files that depend on it."""

import re
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import pytest
from harness import (
    CHOICES,
    DEEP,
    FLAGS,
    NAMES,
    OTHER,
    QUESTIONS,
    ROWS,
    SOURCES,
    choose_rows,
    find_flags,
    find_names,
    find_questions,
    get_target,
    is_possible,
    read,
    render,
    run,
)

Answers = dict[str, str]


def find_targets(question: str) -> set[str]:
    """Find the paths whose sources use an answer, with `package` as the package name."""
    flags = {flag for flag, questions in FLAGS.items() if question in questions}
    return {
        get_target(source).replace("{{package_name}}", "package")
        for source in SOURCES
        if flags & find_flags(source)
        or question in find_names(str(source))
        or (source.suffix == ".jinja" and question in find_names(source.read_text()))
    }


def vary(question: str) -> Iterator[tuple[Answers, Answers]]:
    """Yield pairs of answers that differ in this question only."""
    # What two features share may depend on a third one.
    strength = 3 if question in CHOICES and question != "ci" else 2
    for answers in [*choose_rows(*CHOICES, strength=strength), *DEEP]:
        if question in OTHER:
            yield answers, answers | {question: OTHER[question]}
        for variant in (answers | {question: value} for value in CHOICES.get(question, [])):
            if answers[question] != variant[question] and is_possible(variant):
                yield answers, variant


def list_paths(project: Path) -> dict[str, tuple[int, bytes]]:
    return {path: content for path, content in read(project).items() if (project / path).is_file()}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_changes_only_files_that_use_it(
    template: Path, tmp_path: Path, question: str
) -> None:
    paths: set[str] = set()
    for number, pair in enumerate(vary(question)):
        first, second = (
            list_paths(
                render(
                    template,
                    tmp_path / f"{number}-{side}",
                    **{"project_slug": "orders", "package_name": "package"} | answers,
                )
            )
            for side, answers in enumerate(pair)
        )
        difference = {path for path in first | second if first.get(path) != second.get(path)}
        assert ".copier-answers.yml" in difference
        paths |= difference
    paths = {path.replace(OTHER["package_name"], "package") for path in paths}
    assert paths - {".copier-answers.yml"} == find_targets(question)


def test_the_code_does_not_depend_on_ci() -> None:
    assert "ci" not in find_questions("src/*", "dev/*", "tests/*", "migrations/*")


def test_no_value_of_one_project_is_in_another(template: Path, tmp_path: Path) -> None:
    example = {
        "project_name": "Zebra Ledger",
        "project_slug": "stripe-counter",
        "package_name": "savannah",
        "description": "Counts what gallops.",
        "answers_version": "9",
    }
    assert example.keys() == OTHER.keys() == QUESTIONS.keys() - CHOICES.keys()
    rows = choose_rows(*CHOICES, strength=1)
    for number, (row, (own, foreign)) in enumerate(
        product(rows, [(example, OTHER), (OTHER, example)])
    ):
        project = render(template, tmp_path / str(number), **row, **own)
        names = {value for value in foreign.values() if not value.isdigit()}
        names |= {"My Service", "my-service", "my_service"}
        for path, (_, content) in list_paths(project).items():
            text = f"{path}\n{content.decode()}"
            for value in names:
                assert not re.search(rf"\b{re.escape(value)}\b", text), path
        answers = (project / ".copier-answers.yml").read_text()
        assert f"answers_version: {own['answers_version']}" in answers


def test_every_row_is_formatted_with_every_name(template: Path, tmp_path: Path) -> None:
    for number, (row, names) in enumerate(product([*choose_rows(*CHOICES), *DEEP], NAMES.values())):
        render(template, tmp_path / str(number), **row | names)
    for command in (["format", "--check"], ["check"]):
        done = run(tmp_path, "ruff", *command, "--quiet", ".")
        assert done.returncode == 0, done.stdout


def is_part_of_a_project(answers: Answers) -> bool:
    """Whether the remaining questions can be answered."""
    open_question = next((question for question in CHOICES if question not in answers), None)
    return is_possible(answers) and (
        open_question is None
        or any(
            is_part_of_a_project(answers | {open_question: value})
            for value in CHOICES[open_question]
        )
    )


def test_the_rows_have_each_possible_pair_of_values() -> None:
    for one, two in combinations(CHOICES, 2):
        pairs = {
            pair
            for pair in product(CHOICES[one], CHOICES[two])
            if is_part_of_a_project(dict(zip((one, two), pair, strict=True)))
        }
        assert {(row[one], row[two]) for row in ROWS} == pairs
    for names in NAMES.values():
        rows = [row for row in ROWS if row.keys() - CHOICES.keys() == names.keys()]
        for question, values in CHOICES.items():
            assert {row[question] for row in rows} == {*values}

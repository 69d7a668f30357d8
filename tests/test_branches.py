"""Every condition in a path or a text of the template is seen both true and false by the rows."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from harness import CONFIG, QUESTIONS, ROOT, ROWS, SOURCES, render
from jinja2 import Environment, nodes

VARIABLES = [*QUESTIONS, *(name for name in CONFIG if name.startswith("has_"))]
Condition = tuple[str, int, str]


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each row answers and what copier computes from it."""
    template = tmp_path_factory.mktemp("context")
    (template / "template").mkdir()
    (template / "copier.yml").write_text((ROOT / "copier.yml").read_text())
    lines = "\n".join(f"{name}: {{{{ {name} | tojson }}}}" for name in VARIABLES)
    (template / "template" / "context.yml.jinja").write_text(lines)
    projects = [render(template, template / str(number), **row) for number, row in enumerate(ROWS)]
    return [yaml.safe_load((project / "context.yml").read_text()) for project in projects]


def walk(where: str, node: nodes.Node, context: dict[str, Any]) -> Iterator[tuple[Condition, bool]]:
    """Go where the rendering goes, and yield each condition on the way with its outcome."""
    if isinstance(node, nodes.If):
        assert isinstance(node.test, nodes.Name), f"{where}:{node.lineno} asks for more than a flag"
        outcome = bool(context[node.test.name])
        yield (where, node.lineno, node.test.name), outcome
        taken: list[nodes.Node] = [*node.body] if outcome else [*node.elif_[:1], *node.else_]
        if not outcome and node.elif_:
            # Jinja keeps `elif`s in a list, and what follows them with the first `if`.
            rest = nodes.If(node.elif_[0].test, node.elif_[0].body, node.elif_[1:], node.else_)
            taken = [rest.set_lineno(node.elif_[0].lineno)]
        for child in taken:
            yield from walk(where, child, context)
        return
    assert not isinstance(node, nodes.CondExpr), f"{where}:{node.lineno} has a condition in a line"
    for child in node.iter_child_nodes():
        yield from walk(where, child, context)


def test_each_condition_is_seen_both_ways(contexts: list[dict[str, Any]]) -> None:
    environment = Environment(autoescape=True)
    outcomes: defaultdict[Condition, set[bool]] = defaultdict(set)
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        texts = {"its path": name} | (
            {"its text": path.read_text()} if path.suffix == ".jinja" else {}
        )
        for where, text in ((f"{name}, {part}", text) for part, text in texts.items()):
            tree = environment.parse(text)
            for context in contexts:
                for condition, outcome in walk(where, tree, context):
                    outcomes[condition].add(outcome)
    assert len(outcomes) > 100
    half = {condition: seen for condition, seen in outcomes.items() if len(seen) == 1}
    assert half == {}
    print(f"{len(outcomes)} conditions, {2 * len(outcomes)} outcomes, all seen in {len(ROWS)} rows")

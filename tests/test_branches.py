"""Every condition in a path or a text of the template is seen both true and false by the rows."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from harness import JINJA, LAYER, QUESTIONS, ROOT, ROWS, SOURCES, render
from jinja2 import nodes

Condition = tuple[str, int, str]


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each row answers and what copier computes from it."""
    template = tmp_path_factory.mktemp("context")
    (template / "template").mkdir()
    (template / "copier.yml").write_text((ROOT / "copier.yml").read_text())
    lines = "\n".join(f"{name}: {{{{ {name} | tojson }}}}" for name in [*QUESTIONS, "has"])
    (template / "template" / "context.yml.jinja").write_text(lines)
    projects = [render(template, template / str(number), **row) for number, row in enumerate(ROWS)]
    return [yaml.safe_load((project / "context.yml").read_text()) for project in projects]


def decide(test: nodes.Node, context: dict[str, Any]) -> bool:
    match test:
        case nodes.And():
            return decide(test.left, context) and decide(test.right, context)
        case nodes.Or():
            return decide(test.left, context) or decide(test.right, context)
        case nodes.Not():
            return not decide(test.node, context)
        case nodes.Getattr(node=nodes.Name(name="has")):
            return bool(context["has"][test.attr])
        case nodes.Name():
            return bool(context[test.name])
    raise AssertionError(f"{test} asks for more than flags")


def walk(where: str, node: nodes.Node, context: dict[str, Any]) -> Iterator[tuple[Condition, bool]]:
    """Go where the rendering goes, and yield each condition on the way with its outcome."""
    if isinstance(node, nodes.If):
        outcome = decide(node.test, context)
        yield (where, node.lineno, str(node.test)), outcome
        taken: list[nodes.Node] = [*node.body] if outcome else [*node.elif_[:1], *node.else_]
        if not outcome and node.elif_:
            # Jinja keeps `elif`s in a list, and what follows them with the first `if`.
            rest = nodes.If(node.elif_[0].test, node.elif_[0].body, node.elif_[1:], node.else_)
            taken = [rest.set_lineno(node.elif_[0].lineno)]
        for child in taken:
            yield from walk(where, child, context)
    elif isinstance(node, nodes.TemplateData):
        for mark in re.finditer(r"  # if (.+)$", node.data, re.MULTILINE):
            line = node.lineno + node.data[: mark.start()].count("\n")
            yield (where, line, mark[0]), bool(JINJA.compile_expression(mark[1])(context))
    else:
        if isinstance(node, nodes.CondExpr):
            yield (where, node.lineno, str(node.test)), decide(node.test, context)
        for child in node.iter_child_nodes():
            yield from walk(where, child, context)


def test_a_path_has_one_source(contexts: list[dict[str, Any]]) -> None:
    for context in contexts:
        names = [path.relative_to(ROOT / "template").as_posix() for path in SOURCES]
        there = [
            LAYER.sub("", name).removesuffix(".jinja")
            for name in names
            if all(context["has"][layer] for layer in LAYER.findall(name))
        ]
        assert len(there) == len(set(there))


def test_each_condition_is_seen_both_ways(contexts: list[dict[str, Any]]) -> None:
    outcomes: defaultdict[Condition, set[bool]] = defaultdict(set)
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        layers = LAYER.findall(name)
        for context in contexts:
            there = all(context["has"][layer] for layer in layers)
            for layer in layers:
                outcomes[name, 0, layer].add(bool(context["has"][layer]))
            if there and path.suffix == ".jinja":
                for condition, outcome in walk(name, JINJA.parse(path.read_text()), context):
                    outcomes[condition].add(outcome)
    assert len(outcomes) > 100
    half = {condition: seen for condition, seen in outcomes.items() if len(seen) == 1}
    assert half == {}
    print(f"{len(outcomes)} conditions, {2 * len(outcomes)} outcomes, all seen in {len(ROWS)} rows")

"""Each condition in the template is true in one of the rows, and false in another."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from typing import Any

from harness import (
    CHOICES,
    DEFAULTS,
    FLAGS,
    JINJA,
    LAYER,
    ROOT,
    ROWS,
    SOURCES,
    get_flags,
    get_target,
    is_possible,
)
from jinja2 import nodes

Condition = tuple[str, int, str]


# The variables of the conditions, in each row.
CONTEXTS: list[dict[str, Any]] = [{"description": "", **row, "has": get_flags(row)} for row in ROWS]


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
    raise AssertionError(f"{test} uses more than flags")


def walk(where: str, node: nodes.Node, context: dict[str, Any]) -> Iterator[tuple[Condition, bool]]:
    """Yield each condition that rendering evaluates, with its outcome."""
    if isinstance(node, nodes.If):
        outcome = decide(node.test, context)
        yield (where, node.lineno, str(node.test)), outcome
        children: list[nodes.Node] = [*node.body] if outcome else [*node.else_]
        if not outcome and node.elif_:
            # Jinja keeps the `elif`s in a list, and the `else` with the first `if`.
            rest = nodes.If(node.elif_[0].test, node.elif_[0].body, node.elif_[1:], node.else_)
            children = [rest.set_lineno(node.elif_[0].lineno)]
        for child in children:
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


def test_a_path_has_one_source() -> None:
    sources = defaultdict[str, list[set[str]]](list)
    for path in SOURCES:
        sources[get_target(path)].append({*LAYER.findall(path.relative_to(ROOT).as_posix())})
    for target, layers in sources.items():
        questions = sorted(set[str]().union(*(FLAGS[flag] for flag in set().union(*layers))))
        for values in product(*(CHOICES[question] for question in questions)):
            answers = DEFAULTS | dict(zip(questions, values, strict=True))
            if not is_possible(answers):
                continue
            flags = get_flags(answers)
            sources_of_path = [
                layer_flags for layer_flags in layers if all(flags[flag] for flag in layer_flags)
            ]
            assert len(sources_of_path) <= 1, f"{target} with {answers}"


def test_each_condition_has_both_outcomes() -> None:
    outcomes = defaultdict[Condition, set[bool]](set)
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        layers = LAYER.findall(name)
        for context in CONTEXTS:
            for layer in layers:
                outcomes[name, 0, layer].add(context["has"][layer])
            is_rendered = all(context["has"][layer] for layer in layers)
            if is_rendered and path.suffix == ".jinja":
                for condition, outcome in walk(name, JINJA.parse(path.read_text()), context):
                    outcomes[condition].add(outcome)
    assert outcomes
    one_sided = {condition: values for condition, values in outcomes.items() if len(values) == 1}
    assert one_sided == {}
    print(f"{len(outcomes)} conditions, each true and false in one of {len(ROWS)} rows")

"""The dashboard and the alert rules of rendered projects: each query has a metric of the docs."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from harness import choose_rows, find_questions, group, render
from metrics import read_metrics
from promql_parser import AggregateExpr, Expr, VectorSelector

WIDTH = 24  # of a dashboard
TARGET_LABELS = {"job", "instance"}  # Prometheus adds them
# Each pair of answers to the other questions.
ROWS = [
    row
    for row in choose_rows(*find_questions("monitoring/*"), strength=3)
    if row["telemetry"] == "opentelemetry"
]

Json = dict[str, Any]


@pytest.fixture(scope="module", params=group(ROWS))
def project(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("project") / "rendered"
    return render(template, folder, **request.param)


@pytest.fixture(scope="module")
def series(project: Path) -> dict[str, set[str]]:
    """The labels of each series that the service has."""
    return {
        name: labels | TARGET_LABELS
        for metric in read_metrics(project)
        for name, labels in metric.list_series().items()
    }


@pytest.fixture(scope="module")
def dashboard(project: Path) -> Json:
    return json.loads((project / "monitoring" / "dashboard.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard: Json) -> list[Json]:
    """All panels, also those of collapsed rows."""
    return [each for panel in dashboard["panels"] for each in [panel, *panel.get("panels", ())]]


@pytest.fixture(scope="module")
def graphs(panels: list[Json]) -> list[Json]:
    return [panel for panel in panels if panel["type"] not in {"row", "text"}]


@pytest.fixture(scope="module")
def rules(project: Path) -> list[Json]:
    page = yaml.safe_load((project / "monitoring" / "alerts.yaml").read_text())
    names = [group["name"] for group in page["groups"]]
    assert len({*names}) == len(names)
    return [rule for group in page["groups"] for rule in group["rules"]]


def list_queries(graphs: list[Json]) -> list[str]:
    return [target["expr"] for graph in graphs for target in graph["targets"]]


def parse(query: str) -> Expr:
    """Parse a query after Grafana has replaced its variables for a duration."""
    return promql_parser.parse(re.sub(r"\$__(rate_interval|interval|range)\b", "5m", query))


def walk(expression: Expr) -> list[Expr]:
    expressions: list[Expr] = []
    promql_parser.walk(expression, expressions.append)
    return expressions


def list_selectors(expression: Expr) -> Iterator[VectorSelector]:
    return (each for each in walk(expression) if isinstance(each, VectorSelector))


def check_query(query: str, series: dict[str, set[str]]) -> None:
    """The series exist, and have the labels by which they are selected and grouped."""
    expressions = walk(parse(query))
    assert any(isinstance(each, VectorSelector) for each in expressions), query
    for each in expressions:
        if isinstance(each, VectorSelector):
            labels = {matcher.name for matcher in each.matchers.matchers}
            assert labels <= series[str(each.name)], query
        elif isinstance(each, AggregateExpr):
            check_groups(each, series, query)


def check_groups(expression: AggregateExpr, series: dict[str, set[str]], query: str) -> None:
    labels = {*expression.modifier.labels} if expression.modifier else set[str]()
    for selector in list_selectors(expression.expr):
        assert labels <= series[str(selector.name)], query
        assert "le" in labels or not str(selector.name).endswith("_bucket"), query


def test_each_query_has_metrics_of_the_service(
    graphs: list[Json], rules: list[Json], series: dict[str, set[str]]
) -> None:
    for query in [*list_queries(graphs), *(rule["expr"] for rule in rules)]:
        check_query(query, series)


def test_the_dashboard_shows_each_metric(project: Path, graphs: list[Json]) -> None:
    selectors = [each for query in list_queries(graphs) for each in list_selectors(parse(query))]
    shown = {selector.name for selector in selectors}
    for metric in read_metrics(project):
        assert not shown.isdisjoint(metric.list_series()), metric.name


def test_panels_have_places_of_their_own(panels: list[Json]) -> None:
    identifiers = [panel["id"] for panel in panels]
    assert len({*identifiers}) == len(identifiers)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= WIDTH for place in places)
    for one, two in combinations(places, 2):
        assert not overlap(one, two), (one, two)


def overlap(one: dict[str, int], two: dict[str, int]) -> bool:
    return all(
        one[start] < two[start] + two[size] and two[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_panels_have_titles_and_queries(graphs: list[Json]) -> None:
    titles = [graph["title"] for graph in graphs]
    assert len({*titles}) == len(titles)
    for graph in graphs:
        assert graph["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in graph["targets"]]
        assert references
        assert len({*references}) == len(references)


def test_rows_are_not_empty(panels: list[Json]) -> None:
    kinds = [panel["type"] for panel in sorted(panels, key=lambda panel: panel["gridPos"]["y"])]
    assert "row row" not in " ".join(kinds)
    assert kinds[-1] != "row"


def test_variables_are_declared(
    dashboard: Json, graphs: list[Json], series: dict[str, set[str]]
) -> None:
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert {name for name in used if not name.startswith("__")} == variables.keys()
    for variable in variables.values():
        if variable["type"] == "query":
            query = variable["query"]["query"]
            [(selector, label)] = re.findall(r"^label_values\((.+), (\w+)\)$", query)
            check_query(f"sum by ({label}) ({selector})", series)
    for query in list_queries(graphs):
        assert "$job" in query


def test_alerts_say_what_to_do(rules: list[Json]) -> None:
    names = [rule["alert"] for rule in rules]
    assert len({*names}) == len(names)
    for rule in rules:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert promql_parser.parse_duration(rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert all(text.strip().endswith(".") for text in rule["annotations"].values())


def test_alerts_refer_to_sections_of_the_docs(project: Path, rules: list[Json]) -> None:
    for rule in rules:
        text = " ".join(rule["annotations"]["description"].split())
        for page in re.findall(r"\bdocs/\w+\.md", text):
            assert (project / page).exists(), rule
        for page, section in re.findall(r"\b(docs/\w+\.md), section ([\w ]+)", text):
            assert f"\n## {section}\n" in (project / page).read_text(), rule

"""Alert rules and the Grafana dashboard ask for metrics and labels that a node really has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.secured import ROOT_KEY, secured

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
OF_PROMETHEUS = {"up"}
OF_SCRAPING = {"instance", "job"}  # labels that Prometheus adds


def dashboard_expressions() -> Iterator[tuple[str, str, str]]:
    """(panel, expression, legend), Grafana's variables replaced as Grafana would."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            yield panel["title"], text, target["legendFormat"]


EXPRESSIONS = [(rule["alert"], rule["expr"], "") for rule in RULES] + [*dashboard_expressions()]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Labels of every series by its name, from a node that did a little of everything."""
    with secured(tmp_path_factory.mktemp("metrics")) as node:
        node.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        node.done("INSERT INTO docs VALUES (1, '[1,2]')")
        node.sql("SELECT", ROOT_KEY)
        node.sql("SELECT 1", "wrong")
        edge = node.served.server.config.app.state.edge  # type: ignore[union-attr]
        edge.metrics.cut("invalid_http")
        text = node.request("GET", "/metrics", ROOT_KEY).text
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector of an expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        part = getattr(node, name, None)
        for one in part if isinstance(part, list) else [part]:
            if one is not None and not isinstance(one, str):
                yield from selectors(one)


@pytest.mark.parametrize(
    ("name", "text", "legend"), EXPRESSIONS, ids=[f"{e[0]}-{n}" for n, e in enumerate(EXPRESSIONS)]
)
def test_every_expression_asks_for_what_there_is(
    series: dict[str, list[dict[str, str]]], name: str, text: str, legend: str
) -> None:
    asked = list(selectors(promql.parse(text)))
    assert asked, "an expression without a metric"
    labels: set[str] = set(OF_SCRAPING)
    for selector in asked:
        if selector.name in OF_PROMETHEUS:
            continue
        assert selector.name in series, f"{name}: there is no metric {selector.name}"
        labels |= {label for labels in series[selector.name] for label in labels}
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{name}: {selector.name} has no label {matcher.name}"
    grouped = re.findall(r"by \(([^)]*)\)", text)
    used = {label.strip() for group in grouped for label in group.split(",")}
    assert used <= labels, name
    assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, name


def test_every_metric_of_an_expression_is_found() -> None:
    text = 'a / sum by (x) (rate(b{y="1"}[5m])) > histogram_quantile(0.9, c) and -(d) == 1'
    assert {found.name for found in selectors(promql.parse(text))} == {"a", "b", "c", "d"}


def test_a_route_that_an_expression_names_exists(series: dict[str, list[dict[str, str]]]) -> None:
    routes = {labels["route"] for labels in series["nearql_http_requests_total"]}
    for _, text, _ in EXPRESSIONS:
        assert set(re.findall(r'route="([^"]+)"', text)) <= routes


def test_rules_say_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")


def test_panels_do_not_overlap() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)

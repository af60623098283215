"""Alert rules and Grafana panels as expressions, and what of a node they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.doc_pages import ROOT

FOLDER = ROOT / "docker" / "monitoring"
GROUPS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
OF_PROMETHEUS = {"up"}
OF_SCRAPING = {"instance", "job"}  # labels that Prometheus adds

Series = dict[str, list[dict[str, str]]]  # the labels of each series, by its name


def dashboard_expressions() -> Iterator[tuple[str, str, str]]:
    """(panel, expression, legend), Grafana's variables replaced as Grafana would."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            yield panel["title"], text, target["legendFormat"]


EXPRESSIONS = [(rule["alert"], rule["expr"], "") for rule in RULES] + [*dashboard_expressions()]


def series_of(text: str) -> Series:
    """What a node's `/metrics` holds."""
    found: Series = {}
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


def check_expression(series: Series, name: str, text: str, legend: str) -> None:
    """Fail unless every metric and label that an expression asks for is there."""
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

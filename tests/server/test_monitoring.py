"""Alert rules and the Grafana dashboard ask for metrics and labels that a node really has."""

from __future__ import annotations

import re

import promql_parser as promql
import pytest

from support.cluster_edges import pair_of
from support.doc_pages import ROOT, tables_below
from support.fake_cluster import CopyStatus, PeerStatus
from support.http_node import DOCS
from support.monitoring import (
    DASHBOARD,
    EXPRESSIONS,
    RULES,
    Series,
    check_expression,
    selectors,
    series_of,
)
from support.secured import ROOT_KEY, secured


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Labels of every series by its name, from a node that did a little of everything, and from
    one of a cluster; tests/cluster/test_served.py asks three real ones.
    """
    with secured(tmp_path_factory.mktemp("metrics")) as node:
        node.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        node.done("INSERT INTO docs VALUES (1, '[1,2]')")
        node.sql("SELECT", ROOT_KEY)
        node.sql("SELECT 1", "wrong")
        edge = node.served.server.config.app.state.edge  # type: ignore[union-attr]
        edge.metrics.cut("invalid_http")
        found = series_of(node.request("GET", "/metrics", ROOT_KEY).text)
    with pair_of(tmp_path_factory.mktemp("cluster")) as pair:
        copy = CopyStatus("primary_active", peers={"id-2": PeerStatus(17, 500)})
        pair.here.replication.told.shards[f"{DOCS.uuid}/0"] = copy
        found = {**series_of(pair.here.client.get("/metrics").text), **found}
    for title in ("### Metrics of agreement", "### Metrics of the links between nodes"):
        for row in tables_below(ROOT / "docs" / "operating.md", title):
            found.setdefault(row[0].strip("`"), []).append({})
    return found


@pytest.mark.parametrize(
    ("name", "text", "legend"), EXPRESSIONS, ids=[f"{e[0]}-{n}" for n, e in enumerate(EXPRESSIONS)]
)
def test_every_expression_asks_for_what_there_is(
    series: Series, name: str, text: str, legend: str
) -> None:
    check_expression(series, name, text, legend)


def test_every_metric_of_an_expression_is_found() -> None:
    text = 'a / sum by (x) (rate(b{y="1"}[5m])) > histogram_quantile(0.9, c) and -(d) == 1'
    assert {found.name for found in selectors(promql.parse(text))} == {"a", "b", "c", "d"}


def test_a_route_that_an_expression_names_exists(series: Series) -> None:
    routes = {labels["route"] for labels in series["nearql_http_requests_total"]}
    for _, text, _ in EXPRESSIONS:
        assert set(re.findall(r'route="([^"]+)"', text)) <= routes


def test_rules_say_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")


def test_the_runbook_has_a_line_for_each_alert() -> None:
    lines = tables_below(ROOT / "docs" / "operating.md", "### What to do at each alert")
    assert [line[0].strip("`") for line in lines] == [rule["alert"] for rule in RULES]
    assert all(line[1] for line in lines)


BAD_SITUATIONS = {  # of the metadata: docs/operating.md, "In a cluster"
    "nearql_leader_known", "nearql_metadata_disk_full", "nearql_metadata_damaged",
    "nearql_clock_jumps_total", "nearql_metadata_refused_names_total",
    "nearql_metadata_refused_versions_total", "nearql_nodes_fenced",
    "nearql_metadata_refused_connections_total", "nearql_metadata_sidecar_restarts_total",
    "nearql_metadata_current", "nearql_metadata_links",
}  # fmt: skip


def test_each_bad_situation_of_the_metadata_has_an_alert() -> None:
    asked = {selector.name for rule in RULES for selector in selectors(promql.parse(rule["expr"]))}
    assert asked >= BAD_SITUATIONS


def test_panels_do_not_overlap() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)

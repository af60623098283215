"""`GET /v1/tables/{t}/map`: the table's own rows, on the plane in which they differ most."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nearql.server.node import Node
from nearql.server.openapi import document
from nearql.server.routes.all import ROUTES
from support.http_node import Served, make_config, serve
from support.json_schema import problems
from support.secured import secured

DOCUMENT = document(ROUTES)

DOCS = """CREATE TABLE docs (id TEXT PRIMARY KEY, at TIMESTAMP, price DECIMAL(8, 2), score FLOAT,
    vec VECTOR(3), half HALFVEC(2))"""
FILL = """INSERT INTO docs SELECT 'k' || i, TIMESTAMP '2026-01-01' + i * INTERVAL 1 DAY, i + 0.5,
    i / 4, [4 * i, 3 * i, CASE WHEN i % 10 = 0 THEN 1 ELSE 0 END], [i, 1]
    FROM range(100) AS t(i)"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Points of a line with a little across it: (4i, 3i, 0) and every tenth 1 aside."""
    config = make_config(tmp_path_factory.mktemp("maps"), map_rows=50)
    made = Node.open(config)
    try:
        with serve(made, config) as served:
            for text in (
                DOCS,
                FILL,
                "INSERT INTO docs (id) VALUES ('empty')",
                "CREATE TABLE keyless (color TEXT, vec VECTOR(2))",
                "INSERT INTO keyless VALUES ('red', '[1,1]'), ('blue', '[1,1]'), (NULL, '[1,1]')",
                "CREATE TABLE plain (id BIGINT PRIMARY KEY)",
                "CREATE TABLE unfilled (id BIGINT PRIMARY KEY, vec VECTOR(4))",
            ):
                answer = served.sql(text)
                assert answer.status_code == 200, answer.text
            yield served
    finally:
        made.close()


def shown(node: Served, table: str, **query: Any) -> dict[str, Any]:
    """A map that OpenAPI's schema describes."""
    answer = node.client.get(f"/v1/tables/{table}/map", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert problems(body, DOCUMENT["components"]["schemas"]["TableMap"], DOCUMENT) == []
    return body


def test_the_plane_holds_what_differs(node: Served) -> None:
    found = shown(node, "docs", rows=50)
    assert (found["column"], found["key"], found["color"]) == ("vec", "id", None)
    assert (found["rows"], found["method"]) == (101, "pca")
    assert found["explained"][0] > 0.99
    assert sum(found["explained"]) == pytest.approx(1, abs=1e-3)
    places = {key: (x, y) for key, x, y, _ in found["points"]}
    assert 40 <= len(places) <= 50
    numbers = sorted(int(key[1:]) for key in places)
    for low, high in pairwise(numbers):
        step = places[f"k{high}"][0] - places[f"k{low}"][0]
        assert abs(step) == pytest.approx(5 * (high - low), rel=0.01)  # a line, as long as it was


def test_the_same_map_each_time(node: Served) -> None:
    assert shown(node, "docs", rows=20) == shown(node, "docs", rows=20)


@pytest.mark.parametrize("column", ["at", "price", "score", "id"])
def test_colors_are_the_values_as_json(node: Served, column: str) -> None:
    found = shown(node, "docs", color=column.upper(), rows=50)
    assert found["color"] == column
    by_key = {key: color for key, _, _, color in found["points"]}
    expected = node.sql(f"SELECT id, {column} FROM docs").json()["rows"]
    told = {key: str(color) for key, color in expected}
    assert {key: str(color) for key, color in by_key.items()} == {k: told[k] for k in by_key}


def test_a_half_vector_and_a_table_without_a_key(node: Served) -> None:
    assert shown(node, "docs", column="half")["explained"] == [1.0, 0.0]
    found = shown(node, "keyless", color="color")
    assert found["key"] is None
    assert found["explained"] == [0.0, 0.0]  # they don't differ
    assert sorted(found["points"], key=str) == sorted(
        [[None, 0.0, 0.0, "red"], [None, 0.0, 0.0, "blue"], [None, 0.0, 0.0, None]], key=str
    )


def test_a_table_without_rows(node: Served) -> None:
    assert shown(node, "unfilled")["points"] == []


@pytest.mark.parametrize(
    ("table", "query", "status", "code", "words"),
    [
        ("docs", "column=at", 400, "invalid_value", "not a vector"),
        ("docs", "column=nosuch", 400, "undefined_column", "nosuch"),
        ("docs", "color=vec", 400, "invalid_value", "can't be a color"),
        ("docs", "colour=at", 400, "invalid_request", "column, color and rows"),
        ("docs", "rows=0", 400, "invalid_value", "1 to 50"),
        ("docs", "rows=51", 400, "invalid_value", "limits.map_rows"),
        ("docs", "rows=-1", 400, "invalid_value", "whole number"),
        ("docs", "rows=%C2%B2", 400, "invalid_value", "whole number"),
        ("plain", "", 400, "invalid_value", "no vector column"),
        ("dosc", "", 404, "undefined_table", "did you mean 'docs'"),
    ],
)
def test_what_is_wrong_is_named(
    node: Served, table: str, query: str, status: int, code: str, words: str
) -> None:
    answer = node.client.get(f"/v1/tables/{table}/map?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert words in answer.json()["detail"]


def test_the_hidden_key_is_no_color(node: Served) -> None:
    hidden = next(c for c in node.node.catalog().tables["keyless"].schema.columns if c.hidden)
    answer = node.client.get(f"/v1/tables/keyless/map?color={hidden.name}")
    assert answer.json()["code"] == "undefined_column"


def test_it_takes_the_right_to_read_the_table(tmp_path: Path) -> None:
    with secured(tmp_path / "node") as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        running.done("CREATE TABLE other (id BIGINT PRIMARY KEY, vec VECTOR(2))")
        elsewhere = running.new_key("elsewhere", role="reader", tables=["other"])
        inserter = running.new_key("inserter")
        running.done("GRANT INSERT ON docs TO inserter")
        reader = running.new_key("reader", role="reader")
        statuses = [
            running.request("GET", "/v1/tables/docs/map", key).status_code
            for key in (elsewhere, inserter, reader)
        ]
        assert statuses == [403, 403, 200]

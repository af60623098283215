"""SQL over an indexed table: settings reach the index, EXPLAIN ANALYZE measures its recall."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.indexed import IndexedTable, Vectors, debian_vectors, halfway
from support.sql import Sql

VECTORS = debian_vectors()[:2_000]
QUERIES = halfway(VECTORS, 20)
NEAREST = "SELECT id FROM docs ORDER BY vec <=> :q LIMIT 10"


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    """2,000 packages under an index, which is asked wherever it reaches the target."""
    pytest.importorskip("faiss")
    docs = IndexedTable.create(tmp_path_factory.mktemp("docs"), "ivfflat", dimensions=64)
    docs.put(0, VECTORS)
    docs.build()
    made = Sql()
    made.database.adopt(docs.table)
    yield made
    docs.close()


def search_of(sql: Sql, text: str, query: Vectors = QUERIES[0], **settings: Any) -> dict[str, Any]:
    """The search's node of EXPLAIN ANALYZE."""
    given = {"q": query} if ":q" in text else None
    ((shown,),) = sql.rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", given, **settings)
    (found,) = searches(json.loads(shown)["plan"])
    return found


def searches(node: dict[str, Any]) -> list[dict[str, Any]]:
    """It, if it is one, and those below it."""
    below = [one for child in node.get("children", ()) for one in searches(child)]
    return [node, *below] if node["operator"] in ("VectorSearch", "KnnJoin") else below


def test_analyze_measures_the_recall_of_this_query(sql: Sql) -> None:
    found = search_of(sql, NEAREST)
    assert found["strategy"] == "index/ivfflat"
    assert found["recall"] >= 0.9
    assert found["device"] == "cpu"
    assert found["batch"] == 1
    assert 10 <= found["reranked"] <= found["candidates"] < 2_000
    assert found["selectivity"] == 1.0


def test_recall_is_measured_not_promised(sql: Sql) -> None:
    """An effort far too low for so many rows: EXPLAIN ANALYZE says what it missed."""
    hundred = NEAREST.replace("10", "100")
    few: dict[str, Any] = {"ivfflat.probes": 1}
    low = [search_of(sql, hundred, query, **few)["recall"] for query in QUERIES]
    assert 0 < min(low) < 1
    many: dict[str, Any] = {"ivfflat.probes": 64}
    assert search_of(sql, hundred, **many)["recall"] > min(low)


def test_analyze_of_a_filter(sql: Sql) -> None:
    found = search_of(sql, NEAREST.replace("ORDER", "WHERE id % 2 = 0 ORDER"))
    assert found["strategy"] == "widening/ivfflat"
    assert found["selectivity"] == 0.5
    assert found["recall"] >= 0.9


def test_analyze_of_a_join(sql: Sql) -> None:
    text = (
        "SELECT a.id, b.id FROM docs a, LATERAL (SELECT id FROM docs ORDER BY vec <=> a.vec "
        "LIMIT 3) b WHERE a.id < 20"
    )
    found = search_of(sql, text)
    assert (found["strategy"], found["batch"]) == ("index/ivfflat", 20)
    assert found["recall"] >= 0.9


def test_a_target_of_one_is_exact(sql: Sql) -> None:
    found = search_of(sql, NEAREST, target_recall=1)
    assert (found["strategy"].split("/")[0], found["recall"]) == ("exact", "exact")


def test_answers_name_their_strategy(sql: Sql) -> None:
    assert sql.run(NEAREST, {"q": QUERIES[0]}).stats["strategy"] == "index/ivfflat"
    exact = sql.run(NEAREST, {"q": QUERIES[0]}, target_recall=1)
    assert exact.stats["strategy"].startswith("exact/")

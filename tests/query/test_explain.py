"""EXPLAIN: what was pushed down and why something was not; ANALYZE: what the run did."""

from __future__ import annotations

import json
import re

from support.sql import Sql

SEARCH = "SELECT upper(title) FROM docs WHERE price > :p ORDER BY vec <-> :q LIMIT 3"
PARAMS = {"p": 3, "q": [1, 1]}


def test_explain_runs_nothing_and_needs_no_parameters(docs: Sql) -> None:
    lines = docs.explain(SEARCH)
    assert lines == [
        "DuckDB SELECT upper(title) FROM docs WHERE price > :p ORDER BY vec <-> :q LIMIT 3",
        "  VectorSearch docs.vec <-> :q (l2, k = 3)",
        "    Filter price > :p",
        "      Scan docs (price)",
    ]


def test_explain_says_why_something_is_not_pushed_down(docs: Sql) -> None:
    lines = docs.explain("SELECT DISTINCT cat FROM docs ORDER BY vec <-> '[1,1]' LIMIT 3")
    assert lines[-1].startswith("Note: ")
    assert "DISTINCT merges rows" in lines[-1]


def test_analyze_tells_strategy_candidates_and_times(docs: Sql) -> None:
    lines = [line for (line,) in docs.rows(f"EXPLAIN ANALYZE {SEARCH}", PARAMS)]
    search = next(line for line in lines if "VectorSearch" in line)
    for part in ("rows = 3", "strategy = exact_filtered/numpy", "device = cpu", "recall = exact"):
        assert part in search
    for name in ("candidates", "reranked", "selectivity", "batch"):
        assert re.search(rf"{name} = [\d.]+", search)
    assert any(
        re.fullmatch(r"    Filter price > :p  \[rows = 27, cached = False\]", one) for one in lines
    )
    assert {one.split(":")[0] for one in lines if " ms:" in one} >= {"Planning ms", "Execution ms"}
    again = [line for (line,) in docs.rows(f"EXPLAIN ANALYZE {SEARCH}", PARAMS)]
    assert any("cached = True" in line for line in again)


def test_a_batched_join_counts_its_queries(docs: Sql) -> None:
    text = (
        "EXPLAIN ANALYZE SELECT a.id, x.id FROM docs a, LATERAL (SELECT b.id FROM docs b WHERE "
        "b.id <> a.id ORDER BY b.vec <-> a.vec LIMIT 2) x WHERE a.id < 9"
    )
    lines = [line for (line,) in docs.rows(text)]
    join = next(line for line in lines if "KnnJoin" in line)
    assert "batch = 8" in join, "row 3 has no vector, so 8 of 9 left rows are searched for"


def test_json_is_one_document(docs: Sql) -> None:
    ((text,),) = docs.rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {SEARCH}", PARAMS)
    document = json.loads(text)
    assert document["plan"]["operator"] == "DuckDB"
    search = document["plan"]["children"][0]
    assert (search["operator"], search["rows"], search["recall"]) == ("VectorSearch", 3, "exact")
    assert document["rows"] == 3
    assert document["execution_ms"] > 0


def test_explain_of_writes_shows_what_they_read(docs: Sql) -> None:
    near = "SELECT id FROM docs ORDER BY vec <-> '[0,0]' LIMIT 1"
    assert docs.explain(f"DELETE FROM docs WHERE id IN ({near})")[0] == "Delete docs"
    assert any(
        "VectorSearch" in one for one in docs.explain(f"DELETE FROM docs WHERE id IN ({near})")
    )
    assert any(
        "RangeSearch" in one
        for one in docs.explain("UPDATE docs SET price = 1 WHERE vec <-> '[0,0]' < 1")
    )
    assert docs.explain("INSERT INTO docs (id) VALUES (99)") == ["Insert docs"]
    assert docs.rows("SELECT count(*) FROM docs") == [(30,)]


def test_analyze_of_a_write_writes(docs: Sql) -> None:
    lines = [line for (line,) in docs.rows("EXPLAIN ANALYZE DELETE FROM docs WHERE id < 5")]
    assert "Rows: 5" in lines
    assert docs.rows("SELECT count(*) FROM docs") == [(25,)]

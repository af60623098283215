"""`nearql bench`: what it measures, of a table of its own and of one that is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nearql
from nearql.client.cli import bench

QUICK = ("--seconds", "0.01", "--clients", "1,2", "--k", "5")


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no node that the environment names."""
    monkeypatch.setattr(bench, "QUERIES", 30)
    monkeypatch.setattr(bench, "COMPARED", 20)
    monkeypatch.delenv("NEARQL_URL", raising=False)


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert bench.main([*QUICK, "--json", *arguments]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_a_table_of_its_own_is_led_through_its_life(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "--rows", "6000", "--index", "ivfpq")
    assert [one["what"] for one in found] == [
        "load", "build ivfpq", "exact search", "search", "search",
        "filter 50.0%", "filter 10.0%", "filter 2.0%", "filter 0.5%", "filter 0.1%",
        "upsert 10 %", "search right after", "delete 30 %", "search right after",
    ]  # fmt: skip
    assert [one["clients"] for one in found[2:5]] == [1, 1, 2]
    searches = [one for one in found if one["unit"] == "queries/s"]
    assert all(one["recall"] >= 0.8 and one["rows"] == 5 for one in searches)  # type: ignore[operator]
    assert searches[0]["recall"] == 1.0
    assert all(one["rate"] > 0 for one in found)  # type: ignore[operator]


def test_a_table_that_is_there_is_only_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = bench.clustered(300)
    with nearql.connect(tmp_path) as db:
        db.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY, v VECTOR(384))")
        db.insert("docs", {"id": np.arange(300), "v": vectors})
    where = ("--url", str(tmp_path), "--table", "docs", "--column", "v", "--metric", "l2")
    found = measured(capsys, *where)
    assert [one["what"] for one in found] == ["exact search", "search", "search"]
    assert [one["recall"] for one in found] == [1.0, 1.0, 1.0]
    with nearql.connect(tmp_path) as db:
        assert db.sql("SELECT count(*) FROM docs").fetchall() == [(300,)]
        assert db.sql("SELECT count(*) FROM nearql.tables").fetchall() == [(1,)]


def test_the_report_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*QUICK, "--rows", "1000", "--index", "none", "--clients", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [part.strip() for part in lines[0].split("|")] == [
        "what", "clients", "rate", "unit", "p50 ms", "p99 ms", "recall", "rows",
    ]  # fmt: skip
    assert lines[2].startswith("load ")
    assert lines[-1] == "(12 rows)"


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--clients", "many"], 2, "must be numbers, as in 1,8"),
        (["--clients", "0"], 2, "must be numbers, as in 1,8"),
        (["--rows", "999"], 2, "--rows must be at least 1000"),
        (["--table", "docs"], 2, "--table needs --url"),
        (["--url", "http://127.0.0.1:1", "--timeout", "1"], 1, "127.0.0.1:1"),
    ],
)
def test_wrong_usage_and_failures_are_told(
    arguments: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == code
    assert why in capsys.readouterr().err


def test_an_index_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")  # without it nothing is built, and nothing can fail
    monkeypatch.setattr(bench, "READY_S", -1.0)
    assert bench.main([*QUICK, "--rows", "6000", "--index", "ivfpq"]) == 1
    assert "The index is" in capsys.readouterr().err

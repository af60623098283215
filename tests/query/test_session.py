"""Sessions: several statements, variables, limits, times, positions of mistakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from nearql.engine.errors import (
    Conflict,
    InvalidValue,
    NearQLError,
    SqlError,
    StatementTimeout,
    TooLarge,
    UndefinedColumn,
)
from nearql.query.replicas import Confirm, Freshness
from nearql.query.settings import SessionSettings
from support.sql import Sql


def test_several_statements_answer_the_last(sql: Sql) -> None:
    create = "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2)"
    assert sql.rows(f"{create}; SELECT id FROM t ORDER BY 1;") == [(1,), (2,)]


def test_statements_before_a_wrong_one_stand(sql: Sql) -> None:
    sql.run("CREATE TABLE t (id INT PRIMARY KEY)")
    with pytest.raises(UndefinedColumn):
        sql.run("INSERT INTO t VALUES (1); SELECT nope FROM t; INSERT INTO t VALUES (2)")
    assert sql.rows("SELECT id FROM t") == [(1,)]


def test_an_empty_request_is_refused(sql: Sql) -> None:
    with pytest.raises(SqlError, match="no statement"):
        sql.run(" ; -- nothing\n")


@pytest.mark.parametrize(
    ("text", "code", "position", "hint"),
    [
        ("SELECT titel FROM docs", "undefined_column", 8, "'title'"),
        ("SELECT id FROM dosc", "undefined_table", 16, "'docs'"),
        ("SELECT id FROM docs d WHERE x.id = 1", "undefined_alias", 29, "'x'"),
        ("SELECT lenght(title) FROM docs", "undefined_function", 8, "length"),
        ("SELECT id FROM docs WHERE price = 'abc'", "invalid_value", 35, "abc"),
        ("SELECT :missing", "missing_parameter", 8, ":missing"),
        ("SELECT 1; SELECT titel FROM docs", "undefined_column", 18, "'title'"),
        ("INSERT INTO docs (id, titel) VALUES (99, 'x')", "undefined_column", 23, "'title'"),
        ("UPDATE docs SET titel = 'x'", "undefined_column", 17, "'title'"),
        ("SELECT * FROM nearql.tabels", "undefined_table", 22, "nearql.tables"),
        ("DESCRIBE dosc", "undefined_table", 10, "'docs'"),
        ("SELEC 1", "syntax_error", 1, "SELECT"),
        ("SELECT id FROM docs WHERE", "syntax_error", None, ""),
        ("SELECT id FROM docs ORDER BY title <-> '[1]' LIMIT 1", "wrong_type", 30, "'title'"),
        ("SELECT '[1,2]'::vector(3)", "wrong_dimensions", None, "expected 3"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2,3]' LIMIT 1", "wrong_dimensions", None, "2"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,nan]' LIMIT 1", "invalid_vector", None, "nan"),
    ],
)
def test_mistakes_have_a_code_a_place_and_a_hint(
    docs: Sql, text: str, code: str, position: int | None, hint: str
) -> None:
    with pytest.raises(NearQLError) as caught:
        docs.run(text)
    assert caught.value.code == code
    assert position is None or caught.value.position == position
    assert hint in caught.value.detail
    assert "nq0_" not in caught.value.detail


def test_internal_names_stay_inside(docs: Sql) -> None:
    """No column name of an answer shows what the planner made."""
    result = docs.run(
        "SELECT vec <-> :q, 1 - (vec <=> :q), vec <-> vec, avg(vec) OVER (), "
        "(SELECT max(id) FROM docs) FROM docs ORDER BY vec <-> :q LIMIT 2",
        {"q": [1, 2]},
    )
    names = [column.name for column in result.columns]
    assert names[:3] == ["vec <-> :q", "1 - (vec <=> :q)", "vec <-> vec"]
    assert not [name for name in names if "nq" in name]


# ---- parameters -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        "[1, 2]",
        np.array([1, 2], np.float64),
        np.array([1, 2], "<f4").tobytes(),
        "AACAPwAAAEA=",
    ],
)
def test_vectors_bind_in_every_form(docs: Sql, value: Any) -> None:
    assert docs.rows("SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1", {"q": value}) == [(11,)]
    assert docs.rows("SELECT id FROM docs WHERE vec <-> $1 < 0.1", [value]) == [(11,)]
    assert docs.rows("SELECT :q::vector <-> '[1,2]'", {"q": value}) == [(0.0,)]


def test_a_null_vector_finds_nothing(docs: Sql) -> None:
    assert docs.rows("SELECT id FROM docs ORDER BY vec <-> :q LIMIT 5", {"q": None}) == []
    assert docs.rows("SELECT id FROM docs WHERE vec <-> :q < 5", {"q": None}) == []
    assert docs.rows("SELECT DISTINCT vec <-> :q FROM docs", {"q": None}) == [(None,)]


def test_a_sub_query_may_give_the_vector_once(docs: Sql) -> None:
    text = "SELECT id FROM docs ORDER BY vec <-> (SELECT vec FROM docs WHERE id >= :i) LIMIT 2"
    assert docs.rows(text, {"i": 29}) == [(29,), (24,)]
    assert docs.rows(text, {"i": 99}) == []
    with pytest.raises(NearQLError, match="more than one row"):
        docs.rows(text, {"i": 5})


def test_surplus_positional_values_are_refused(docs: Sql) -> None:
    with pytest.raises(SqlError, match="positional"):
        docs.run("SELECT $1", [1, 2])


# ---- limits ---------------------------------------------------------------------------


def test_max_limit_bounds_limit_plus_offset() -> None:
    sql = Sql(SessionSettings(max_limit=10))
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(1)); INSERT INTO t VALUES (1, '[1]')")
    search = "SELECT id FROM t ORDER BY v <-> '[0]' LIMIT :k OFFSET :o"
    assert sql.rows(search, {"k": 10, "o": 0}) == [(1,)]
    with pytest.raises(TooLarge, match="max_limit"):
        sql.run(search, {"k": 10, "o": 1})
    assert sql.rows("SELECT id FROM t LIMIT 11") == [(1,)], "only searches are bounded"


@pytest.mark.parametrize("limit", [-1, 1.5, "x", None, True])
def test_a_limit_is_a_whole_number(docs: Sql, limit: Any) -> None:
    with pytest.raises(InvalidValue, match="LIMIT"):
        docs.run("SELECT id FROM docs ORDER BY vec <-> '[0,0]' LIMIT :k", {"k": limit})


def test_answers_are_bounded_by_rows_and_bytes() -> None:
    sql = Sql(SessionSettings(result_rows=100, result_bytes=10_000))
    assert sql.run("SELECT range FROM range(100)").row_count == 100
    with pytest.raises(TooLarge, match="result_rows"):
        sql.run("SELECT range FROM range(101)")
    assert sql.run("SELECT repeat('x', 9000)").row_count == 1
    with pytest.raises(TooLarge, match="result_bytes"):
        sql.run("SELECT repeat('x', 11000)")


def test_a_join_is_bounded_by_its_rows() -> None:
    sql = Sql(SessionSettings(join_rows=20))
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(1))")
    sql.run("INSERT INTO t SELECT range, [range]::FLOAT[1] FROM range(10)")
    text = (
        "SELECT a.id, x.id FROM t a, LATERAL (SELECT b.id FROM t b ORDER BY b.v <-> a.v LIMIT {}) x"
    )
    assert sql.run(text.format(2)).row_count == 20
    with pytest.raises(TooLarge, match="join_rows"):
        sql.run(text.format(3))


ENDLESS = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"


def test_a_statement_ends_when_its_time_is_up(sql: Sql) -> None:
    started = time.monotonic()
    with pytest.raises(StatementTimeout, match="statement_timeout_ms"):
        sql.run(f"SET statement_timeout_ms = 200; {ENDLESS}")
    assert 0.15 < time.monotonic() - started < 20
    assert sql.rows("SELECT 1") == [(1,)]


def test_a_write_that_times_out_while_evaluating_changes_nothing(docs: Sql) -> None:
    with pytest.raises(StatementTimeout):
        docs.run(f"UPDATE docs SET price = ({ENDLESS})", statement_timeout_ms=200)
    assert docs.rows("SELECT price FROM docs WHERE id = 2") == [(3.0,)]


def test_statements_in_many_threads_do_not_mix(docs: Sql) -> None:
    wrong: list[Any] = []

    def ask(place: int) -> None:
        for at in range(20):
            key = (place * 20 + at) % 30
            rows = docs.rows("SELECT upper(title) FROM docs WHERE id = :i", {"i": key})
            if rows != [(f"TITLE {key}",)]:
                wrong.append(rows)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- variables ------------------------------------------------------------------------


def test_set_holds_for_its_request(sql: Sql) -> None:
    assert sql.rows("SET target_recall = 0.9; SHOW target_recall") == [("0.9",)]
    assert sql.rows("SHOW target_recall") == [(None,)]
    assert sql.rows("SHOW target_recall", target_recall=0.8) == [("0.8",)]
    assert sql.rows("RESET target_recall; SHOW target_recall", target_recall=0.8) == [(None,)]


def test_an_unknown_setting_names_the_nearest(sql: Sql) -> None:
    with pytest.raises(SqlError, match="'target_recall'"):
        sql.run("SET targetrecall = 0.9")
    with pytest.raises(SqlError, match=r"'hnsw\.ef_search'"):
        sql.run("SELECT 1", **{"hnsw.ef": 1})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("target_recall", [0.5, 1, "0.9"], [0, 1.1, "x", True]),
        ("hnsw.ef_search", [1, "40"], [0, 1.5, "many"]),
        ("write_concern", ["one", "majority", "ALL", 1, "1"], ["none", 0, -1, True]),
        ("read_level", ["any", "Session"], ["none", 1]),
        ("device", ["auto", "cpu", "gpu"], ["tpu"]),
        ("latency_budget_ms", [0, 60_000, "5"], [-1, 60_001, 0.5, "long"]),
        ("statement_timeout_ms", [60_000, "30000"], [0, -5, "soon"]),
        ("max_staleness_ms", [0, 10], [-1]),
    ],
)
def test_values_of_settings_are_checked(
    sql: Sql, name: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        sql.session.execute("SELECT 1", None, {name: value})
    for value in bad:
        with pytest.raises(InvalidValue, match=name):
            sql.session.execute("SELECT 1", None, {name: value})


def test_more_copies_than_there_are_is_refused_before_writing(docs: Sql) -> None:
    for text in ("DELETE FROM docs", "TRUNCATE docs", "INSERT INTO docs (id) VALUES (99)"):
        with pytest.raises(InvalidValue, match="copies"):
            docs.run(text, write_concern=2)
    assert docs.rows("SELECT count(*) FROM docs") == [(30,)]
    for asked in (1, 2):
        assert docs.rows(f"WAIT {asked} TIMEOUT 10") == [(1, True)]


def test_rollback_after_a_write_is_an_error_by_name(docs: Sql) -> None:
    docs.run("BEGIN; SELECT 1; ROLLBACK")
    docs.run("BEGIN; INSERT INTO docs (id) VALUES (100); COMMIT")
    with pytest.raises(Conflict, match="ROLLBACK") as caught:
        docs.run("BEGIN; INSERT INTO docs (id) VALUES (101); ROLLBACK")
    assert caught.value.code == "cannot_rollback"
    assert docs.rows("SELECT count(*) FROM docs WHERE id >= 100") == [(2,)]


def test_the_gpu_that_is_not_there_is_told(docs: Sql) -> None:
    result = docs.run("SELECT id FROM docs ORDER BY vec <-> '[0,0]' LIMIT 1", device="gpu")
    assert any("gpu" in notice for notice in result.notices)


# ---- answers --------------------------------------------------------------------------


def test_types_are_shown_as_people_write_them(docs: Sql) -> None:
    result = docs.run("SELECT *, vec <-> '[0,0]' AS d, 1.5 AS x, [1] AS l FROM docs LIMIT 1")
    shown = [(column.name, column.type) for column in result.columns]
    assert shown == [
        ("id", "BIGINT"), ("title", "TEXT"), ("price", "DOUBLE"), ("cat", "TEXT"),
        ("vec", "VECTOR(2)"), ("d", "FLOAT"), ("x", "DECIMAL(2,1)"), ("l", "INTEGER[]"),
    ]  # fmt: skip


def test_duplicate_names_are_kept(docs: Sql) -> None:
    result = docs.run("SELECT id, title AS id, id FROM docs ORDER BY vec <-> '[0,0]' LIMIT 1")
    assert [column.name for column in result.columns] == ["id", "id", "id"]
    assert docs.rows("SELECT a.id, b.id FROM docs a, docs b WHERE a.id = 1 AND b.id = 2") == [
        (1, 2)
    ]


def test_a_hidden_key_is_never_shown(sql: Sql) -> None:
    sql.run("CREATE TABLE log (msg TEXT, v VECTOR(1))")
    sql.run("INSERT INTO log VALUES ('a', '[1]'), ('b', '[1]')")
    for text in (
        "SELECT * FROM log ORDER BY v <-> '[0]' LIMIT 2",
        "SELECT * FROM log ORDER BY msg",
        "SELECT l.* FROM log l ORDER BY v <-> '[0]', msg LIMIT 2",
        "SELECT * FROM (SELECT * FROM log ORDER BY v <=> '[1]' LIMIT 2) s ORDER BY msg",
    ):
        assert sql.rows(text) == [("a", [1.0]), ("b", [1.0])]


def test_stats_tell_strategy_and_shards(docs: Sql) -> None:
    stats = docs.run("SELECT id FROM docs ORDER BY vec <-> '[0,0]' LIMIT 1").stats
    assert stats["strategy"] == "exact/numpy"
    assert [(one["table"], one["shard"]) for one in stats["shards"]] == [("docs", 0)]
    assert docs.run("SELECT count(*) FROM docs").stats["strategy"] == "scan"


def test_vectors_in_answers_have_their_own_types(sql: Sql) -> None:
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, h HALFVEC(2), v VECTOR(2))")
    sql.run("INSERT INTO t VALUES (1, '[1,2]', '[3,4]'), (2, NULL, NULL)")
    result = sql.run(
        "SELECT h, l2_normalize(v) AS n, v + v AS s, avg(v) OVER () FROM t ORDER BY id"
    )
    assert [c.type for c in result.columns] == ["HALFVEC(2)", "VECTOR(2)", "VECTOR(2)", "VECTOR(2)"]
    assert result.table.column(2).to_pylist() == [[6.0, 8.0], None]
    direct = sql.run("SELECT h FROM t ORDER BY v <-> '[0,0]' LIMIT 1")
    assert [c.type for c in direct.columns] == ["HALFVEC(2)"]


# ---- caches ---------------------------------------------------------------------------


def test_plans_are_kept_until_the_catalog_changes(docs: Sql) -> None:
    text = "SELECT id FROM docs WHERE price > :p ORDER BY vec <-> :q LIMIT 1"
    for price in (1, 2):
        docs.rows(text, {"p": price, "q": [0, 0]})
    assert docs.session.plans.hits >= 1
    docs.run("ALTER TABLE docs ADD COLUMN extra INT; ALTER TABLE docs DROP COLUMN price")
    with pytest.raises(UndefinedColumn, match="price"):
        docs.rows(text, {"p": 1, "q": [0, 0]})
    assert docs.rows("SELECT count(extra) FROM docs") == [(0,)]


def test_filters_are_kept_until_a_row_changes(docs: Sql) -> None:
    text = "SELECT id FROM docs WHERE price > :p ORDER BY vec <-> '[4,5]' LIMIT 1"
    before = docs.session.filters.stats()
    assert docs.rows(text, {"p": 40}) == [(29,)]
    assert docs.rows(text, {"p": 40}) == [(29,)]
    assert docs.session.filters.stats().hits == before.hits + 1
    docs.run("UPDATE docs SET price = 0 WHERE id = 29")
    assert docs.rows(text, {"p": 40}) == [(28,)]


def test_filters_over_two_tables_follow_both(docs: Sql) -> None:
    docs.run("CREATE TABLE chosen (id BIGINT PRIMARY KEY); INSERT INTO chosen VALUES (5), (6)")
    text = (
        "SELECT id FROM docs WHERE id IN (SELECT id FROM chosen) ORDER BY vec <-> '[0,0]' LIMIT 9"
    )
    assert docs.rows(text) == [(5,), (6,)]
    docs.run("INSERT INTO chosen VALUES (0)")
    assert docs.rows(text) == [(0,), (5,), (6,)]


def test_volatile_filters_are_not_kept(docs: Sql) -> None:
    before = docs.session.filters.stats().entries
    docs.run("SELECT id FROM docs WHERE random() < 2 ORDER BY vec <-> '[0,0]' LIMIT 1")
    assert docs.session.filters.stats().entries == before


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2' LIMIT 5", "'[1,2'"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2,3]' LIMIT 5", "'[1,2,3]'"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,x]'::vector LIMIT 5", "'[1,x]'"),
        ("SELECT vec <-> '[1]' FROM docs", "'[1]'"),
        ("SELECT '[1,2'::vector", "'[1,2'"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT -5", "5"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 1.5", "1.5"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 20000", "20000"),
        ("SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 7 OFFSET -3", "3"),
        ("SELECT id FROM docs LIMIT -1", "SELECT"),
        ("INSERT INTO docs (id, vec) VALUES (99, '[1]')", "INSERT"),
        ("SELECT 1; SELECT l2_distance('[1,2]', '[1]')", "SELECT l2"),
    ],
)
def test_errors_say_where(docs: Sql, text: str, mark: str) -> None:
    """At the value, or at the statement where no place is certain."""
    with pytest.raises(NearQLError) as caught:
        docs.run(text)
    assert caught.value.position == text.index(mark) + 1


@pytest.mark.parametrize("text", ["SELECT 1 FROM Dosc", "DELETE FROM dosc", "DESCRIBE dosc"])
def test_near_tables_are_named_as_they_were_declared(sql: Sql, text: str) -> None:
    """In words and as a member."""
    sql.run("CREATE TABLE Docs (id INTEGER PRIMARY KEY)")
    with pytest.raises(NearQLError) as caught:
        sql.run(text)
    assert "'Docs'" in caught.value.detail
    assert caught.value.extra["nearest"] == "Docs"


def test_a_node_without_a_timeout_has_none() -> None:
    """`limits.statement_timeout_ms: 0`."""
    made = Sql(SessionSettings(statement_timeout_ms=0))
    assert made.run("SELECT count(*) FROM range(1000)").table.column(0).to_pylist() == [1000]
    made.database.close()


def test_a_requests_positions_are_those_of_all_its_statements(docs: Sql) -> None:
    text = "INSERT INTO docs (id) VALUES (900); SELECT 1; WAIT 1 TIMEOUT 1"
    [shard] = docs.run(text).stats["shards"]
    [alone] = docs.run("SELECT count(*) FROM docs").stats["shards"]
    assert shard == alone


class _Reads:
    """Remembers which tables were to be read."""

    seen = ()

    def __init__(self) -> None:
        self.entered: list[set[str]] = []

    def enter(self, tables: Collection[str], freshness: Freshness) -> Confirm:
        self.entered.append(set(tables))
        return lambda: None

    def at_once(self, tables: Collection[str], level: str | None) -> bool:
        raise AssertionError("nothing comes again here")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM docs",
        "INSERT INTO t (id) SELECT id FROM docs",
        "UPDATE t SET id = id WHERE id IN (SELECT id FROM docs)",
        "DELETE FROM t USING docs WHERE t.id = docs.id",
        "CREATE TABLE made AS SELECT id FROM docs",
    ],
)
def test_whatever_is_read_is_entered_first(docs: Sql, text: str) -> None:
    docs.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    reads = _Reads()
    docs.session.execute(text, reads=reads)
    assert reads.entered == [{docs.database.catalog().tables["docs"].uuid}]


def test_what_reads_nothing_waits_for_nothing(docs: Sql) -> None:
    reads = _Reads()
    docs.session.execute("INSERT INTO docs (id) VALUES (901); SELECT 1", reads=reads)
    assert reads.entered == []

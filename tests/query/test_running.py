"""`nearql.queries` and KILL: what runs, what was slow, and how a statement is ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from nearql.engine.errors import Conflict, Forbidden, NotFound, SqlError, StatementTimeout
from nearql.engine.types import OnConflict
from nearql.query.ports import CatalogView
from nearql.query.running import TEXT_CHARS, Statements
from nearql.query.settings import SessionSettings
from nearql.query.statements import Kill, Statement
from support.sql import Sql
from support.waiting import wait_for

# The endless one: DuckDB would need years; it answers an interrupt.
ENDLESS = "SELECT sum(a.range * b.range) FROM range(9000000) a, range(9000000) b"


def states(sql: Sql) -> list[tuple[str, str]]:
    """(text, state) of all that is listed."""
    rows = sql.session.statements.table().to_pylist()
    return [(row["text"], row["state"]) for row in rows]


@contextmanager
def running(sql: Sql, text: str) -> Iterator[tuple[int, Future[Any]]]:
    """A statement in another thread, once it is listed: its id and its outcome."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sql.run, text)

        wait_for(lambda: (text, "running") in states(sql), "the statement is listed")
        rows = sql.session.statements.table().to_pylist()
        yield next(row["id"] for row in rows if row["text"] == text), future


def test_kill_ends_a_statement_in_duckdb_and_says_so(sql: Sql) -> None:
    with running(sql, ENDLESS) as (number, future):
        assert (ENDLESS, "running") in states(sql)
        sql.run(f"KILL {number}")
        with pytest.raises(Conflict, match=f"Statement {number} was ended by KILL") as found:
            future.result(60)
    assert (found.value.code, found.value.definite) == ("statement_killed", True)
    assert states(sql) == [(ENDLESS, "killed")]
    assert (sql.session.statements.killed, sql.session.statements.count) == (1, 0)


def test_kill_ends_a_write_that_is_still_evaluated_and_nothing_is_written(docs: Sql) -> None:
    text = f"UPDATE docs SET price = ({ENDLESS})"
    before = docs.rows("SELECT sum(price) FROM docs")
    with running(docs, text) as (number, future):
        docs.run(f"KILL QUERY {number}")
        with pytest.raises(Conflict, match="KILL"):
            future.result(60)
    assert docs.rows("SELECT sum(price) FROM docs") == before


def test_kill_ends_one_statement_and_with_it_its_request_only(sql: Sql) -> None:
    sql.run("CREATE TABLE t (id INT PRIMARY KEY)")
    whole = f"INSERT INTO t VALUES (1); {ENDLESS}; INSERT INTO t VALUES (2)"
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(sql.run, whole)
        wait_for(lambda: (ENDLESS, "running") in states(sql), "the second statement runs")
        with running(sql, ENDLESS.replace("sum", "max")) as (_, other):
            [number] = [
                row["id"]
                for row in sql.session.statements.table().to_pylist()
                if row["text"] == ENDLESS
            ]
            sql.run(f"KILL {number}")
            with pytest.raises(Conflict, match="KILL"):
                future.result(60)
            assert not other.done()
            for row in sql.session.statements.table().to_pylist():
                if row["state"] == "running":
                    sql.run(f"KILL {row['id']}")
    assert sql.rows("SELECT id FROM t") == [(1,)]


def test_killing_what_does_not_run_is_an_error_by_name(sql: Sql) -> None:
    with pytest.raises(NotFound, match=r"No statement 99 is running; nearql\.queries") as found:
        sql.run("KILL 99")
    assert found.value.code == "undefined_statement"
    for text in ("KILL", "KILL x", "KILL 1 2", "KILL -1"):
        with pytest.raises(SqlError):
            sql.run(text)


def test_a_kill_that_comes_too_late_changes_nothing(sql: Sql) -> None:
    statements = sql.session.statements
    with statements.running("first") as first:
        pass
    with pytest.raises(NotFound):
        statements.kill(first.id)
    assert states(sql) == []


def test_a_kill_that_the_work_did_not_meet_leaves_its_answer(sql: Sql) -> None:
    statements = sql.session.statements
    with statements.running("quick") as quick:
        statements.kill(quick.id)
        assert states(sql) == [("quick", "stopping")]
    assert states(sql) == []  # done, and it wasn't slow
    assert statements.killed == 0


def test_a_timeout_is_no_kill(sql: Sql) -> None:
    with pytest.raises(StatementTimeout):
        sql.run(ENDLESS, statement_timeout_ms=20)
    assert sql.session.statements.killed == 0


def test_a_statement_sees_itself_with_its_user(sql: Sql) -> None:
    with sql.session.statements.running("other", "anna"):
        found = sql.session.statements.table().to_pylist()
    assert [(row["text"], row["user"], row["state"]) for row in found] == [
        ("other", "anna", "running")
    ]
    assert found[0]["started"].tzinfo is not None
    assert found[0]["elapsed_ms"] >= 0


@pytest.mark.parametrize(("kept", "expected"), [(0, []), (1, ["c"]), (2, ["c", "b"])])
def test_the_last_slow_statements_are_kept(kept: int, expected: list[str]) -> None:
    statements = Statements(0, kept)
    for text in "abc":
        with statements.running(text):
            pass
    assert statements.table().column("text").to_pylist() == expected
    assert statements.slow == 3


def test_a_quick_statement_is_not_slow() -> None:
    statements = Statements(3_600_000, 10)
    with statements.running("quick"):
        pass
    assert (statements.table().num_rows, statements.slow) == (0, 0)


def test_a_slow_statement_tells_how_it_was_answered() -> None:
    sql = Sql(SessionSettings(slow_statement_ms=0))
    sql.run("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))")
    sql.run("INSERT INTO docs VALUES (1, '[1,2]')")
    sql.run("SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 1")
    sql.run("SELECT count(*) FROM docs")
    with pytest.raises(SqlError):
        sql.run("SELECT nope FROM docs")
    failed, counted, searched, inserted, created = sql.session.statements.table().to_pylist()
    assert (failed["state"], failed["error"]) == ("failed", "undefined_column")
    assert (counted["strategy"], counted["rows"]) == ("scan", 1)
    assert counted["duckdb_ms"] > 0
    assert searched["strategy"].startswith("exact/")
    assert searched["search_ms"] > 0
    assert searched["duckdb_ms"] is None
    assert (inserted["state"], inserted["rows"]) == ("done", 1)
    assert created["strategy"] is None
    sql.database.close()


def test_bulk_rows_are_listed() -> None:
    sql = Sql(SessionSettings(slow_statement_ms=0))
    sql.run("CREATE TABLE t (id BIGINT PRIMARY KEY)")
    sql.session.insert_rows("t", pa.table({"id": [1, 2]}), OnConflict.REPLACE, user="anna")
    row = sql.session.statements.table().to_pylist()[0]
    assert (row["text"], row["user"], row["rows"]) == ("bulk replace of 2 rows into t", "anna", 2)
    sql.database.close()


@pytest.mark.parametrize("over", [0, 1])
def test_long_texts_are_cut(over: int) -> None:
    statements = Statements(0, 1)
    text = "x" * (TEXT_CHARS + over)
    with statements.running(text):
        [shown] = statements.table().column("text").to_pylist()
    assert shown == (text if not over else "x" * TEXT_CHARS + "...")
    assert statements.table().column("text").to_pylist() == [shown]


def test_every_id_is_given_once() -> None:
    statements, found = Statements(0, 10_000), set[int]()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(30)
        for _ in range(100):
            with statements.running("x") as one:
                found.add(one.id)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result(60)
    assert len(found) == 800
    assert statements.count == 0


def test_everybody_may_end_his_own_statements_only(sql: Sql) -> None:
    refused: list[str] = []

    def authorise(statement: Statement, _catalog: CatalogView) -> None:
        if isinstance(statement, Kill):
            refused.append(statement.text)
            raise Forbidden("KILL needs an administrator.")

    session = sql.session.restricted(sql.database, authorise)
    with sql.session.statements.running("SELECT 1", "anna") as hers:
        for user in ("otto", None):
            with pytest.raises(Forbidden):
                session.execute(f"KILL {hers.id}", user=user)
            assert hers.state == "running"
        session.execute(f"KILL {hers.id}", user="anna")
        assert hers.state == "stopping"
        with pytest.raises(Forbidden):  # the same text, planned and permitted before
            session.execute(f"KILL {hers.id}", user="otto")
    with pytest.raises(Forbidden):  # it has ended
        session.execute(f"KILL {hers.id}", user="anna")
    assert len(refused) == 4

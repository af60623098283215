"""Which statements are more than a search; where only light ones may run, they do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from nearql.engine.errors import NearQLError, StatementTimeout
from nearql.query.settings import SessionSettings
from nearql.query.weight import Deferred
from support.sql import Sql

LIGHT = [
    "SELECT id, vec <-> '[1,2]' AS d FROM docs ORDER BY d LIMIT 3",
    "SELECT id FROM docs WHERE price < 9 AND cat = 'a' ORDER BY vec <=> '[1,2]' LIMIT 3 OFFSET 1",
    "SELECT upper(title) FROM docs ORDER BY vec <-> (SELECT vec FROM docs WHERE id = 7) LIMIT 3",
    "SELECT 1",
    "SELECT id FROM nearql.queries WHERE state = 'running'",
    "INSERT INTO docs VALUES (100, 'x', 1, 'a', '[1,1]'), (101, 'y', 1, 'a', '[1,1]')",
    "INSERT INTO other DEFAULT VALUES",
    "CREATE TABLE fresh (id BIGINT PRIMARY KEY)",
    "EXPLAIN SELECT * FROM docs a, docs b",
    "SET target_recall = 0.9",
    "SHOW TABLES",
    "DESCRIBE docs",
    "SET target_recall = 0.9; SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 3",
]
HEAVY = [
    "SELECT count(*) FROM docs",
    "SELECT * FROM docs WHERE id = 1",
    "SELECT * FROM docs a, docs b, docs c",
    "SELECT id FROM docs WHERE id IN (SELECT id FROM other) ORDER BY vec <-> '[1,2]' LIMIT 3",
    "SELECT id FROM docs WHERE id IN (FROM range(9), range(9)) ORDER BY vec <-> '[1,2]' LIMIT 3",
    "SELECT d.id FROM docs d JOIN other o ON o.id = d.id ORDER BY vec <-> '[1,2]' LIMIT 3",
    "SELECT n.id FROM docs q, LATERAL (SELECT id FROM docs d ORDER BY d.vec <-> q.vec LIMIT 2) n",
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 5) SELECT * FROM t",
    "SELECT (SELECT count(*) FROM range(9)) AS n",
    "SELECT * FROM range(10)",
    "SELECT a.name FROM nearql.settings a, nearql.settings b",
    "SELECT id FROM docs WHERE vec <-> '[1,2]' < 2",
    "UPDATE docs SET price = 0 WHERE id = 1",
    "DELETE FROM docs WHERE id = 1",
    "INSERT INTO other SELECT id FROM docs",
    "INSERT INTO other VALUES ((SELECT count(*) FROM docs a, docs b))",
    "CREATE TABLE copied AS SELECT id FROM docs",
    "EXPLAIN ANALYZE SELECT 1",
    "TRUNCATE other",
    "SELECT 1; SELECT count(*) FROM docs",
    "INSERT INTO other VALUES (1); SELECT 1",
    "CREATE TABLE fresh (id INT PRIMARY KEY); SELECT count(*) FROM docs a, docs b",
]


@pytest.fixture
def both(docs: Sql, monkeypatch: pytest.MonkeyPatch) -> Sql:
    """Another table beside docs, and nearql.queries."""
    docs.run("CREATE TABLE other (id BIGINT PRIMARY KEY DEFAULT 5)")
    monkeypatch.setattr(docs.database, "system_table", lambda name: docs.session.statements.table())
    return docs


def light(sql: Sql, text: str, **more: Any) -> Any:
    """Run a request if it is light."""
    return sql.session.execute(text, light_only=True, **more)


def state(sql: Sql) -> Any:
    """All that a statement of this file could have changed."""
    tables = sorted(sql.database.catalog().tables)
    counts = [sql.rows(f"SELECT count(*), sum(id) FROM {name}")[0] for name in tables]
    return tables, counts, sql.rows("SELECT sum(price) FROM docs")


@pytest.mark.parametrize("text", LIGHT)
def test_these_are_light(both: Sql, text: str) -> None:
    expected = light(both, text)
    assert expected.columns is not None


@pytest.mark.parametrize("text", HEAVY)
def test_these_are_heavy_and_have_done_nothing(both: Sql, text: str) -> None:
    before = state(both)
    slow, killed = both.session.statements.slow, both.session.statements.killed
    with pytest.raises(Deferred):
        light(both, text)
    assert state(both) == before
    listed = both.session.statements
    assert (listed.slow, listed.killed, listed.count) == (slow, killed, 0)


def test_what_was_parsed_is_not_parsed_again(both: Sql) -> None:
    with pytest.raises(Deferred) as deferred:
        light(both, "SELECT count(*) FROM docs")
    misses = both.session.plans.misses
    result = both.session.execute("not read", prepared=deferred.value.prepared)
    assert result.table.column(0).to_pylist() == [30]
    assert both.session.plans.misses == misses


def test_a_statement_is_weighed_anew_for_another_catalog(both: Sql) -> None:
    text = "SELECT id FROM docs ORDER BY vec <-> '[1,2]' LIMIT 3"
    light(both, text)
    both.run("ALTER TABLE docs RENAME TO moved")
    both.run("CREATE VIEW docs AS SELECT m.id, m.vec FROM moved m JOIN other o ON o.id = m.id")
    with pytest.raises(Deferred):
        light(both, text)


def test_errors_are_the_same(both: Sql) -> None:
    search = "SELECT {} FROM docs ORDER BY vec <-> {} LIMIT 3"
    for text in (search.format("id", "'[1]'"), search.format("id", "'[1,2]'") + " OFFSET -1"):
        with pytest.raises(NearQLError) as weighed:
            light(both, text)
        with pytest.raises(NearQLError) as run:
            both.session.execute(text)
        assert (weighed.value.code, weighed.value.detail) == (run.value.code, run.value.detail)
        assert weighed.value.position == run.value.position


def test_what_a_request_waited_is_off_its_time(both: Sql) -> None:
    text = "SELECT count(*) FROM docs"
    both.session.execute(text, settings={"statement_timeout_ms": 60_000}, waited_s=1.0)
    with pytest.raises(StatementTimeout):
        both.session.execute(text, settings={"statement_timeout_ms": 60_000}, waited_s=61.0)
    # The second statement's time begins when the first has ended.
    both.session.execute(f"SET statement_timeout_ms = 60000; {text}", waited_s=29.0)


def test_no_limit_is_no_limit_whatever_was_waited() -> None:
    sql = Sql(SessionSettings(statement_timeout_ms=0))
    try:
        assert sql.session.execute("SELECT 1", waited_s=1e6).row_count == 1
    finally:
        sql.database.close()

"""GRANT, REVOKE, CREATE USER, DROP USER as text; what each statement needs permission for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nearql.engine.errors import NearQLError
from nearql.query import statements
from nearql.query.dialect import parse
from nearql.query.ports import CatalogView
from nearql.query.privileges import needs
from support.sql import Sql

ALL = ("SELECT", "INSERT", "UPDATE", "DELETE", "ADMIN")


@pytest.fixture(scope="module")
def sql() -> Iterator[Sql]:
    made = Sql()
    made.run("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT)")
    yield made
    made.database.close()


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("GRANT SELECT ON docs TO ann", [("grant", "ann", "docs", ("SELECT",))]),
        ("grant insert, select on table docs to ann", [("grant", "ann", "docs", ALL[1::-1])]),
        ("GRANT ALL PRIVILEGES ON docs TO ann", [("grant", "ann", "docs", ALL)]),
        ('REVOKE ALL ON docs FROM "a.b@c", d CASCADE',
         [("revoke", "a.b@c", "docs", ALL), ("revoke", "d", "docs", ALL)]),
        ("CREATE USER ann", [("create_user", "ann", "none")]),
        ("CREATE USER ann WITH (role = writer)", [("create_user", "ann", "writer")]),
        ("CREATE USER ann WITH (role = 'admin')", [("create_user", "ann", "admin")]),
        ("DROP USER ann", [("drop_user", "ann", False)]),
        ("DROP USER IF EXISTS ann", [("drop_user", "ann", True)]),
    ],
)  # fmt: skip
def test_statements_about_access(sql: Sql, text: str, calls: list[tuple[object, ...]]) -> None:
    sql.database.recorded.calls.clear()
    sql.run(text)
    assert sql.database.recorded.calls == calls


@pytest.mark.parametrize(
    ("text", "code", "at"),
    [
        ("GRANT ON docs TO ann", "syntax_error", "ON"),
        ("GRANT SELECT docs TO ann", "syntax_error", "docs"),
        ("GRANT SELECT ON docs FROM ann", "syntax_error", "FROM"),
        ("REVOKE SELECT ON docs TO ann", "syntax_error", "TO"),
        ("GRANT FLY ON docs TO ann", "syntax_error", "FLY"),
        ("GRANT SELECT (title) ON docs TO ann", "unsupported", "("),
        ("GRANT SELECT ON ALL TABLES TO ann", "unsupported", "ALL"),
        ("GRANT SELECT ON docs TO ann WITH GRANT OPTION", "unsupported", "WITH"),
        ("GRANT SELECT ON dcs TO ann", "undefined_table", None),
        ("CREATE USER ann WITH (role = king)", "unsupported", None),
        ("CREATE USER ann WITH (colour = red)", "syntax_error", None),
        ("CREATE USER ann PASSWORD 'x'", "unsupported", None),
        ("DROP USER", "syntax_error", None),
    ],
)
def test_wrong_statements_about_access(sql: Sql, text: str, code: str, at: str | None) -> None:
    sql.database.recorded.calls.clear()
    with pytest.raises(NearQLError) as caught:
        sql.run(text)
    assert caught.value.code == code, caught.value.detail
    if at is not None:
        assert caught.value.position == text.index(at) + 1
    assert sql.database.recorded.calls == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT 1", ""),
        ("SELECT * FROM nearql.tables", ""),
        ("SHOW TABLES", ""),
        ("SET device = 'cpu'", ""),
        ("BEGIN", ""),
        ("DESCRIBE docs", ""),
        ("SELECT * FROM a, b JOIN c USING (id)", "SELECT a, SELECT b, SELECT c"),
        ("WITH a AS (SELECT * FROM b) SELECT * FROM a", "SELECT b"),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "SELECT a"),
        ("SELECT * FROM main.a WHERE EXISTS (SELECT 1 FROM b)", "SELECT a, SELECT b"),
        ("EXPLAIN ANALYZE DELETE FROM a", "DELETE a"),
        ("INSERT INTO a VALUES (1)", "INSERT a"),
        ("INSERT INTO a SELECT * FROM b", "INSERT a, SELECT b"),
        ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO NOTHING", "INSERT a"),
        ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = EXCLUDED.x",
         "INSERT a, UPDATE a"),
        ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = a.x + 1",
         "INSERT a, SELECT a, UPDATE a"),
        ("INSERT INTO a VALUES (1) RETURNING id", "INSERT a, SELECT a"),
        ("UPDATE a SET x = 1", "UPDATE a"),
        ("UPDATE a SET x = y", "SELECT a, UPDATE a"),
        ("UPDATE a SET x = 1 WHERE id = 1", "SELECT a, UPDATE a"),
        ("UPDATE a SET x = 1 FROM b WHERE a.id = b.id", "SELECT a, SELECT b, UPDATE a"),
        ("DELETE FROM a WHERE id = 1", "DELETE a, SELECT a"),
        ("DELETE FROM a USING b WHERE a.id = b.id", "DELETE a, SELECT a, SELECT b"),
        ("TRUNCATE a", "DELETE a"),
        ("DROP TABLE a, b", "ADMIN a, ADMIN b"),
        ("ALTER TABLE a ADD COLUMN x BIGINT", "ADMIN a"),
        ("CREATE INDEX ON a USING hnsw (v vector_l2_ops)", "ADMIN a"),
        ("DROP INDEX nosuch", "ADMIN None"),
        ("CREATE TABLE a (id BIGINT)", "ADMIN None"),
        ("CREATE TABLE a AS SELECT * FROM b", "ADMIN None"),
        ("GRANT SELECT ON a TO b", "ADMIN None"),
        ("KILL 1", "ADMIN None"),
    ],
)  # fmt: skip
def test_what_a_statement_needs(text: str, wanted: str) -> None:
    (statement,) = parse(text)
    found = {f"{need.action} {need.table}" for need in needs(statement, CatalogView(1, {}))}
    assert ", ".join(sorted(found)) == wanted


def test_a_kind_of_statement_that_nobody_opened_needs_an_administrator() -> None:
    class Novelty(statements.Statement):
        """Whatever comes later."""

    (need,) = needs(Novelty(text=""), CatalogView(1, {}))
    assert (need.action, need.table) == ("ADMIN", None)

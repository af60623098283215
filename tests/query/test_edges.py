"""Edges of statements: names that are words of SQL or of no alphabet here, the same name twice,
nothing to find, more asked than there is, much text, much nesting.
"""

from __future__ import annotations

from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from support.sql import Sql


@pytest.fixture
def odd(sql: Sql) -> Sql:
    """A table whose names are words of SQL, letters of other alphabets, or hold quotes."""
    sql.run(
        'CREATE TABLE "select" ("order" BIGINT PRIMARY KEY, "FROM" TEXT, "größe" DOUBLE, '
        '"向量" VECTOR(2), "a""b" INTEGER)'
    )
    sql.run(
        """INSERT INTO "select" VALUES (1, 'x', 1.5, '[0,0]', 10), (2, 'y', 2.5, '[1,0]', 20),
        (3, 'z', 3.5, '[2,0]', 30), (4, NULL, NULL, NULL, NULL)"""
    )
    sql.run('CREATE VIEW "ansicht ü" AS SELECT "order" AS "limit", "向量" AS v FROM "select"')
    return sql


NAMED = """
SELECT "order" FROM "select" ORDER BY "向量" <-> '[2,0]' LIMIT 2
SELECT s."a""b" FROM "select" AS s WHERE s."größe" > 2 ORDER BY s."向量" <-> '[0,0]' LIMIT 1
SELECT x."order" AS "group" FROM (SELECT * FROM "select") x ORDER BY x."向量" <=> '[1,1]' LIMIT 2
SELECT "limit" FROM "ansicht ü" ORDER BY v <-> '[2,0]' LIMIT 1
SELECT "LIMIT" FROM "Ansicht Ü" "where" WHERE "where".V <-> '[0,0]' < 1.5 ORDER BY 1
WITH "from" AS (SELECT "order" AS "a b", "向量" AS "c" FROM "select")
    SELECT "a b" FROM "from" ORDER BY "c" <-> '[1,0]', "a b" LIMIT 3
SELECT q."order" FROM "select" q CROSS JOIN LATERAL (SELECT d."order" AS n FROM "select" d
    WHERE d."order" <> q."order" ORDER BY d."向量" <-> q."向量" LIMIT 1) "all"
    WHERE "all".n = 2 ORDER BY 1
SELECT neighbour FROM knn_graph("select", "向量", 1) WHERE id = 1
"""
FOUND = [[3, 2], [20], [2, 3], [3], [1, 2], [2, 1, 3], [1, 3], [2]]


STATEMENTS = NAMED.replace("\n    ", " ").strip().splitlines()


@pytest.mark.parametrize(("text", "expected"), list(zip(STATEMENTS, FOUND, strict=True)))
def test_any_name_may_be_quoted(odd: Sql, text: str, expected: list[Any]) -> None:
    assert [row[0] for row in odd.rows(text)] == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT id, id, vec <-> :q AS id FROM docs ORDER BY vec <-> :q LIMIT 1", ["id"] * 3),
        ("SELECT *, id FROM docs ORDER BY vec <-> :q LIMIT 1",
         ["id", "title", "price", "cat", "vec", "id"]),
        ("SELECT a.id, b.id FROM docs a JOIN docs b ON a.id = b.id ORDER BY a.vec <-> :q LIMIT 1",
         ["id", "id"]),
        ("SELECT s.x, s.x FROM (SELECT id AS x, vec FROM docs) s ORDER BY s.vec <-> :q LIMIT 1",
         ["x", "x"]),
    ],
)  # fmt: skip
def test_the_same_name_twice_is_kept_in_place(docs: Sql, text: str, names: list[str]) -> None:
    result = docs.run(text, {"q": [0, 0]})
    assert [column.name for column in result.columns] == names
    assert result.row_count == 1


@pytest.mark.parametrize(
    ("k", "o", "count"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (1, 28, 1),
        (1, 29, 0),
        (5, 27, 2),
        (100, 0, 29),
        (100, 29, 0),
        (0, 9, 0),
    ],
)
def test_nothing_everything_and_beyond(docs: Sql, k: int, o: int, count: int) -> None:
    given = {"q": [0, 0], "k": k, "o": o}
    for source in ("docs", "(SELECT * FROM docs) s", "(SELECT * FROM docs WHERE id < 99) docs"):
        text = f"SELECT id FROM {source} ORDER BY vec <-> :q LIMIT :k OFFSET :o"
        assert docs.run(text, given).row_count == count
    lateral = "(SELECT d.id FROM docs d ORDER BY d.vec <-> a.vec LIMIT :k OFFSET :o) n"
    joined = f"SELECT n.id FROM docs a, LATERAL {lateral} WHERE a.id = 1"
    assert docs.run(joined, {"k": k, "o": o}).row_count == count


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM t ORDER BY v <-> '[0]' LIMIT 3",
        "SELECT id FROM t WHERE v <-> '[0]' < 9",
        "SELECT a.id FROM t a, LATERAL (SELECT b.id FROM t b ORDER BY b.v <-> a.v LIMIT 2) n",
        "SELECT id FROM (SELECT id * 2 AS id, v FROM t) s ORDER BY v <=> '[1]' LIMIT 3",
        "SELECT id FROM t QUALIFY row_number() OVER (ORDER BY v <-> '[0]') = 1",
        "SELECT * FROM knn_graph(t, v, 3)",
    ],
)
def test_an_empty_table_finds_nothing(sql: Sql, text: str) -> None:
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(1))")
    assert sql.rows(text) == []


def test_a_zero_vector_sorts_last_under_cosine_and_below_no_radius(sql: Sql) -> None:
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(2))")
    sql.run("INSERT INTO t VALUES (1, '[0,0]'), (2, '[1,1]'), (3, NULL), (4, '[0,0]')")
    for source in ("t", "(SELECT id, v FROM t) s"):
        nearest = f"SELECT id FROM {source} ORDER BY v <=> '[1,1]' LIMIT 9"
        assert sql.rows(nearest) == [(2,), (1,), (4,)]
        assert sql.rows(f"SELECT id FROM {source} WHERE v <=> '[1,1]' < 1e30") == [(2,)]


def test_a_long_statement_is_answered(docs: Sql) -> None:
    numbers = ", ".join(str(n) for n in range(1000, 21_000))
    text = f"SELECT id FROM docs WHERE id NOT IN ({numbers}) ORDER BY vec <-> '[0,0]' LIMIT 1"
    assert len(text) > 100_000
    assert docs.rows(text) == [(0,)]


def test_nesting_is_answered_or_refused_by_name(docs: Sql) -> None:
    inner = "SELECT id, vec FROM docs"
    for depth in range(12):
        inner = f"SELECT id, vec FROM ({inner}) s{depth}"
    assert docs.rows(f"{inner} ORDER BY vec <-> '[0,0]' LIMIT 1") == [(0, [0.0, 0.0])]
    assert "VectorSearch" in "".join(docs.explain(f"{inner} ORDER BY vec <-> '[0,0]' LIMIT 1"))
    for depth in range(200):
        inner = f"SELECT id, vec FROM ({inner}) t{depth}"
    with pytest.raises(NearQLError) as found:
        docs.run(f"{inner} ORDER BY vec <-> '[0,0]' LIMIT 1")
    assert found.value.code == "statement_too_complex"

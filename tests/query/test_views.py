"""CREATE VIEW: what a view means, what it may not be, and searches through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.errors import NearQLError
from nearql.server.config import Config, LimitsSection, NodeSection
from nearql.server.node import Node
from support.sql import Sql


class NodeSql(Sql):
    """The session of a real node: views are metadata."""

    def __init__(self, node: Node) -> None:
        self.database = node  # type: ignore[assignment]
        self.session = node.session()


def open_node(directory: Path, **limits: Any) -> Node:
    config = Config(node=NodeSection(data_dir=directory), limits=LimitsSection(**limits))
    return Node.open(config)


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[Sql]:
    """Table `docs` on a real node."""
    made = NodeSql(open_node(tmp_path / "data"))
    made.run("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, price DOUBLE, vec VECTOR(2))")
    made.run(
        "INSERT INTO docs VALUES (1, 'a', 1, '[0,0]'), (2, 'b', 2, '[1,0]'), (3, 'c', 3, '[2,0]'), "
        "(4, NULL, 4, NULL)"
    )
    yield made
    made.database.close()


def code(sql: Sql, text: str, params: Any = None) -> str:
    """The code of the error that a statement ends with, and that nothing changed."""
    before = sql.database.catalog()
    with pytest.raises(NearQLError) as found:
        sql.run(text, params)
    assert sql.database.catalog() is before
    return found.value.code


# ---- what a view means ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "statement", "expected"),
    [
        ("SELECT * FROM docs WHERE price > 1", "SELECT id FROM v ORDER BY id", [2, 3, 4]),
        ("SELECT id, title FROM docs", "SELECT max(title) FROM v", ["c"]),
        ("SELECT id + 1 AS n FROM docs", "SELECT v.n FROM v WHERE n > 3 ORDER BY n", [4, 5]),
        ("VALUES (1), (2)", "SELECT count(*) FROM v", [2]),
        ("WITH x AS (SELECT id FROM docs) SELECT * FROM x", "SELECT sum(id) FROM v", [10]),
        ("SELECT 1 AS one UNION ALL SELECT 2", "SELECT one FROM v ORDER BY one DESC", [2, 1]),
        ("SELECT id FROM public.docs", "SELECT count(*) FROM main.v", [4]),
        ("SELECT count(*) AS n FROM nearql.tables", "SELECT n FROM v", [1]),
        ("SELECT id, vec FROM docs", "SELECT id FROM v ORDER BY vec <-> '[2,1]' LIMIT 2", [3, 2]),
        ("SELECT id FROM docs ORDER BY vec <-> '[2,1]' LIMIT 2", "SELECT sum(id) FROM v", [5]),
        ("SELECT id, vec <-> '[2,0]' AS d FROM docs", "SELECT id FROM v ORDER BY d LIMIT 1", [3]),
        ("SELECT id, price FROM docs", "SELECT sum(v.price) FROM v NATURAL JOIN docs", [10.0]),
    ],
)
def test_a_view_is_its_query(sql: Sql, body: str, statement: str, expected: list[Any]) -> None:
    sql.run(f"CREATE VIEW v AS {body}")
    assert [row[0] for row in sql.rows(statement)] == expected


def test_names_given_to_columns(sql: Sql) -> None:
    sql.run('CREATE VIEW v (number, "The Title") AS SELECT id, title, vec FROM docs')
    result = sql.run("SELECT * FROM v ORDER BY number LIMIT 1")
    assert [c.name for c in result.columns] == ["number", "The Title", "vec"]
    assert sql.rows("SELECT \"the title\" FROM v ORDER BY vec <-> '[2,0]' LIMIT 1") == [("c",)]


def test_a_column_added_later_is_not_in_the_star_of_an_older_view(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT * FROM docs; ALTER TABLE docs ADD COLUMN later INT")
    assert [c.name for c in sql.run("SELECT * FROM v").columns] == ["id", "title", "price", "vec"]
    assert sql.run("SELECT * FROM v ORDER BY vec <-> '[0,0]' LIMIT 1").table.num_columns == 4


def test_a_view_looks_past_the_names_of_with(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT id FROM docs")
    assert sql.rows(
        "WITH docs AS (SELECT 9 AS id) SELECT max(v.id), max(docs.id) FROM v, docs"
    ) == [(4, 9)]
    assert sql.rows("WITH v AS (SELECT 7 AS id) SELECT id FROM v") == [(7,)]
    assert sql.rows("WITH v AS (SELECT 7 AS id) SELECT count(*) FROM main.v") == [(4,)]


def test_views_over_views(sql: Sql) -> None:
    sql.run("CREATE VIEW a AS SELECT * FROM docs; CREATE VIEW b AS SELECT id, vec FROM a")
    sql.run("CREATE VIEW c AS SELECT b.id, b.vec FROM b JOIN a ON a.id = b.id WHERE a.price > 1")
    assert sql.rows("SELECT id FROM c ORDER BY vec <-> '[0,0]' LIMIT 5") == [(2,), (3,)]
    assert "VectorSearch" in "".join(
        sql.explain("SELECT id FROM b ORDER BY vec <-> '[0,0]' LIMIT 5")
    )


def test_a_view_follows_its_table(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT count(*) AS n FROM docs")
    assert sql.rows("SELECT n FROM v") == [(4,)]
    sql.run("INSERT INTO docs (id) VALUES (5)")
    assert sql.rows("SELECT n FROM v") == [(5,)]


def test_views_feed_writes(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT id, price FROM docs WHERE id < 3")
    sql.run("INSERT INTO docs (id, price) SELECT id + 10, price FROM v")
    sql.run("UPDATE docs SET title = 'v' WHERE id IN (SELECT id FROM v)")
    sql.run("DELETE FROM docs USING v WHERE v.id + 10 = docs.id AND v.id = 1")
    assert sql.rows("SELECT id, title FROM docs ORDER BY id") == [
        (1, "v"), (2, "v"), (3, "c"), (4, None), (12, None)
    ]  # fmt: skip


def test_views_survive_a_restart(tmp_path: Path) -> None:
    first = NodeSql(open_node(tmp_path / "d"))
    first.run("CREATE TABLE t (id INT PRIMARY KEY); CREATE VIEW v AS SELECT id * 2 AS d FROM t")
    first.run("INSERT INTO t VALUES (4)")
    first.database.close()
    again = NodeSql(open_node(tmp_path / "d"))
    assert again.rows("SELECT d FROM v") == [(8,)]
    again.database.close()


def test_views_are_listed_and_described(sql: Sql) -> None:
    sql.run(
        "CREATE VIEW v AS SELECT id, vec FROM docs; CREATE VIEW w (n) AS SELECT v.id FROM v, docs"
    )
    assert sql.rows("SHOW VIEWS") == [
        ("v", "SELECT id, vec FROM docs", ["id", "vec"], ["docs"]),
        ("w", "SELECT v.id FROM v, docs", ["n"], ["docs", "v"]),
    ]
    assert sql.rows("DESCRIBE v") == [
        ("id", "BIGINT", True, None, False), ("vec", "VECTOR(2)", True, None, False)
    ]  # fmt: skip
    assert [row[0] for row in sql.rows("SHOW TABLES")] == ["docs"]


# ---- replacing and dropping ---------------------------------------------------------------


def test_or_replace_gives_another_query(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT id FROM docs; CREATE VIEW w AS SELECT id FROM v")
    sql.run("CREATE OR REPLACE VIEW V AS SELECT id + 100 AS id, 1 AS more FROM docs")
    assert sql.rows("SELECT min(id) FROM w") == [(101,)]
    assert code(sql, "CREATE OR REPLACE VIEW v AS SELECT price FROM docs") == "dependent_object"
    assert code(sql, "CREATE OR REPLACE VIEW v AS SELECT * FROM w") == "dependent_object"
    assert code(sql, "CREATE VIEW v AS SELECT 1 AS id") == "duplicate_table"
    assert sql.run("CREATE VIEW IF NOT EXISTS v AS SELECT 1 AS id").notices


def test_a_table_goes_with_its_views_or_not_at_all(sql: Sql) -> None:
    sql.run("CREATE TABLE other (id INT PRIMARY KEY)")
    sql.run("CREATE VIEW v AS SELECT id FROM docs; CREATE VIEW w AS SELECT id FROM v")
    assert code(sql, "DROP TABLE other, docs") == "dependent_object"
    assert code(sql, "DROP TABLE docs RESTRICT") == "dependent_object"
    assert code(sql, "DROP VIEW v") == "dependent_object"
    sql.run("DROP TABLE docs CASCADE")
    assert (sql.rows("SHOW VIEWS"), len(sql.rows("SHOW TABLES"))) == ([], 1)


@pytest.mark.parametrize("statement", ["DROP VIEW v, w", "DROP VIEW w, v", "DROP VIEW v CASCADE"])
def test_views_are_dropped_together(sql: Sql, statement: str) -> None:
    sql.run("CREATE VIEW v AS SELECT id FROM docs; CREATE VIEW w AS SELECT id FROM v")
    sql.run(statement)
    assert sql.rows("SHOW VIEWS") == []
    sql.run("DROP TABLE docs")


def test_dropping_what_is_not_there(sql: Sql) -> None:
    sql.run("CREATE VIEW views AS SELECT 1 AS a")
    assert code(sql, "DROP VIEW viws") == "undefined_table"
    assert sql.run("DROP VIEW IF EXISTS gone").notices
    assert code(sql, "DROP VIEW docs") == "wrong_object"
    assert code(sql, "DROP VIEW IF EXISTS docs") == "wrong_object"
    assert code(sql, "DROP TABLE views") == "wrong_object"
    assert code(sql, "DROP TABLE IF EXISTS views") == "wrong_object"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE docs DROP COLUMN title",
        "ALTER TABLE docs RENAME COLUMN title TO name",
        "ALTER TABLE docs RENAME TO papers",
    ],
)
def test_what_a_view_names_stays(sql: Sql, statement: str) -> None:
    sql.run("CREATE VIEW v AS SELECT title AS t FROM docs; CREATE VIEW w AS SELECT t FROM v")
    assert code(sql, statement) == "dependent_object"
    sql.run("ALTER TABLE docs DROP COLUMN price")
    sql.run("DROP VIEW v CASCADE")
    sql.run(statement)


# ---- what a view may not be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE VIEW docs AS SELECT 1 AS a", "duplicate_table"),
        ("CREATE VIEW v AS SELECT nope FROM docs", "undefined_column"),
        ("CREATE VIEW v AS SELECT id FROM nope", "undefined_table"),
        ("CREATE VIEW v AS SELECT id FROM v", "undefined_table"),
        ("CREATE VIEW v AS SELECT id, id FROM docs", "duplicate_column"),
        ("CREATE VIEW v (a, A) AS SELECT id, title FROM docs", "duplicate_column"),
        ("CREATE VIEW v (a, b) AS SELECT id FROM docs", "syntax_error"),
        ("CREATE VIEW v AS SELECT * FROM read_csv('/etc/passwd')", "undefined_function"),
        ("CREATE VIEW v AS SELECT * FROM duckdb_settings()", "undefined_function"),
        ("CREATE VIEW v AS SELECT * FROM information_schema.tables", "unsupported"),
        ("CREATE VIEW v AS INSERT INTO docs (id) VALUES (9)", "syntax_error"),
        ("CREATE VIEW nearql AS SELECT 1 AS a", "reserved_name"),
        ("CREATE VIEW v (nq0_1) AS SELECT 1 AS a", "reserved_name"),
        ("CREATE VIEW v WITH (x = 1) AS SELECT 1 AS a", "unsupported"),
        ("CREATE VIEW v", "syntax_error"),
        ("CREATE VIEW v AS", "syntax_error"),
        ("CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1 AS a", "unsupported"),
        ("CREATE OR REPLACE TABLE t (id INT)", "unsupported"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 AS a", "unsupported"),
        ("ALTER VIEW v RENAME TO w", "unsupported"),
    ],
)
def test_a_view_that_cannot_be_is_refused_by_name(sql: Sql, statement: str, expected: str) -> None:
    assert code(sql, statement) == expected


def test_a_view_takes_no_parameters(sql: Sql) -> None:
    with pytest.raises(NearQLError, match="takes no parameters") as found:
        sql.run("CREATE VIEW v AS SELECT id FROM docs ORDER BY vec <-> :q LIMIT 1", {"q": [0, 0]})
    assert found.value.position == 56


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO v VALUES (1)",
        "UPDATE v SET id = 1",
        "DELETE FROM v",
        "TRUNCATE v",
        "ALTER TABLE v ADD COLUMN x INT",
        "ALTER TABLE IF EXISTS v ADD COLUMN x INT",
        "CREATE INDEX ON v USING hnsw (vec)",
        "REINDEX TABLE v",
    ],
)
def test_a_view_cannot_be_written(sql: Sql, statement: str) -> None:
    sql.run("CREATE VIEW v AS SELECT * FROM docs")
    assert code(sql, statement) == "wrong_object"
    assert code(sql, "CREATE TABLE V (id INT)") == "duplicate_table"
    assert code(sql, "ALTER TABLE docs RENAME TO v") == "duplicate_table"


def test_what_is_wrong_with_a_query_over_a_view_is_told(sql: Sql) -> None:
    sql.run("CREATE VIEW v AS SELECT id FROM docs")
    with pytest.raises(NearQLError) as found:
        sql.run("SELECT title FROM v")
    assert (found.value.code, found.value.position) == ("undefined_column", 8)
    assert code(sql, "SELECT id FROM w") == "undefined_table"


def test_views_that_multiply_are_cut_off(sql: Sql) -> None:
    sql.run("CREATE VIEW v0 AS SELECT 1 AS a")
    for n in range(5):
        sql.run(f"CREATE VIEW v{n + 1} AS SELECT x.a FROM v{n} x, v{n} y")
    assert sql.rows("SELECT a FROM v5") == [(1,)]
    assert code(sql, "CREATE VIEW v6 AS SELECT x.a FROM v5 x, v5 y") == "statement_too_complex"


def test_the_number_of_views_is_bounded(tmp_path: Path) -> None:
    sql = NodeSql(open_node(tmp_path / "d", max_views=1))
    sql.run("CREATE VIEW v AS SELECT 1 AS a; CREATE OR REPLACE VIEW v AS SELECT 2 AS a")
    assert code(sql, "CREATE VIEW w AS SELECT 1 AS a") == "too_many_views"
    sql.database.close()

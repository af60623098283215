"""The short way through VALUES gives what sqlglot gives, or leaves it to sqlglot."""

from __future__ import annotations

import pytest

from nearql.query.dialect.cursor import parse_tokens
from nearql.query.dialect.lexer import split
from nearql.query.dialect.values import literal_values
from support.sql import Sql


@pytest.mark.parametrize(
    "text",
    [
        "VALUES (1)",
        "VALUES (1, 'a', NULL, true, FALSE, -5, :q, 1.5e3, -0.5, 1_000, - 1, 5., '')",
        "VALUES (1, 'it''s'), (2, 'b;c'), ($1, $name), (NULL, '[1, 2]')",
    ],
)
def test_literals_and_parameters_are_read_the_short_way(text: str) -> None:
    """To the same tree."""
    (source,) = split(text)
    made = literal_values(source.tokens)
    assert made is not None
    assert made == parse_tokens(source, source.tokens)


@pytest.mark.parametrize(
    "text",
    [
        "VALUES (1 + 1)", "VALUES (f(1))", "VALUES ((1))", "VALUES (-1::INT)", "VALUES (DEFAULT)",
        "VALUES (E'a')", "VALUES ($$a$$)", "VALUES (1) x", "VALUES", "VALUES ()", "VALUES (1,)",
        "VALUES (1),", "VALUES (1) (2)", "VALUES 1", "VALUES (- -1)", "VALUES ([1])", "VALUES (a)",
        "VALUES (1), (SELECT 1)", "VALUES (.5)", "VALUES (DATE '2024-01-01')",
    ],
)  # fmt: skip
def test_anything_else_is_left_to_sqlglot(text: str) -> None:
    """Right or wrong."""
    (source,) = split(text)
    assert literal_values(source.tokens) is None


def test_rows_arrive(sql: Sql) -> None:
    """Through a session, both ways at once."""
    sql.run("CREATE TABLE t (id INT PRIMARY KEY, a TEXT, v VECTOR(2))")
    sql.run("INSERT INTO t VALUES (1, 'x', '[1,2]'), (-2, :a, NULL)", {"a": "y"})
    sql.run("INSERT INTO t VALUES (3, 'z' || 'z', ARRAY[5, 6])")
    rows = [(-2, "y", None), (1, "x", [1.0, 2.0]), (3, "zz", [5.0, 6.0])]
    assert sql.rows("SELECT * FROM t ORDER BY id") == rows

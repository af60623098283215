"""DEFAULT NULL is a column without a default."""

from __future__ import annotations

from nearql.query.dialect import parse
from nearql.query.statements import CreateTable


def test_default_null_stands_where_any_default_may() -> None:
    text = "CREATE TABLE t (id BIGINT DEFAULT NULL PRIMARY KEY, a TEXT DEFAULT NULL, b TEXT NULL)"
    (statement,) = parse(text)
    assert isinstance(statement, CreateTable)
    assert [column.default for column in statement.columns] == [None, None, None]
    assert [column.not_null for column in statement.columns] == [True, False, False]

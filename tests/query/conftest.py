"""One small database for each test that asks for `sql`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.sql import Sql


@pytest.fixture
def sql() -> Iterator[Sql]:
    """An empty database."""
    made = Sql()
    yield made
    made.database.close()


@pytest.fixture
def docs(sql: Sql) -> Sql:
    """Table `docs` of 30 rows on a small grid, so that distances tie; row 3 has no vector."""
    columns = "id BIGINT PRIMARY KEY, title TEXT, price DOUBLE, cat TEXT, vec VECTOR(2)"
    sql.run(f"CREATE TABLE docs ({columns})")
    for i in range(30):
        vec = None if i == 3 else [float(i % 5), float(i // 5)]
        sql.run(
            "INSERT INTO docs VALUES (:i, :t, :p, :c, :v)",
            {"i": i, "t": f"title {i}", "p": i * 1.5, "c": "ab"[i % 2], "v": vec},
        )
    return sql

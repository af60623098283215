"""Nobody breaks out: each attempt is refused with an error that says what, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.errors import NearQLError, StatementTimeout
from nearql.query import duck
from support.escapes import ESCAPES, TRICKS
from support.sql import Sql

ALL: list[tuple[str, Any]] = [*((text, None) for text in ESCAPES), *TRICKS]


@pytest.fixture(scope="module")
def docs() -> Iterator[Sql]:
    """Two tables that every attempt sees."""
    made = Sql()
    made.run("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, vec VECTOR(2))")
    made.run("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    made.run("INSERT INTO docs VALUES (1, 'one', '[1,2]'), (2, 'two', '[3,4]')")
    yield made
    made.database.close()


def state(sql: Sql) -> Any:
    """Everything that an attempt might have changed."""
    catalog = sql.database.catalog()
    tables = {name: table.schema for name, table in catalog.tables.items()}
    rows = sql.run("SELECT * FROM docs ORDER BY id").table.to_pylist()
    with duck.shared().cursor() as cursor:
        kept = cursor.query(
            "SELECT name, value FROM duckdb_settings() WHERE name IN ('enable_external_access', "
            "'lock_configuration', 'memory_limit', 'threads', 'autoload_known_extensions')"
        ).table.to_pylist()
        left = cursor.query("SELECT table_name FROM duckdb_tables()").table.to_pylist()
    return tables, rows, kept, left


def test_there_are_many() -> None:
    """The suite is worth something only while it is long."""
    assert len({text for text, _ in ALL}) >= 220
    assert len(ESCAPES) == len(set(ESCAPES))


@pytest.mark.parametrize(("text", "params"), ALL, ids=range(len(ALL)))
def test_an_attempt_is_refused_and_changes_nothing(
    docs: Sql, text: str, params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its text or by a bound, never by the clock; with a place in the text where it has one."""
    monkeypatch.chdir(tmp_path)
    before = state(docs)
    with pytest.raises(NearQLError) as caught:
        docs.run(text, params)
    error = caught.value
    assert error.http_status in (400, 403, 404, 413), error
    assert not isinstance(error, StatementTimeout)
    assert error.definite
    assert "nq0_" not in error.detail or "nq0_" in text
    assert state(docs) == before
    assert not list(tmp_path.iterdir())

"""UPDATE and DELETE by primary key: no scan, and the same rows as with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nearql.engine.errors import InvalidValue
from nearql.engine.view import TableView
from nearql.query import changes
from support.sql import Sql

ROWS = 60


def filled(kind: str) -> Sql:
    """A table whose keys are `kind`: numbers, texts or UUIDs."""
    sql = Sql()
    made = {
        "BIGINT": "i", "SMALLINT": "i", "TEXT": "'k''' || i",
        "UUID": "'00000000-0000-0000-0000-' || lpad(i::TEXT, 12, '0')",
    }[kind]  # fmt: skip
    sql.run(
        f"CREATE TABLE docs (id {kind} PRIMARY KEY, title TEXT, n INTEGER, half HALFVEC(2), "
        "bits BIT(3), vec VECTOR(2)) WITH (shards = 2)"
    )
    sql.run(
        f"INSERT INTO docs SELECT {made}, 'title ' || i, i % 7, [i, 1], '101', [i, -i] "
        f"FROM range({ROWS}) t(i)"
    )
    return sql


@pytest.fixture
def numbered() -> Iterator[Sql]:
    """Keys are 0 to 59."""
    sql = filled("BIGINT")
    yield sql
    sql.database.close()


def rows(sql: Sql) -> list[Any]:
    """The whole table."""
    return sorted(sql.rows("SELECT * FROM docs"), key=repr)


def never(*_: Any, **__: Any) -> Any:
    """Stands for a scan."""
    raise AssertionError("the table was scanned")


KEYED = [
    ("UPDATE docs SET n = n + 1 WHERE id = 7", None, 1),
    ("UPDATE docs SET n = 9, vec = '[5, 5]' WHERE 7 = docs.id AND n >= 0", None, 1),
    ("UPDATE docs d SET title = d.title || '!', half = d.half WHERE d.id = :id", {"id": 3}, 1),
    ("UPDATE docs SET n = NULL WHERE id = :id AND title = 'nothing'", {"id": 3}, 0),
    ("UPDATE docs SET bits = '011' WHERE (id IN (1, 2, 2, 99, NULL))", None, 2),
    ("UPDATE docs SET n = 4 WHERE id IN (SELECT unnest(:ids))", {"ids": [5, 6, 500]}, 2),
    ("DELETE FROM docs WHERE id = 7", None, 1),
    ("DELETE FROM docs WHERE id = 7 RETURNING *", None, 1),
    ("DELETE FROM docs WHERE id = -7", None, 0),
    ("DELETE FROM docs WHERE id = ANY(:ids)", {"ids": [1, 2, None]}, 2),
    ("DELETE FROM docs WHERE id = ANY([3, 4]) AND FALSE", None, 0),
    ("DELETE FROM docs WHERE id = NULL", None, 0),
    ("DELETE FROM docs WHERE id = :id", {"id": None}, 0),
    ("DELETE FROM docs WHERE id = 1 AND vec <-> '[1, -1]' >= 0", None, None),
]
READ = [
    ("DELETE FROM docs WHERE id = 1 OR n = 3", None),
    ("DELETE FROM docs WHERE NOT id = 1", None),
    ("DELETE FROM docs WHERE id NOT IN (1, 2)", None),
    ("DELETE FROM docs WHERE id = 1.0", None),
    ("DELETE FROM docs WHERE id = '1'", None),
    ("DELETE FROM docs WHERE id = :id", {"id": 1.0}),
    ("DELETE FROM docs WHERE id = :id", {"id": True}),
    ("DELETE FROM docs WHERE id = 1 AND n <= (SELECT max(n) FROM docs)", None),
    ("DELETE FROM docs WHERE id IN (SELECT id FROM docs WHERE n = 2)", None),
    ("DELETE FROM docs WHERE id = n", None),
    ("DELETE FROM docs WHERE id = 100000000000000000000000", None),
    ("UPDATE docs SET n = o.n FROM docs o WHERE docs.id = 1 AND o.id = 2", None),
    ("UPDATE docs SET n = (SELECT count(*) FROM docs) WHERE id = 1", None),
    (f"DELETE FROM docs WHERE id IN ({', '.join(map(str, range(50)))})", None),
]


def by_scan(text: str, params: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """(answer, table) where no key is ever looked up."""
    sql = filled("BIGINT")
    with monkeypatch.context() as patch:
        patch.setattr(changes, "keys_named", lambda *_: None)
        answer = sql.rows(text, params)
    left = rows(sql)
    sql.database.close()
    return answer, left


@pytest.mark.parametrize(("text", "params", "count"), KEYED)
def test_rows_named_by_their_key_are_found_without_a_scan(
    numbered: Sql, text: str, params: Any, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_scan(text, params, monkeypatch)
    with monkeypatch.context() as patch:
        if count is not None:
            patch.setattr(TableView, "scan", never)
        answer = numbered.rows(text, params)
    assert (answer, rows(numbered)) == expected
    assert count is None or ROWS - len(rows(numbered)) == ("DELETE" in text) * count


@pytest.mark.parametrize(("text", "params"), READ)
def test_what_may_mean_other_rows_too_reads_the_table(
    numbered: Sql, text: str, params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_scan(text, params, monkeypatch)
    assert (numbered.rows(text, params), rows(numbered)) == expected


@pytest.mark.parametrize("others", ["", "1, " * 300])
def test_a_number_too_long_for_python_is_an_error_of_its_statement(
    numbered: Sql, others: str
) -> None:
    before = rows(numbered)
    with pytest.raises(InvalidValue):
        numbered.run(f"DELETE FROM docs WHERE id IN ({others}{'9' * 5000})")
    assert rows(numbered) == before


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("TEXT", "k'7"),
        ("UUID", "00000000-0000-0000-0000-000000000007"),
        ("SMALLINT", 7),
    ],
)
def test_keys_of_every_kind_are_looked_up(
    kind: str, key: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = filled(kind)
    with monkeypatch.context() as patch:
        patch.setattr(TableView, "scan", never)
        assert sql.run("UPDATE docs SET n = 70 WHERE id = :id", {"id": key}).row_count == 1
        assert sql.run("DELETE FROM docs WHERE id IN (:id)", {"id": key}).row_count == 1
    assert len(rows(sql)) == ROWS - 1
    assert "title 7" not in {title for _, title, *_ in rows(sql)}
    sql.database.close()


def test_a_long_list_of_keys_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = Sql()
    sql.run("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)")
    sql.run("INSERT INTO t SELECT i, 'n' FROM range(5000) t(i)")
    sql.run("CREATE TABLE s (id TEXT PRIMARY KEY, name TEXT)")
    sql.run("INSERT INTO s SELECT 'it''s ' || i, 'n' FROM range(5000) t(i)")
    numbers = ", ".join(str(i) for i in range(0, 3000, 6))
    texts = ", ".join(f"'it''s {i}'" for i in range(0, 3000, 6))
    with monkeypatch.context() as patch:
        patch.setattr(TableView, "scan", never)
        assert sql.run(f"DELETE FROM t WHERE id IN ({numbers})").row_count == 500
        assert sql.run(f"DELETE FROM s WHERE id IN ({texts})").row_count == 500
    assert sql.rows("SELECT count(*), min(id) FROM t") == [(4500, 1)]
    sql.database.close()

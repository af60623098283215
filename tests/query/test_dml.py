"""INSERT, UPDATE, DELETE, TRUNCATE: what is written, what is refused, what is returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nearql.engine.errors import (
    Conflict,
    InvalidRequest,
    InvalidValue,
    NearQLError,
    NotFound,
    SqlError,
)
from support.sql import Sql

COLUMNS = (
    "id BIGINT PRIMARY KEY, title TEXT DEFAULT 'none', n INTEGER NOT NULL DEFAULT 7, at TIMESTAMP, "
    "vec VECTOR(2), CHECK (n < 100)"
)


@pytest.fixture
def items(sql: Sql) -> Sql:
    """A table with defaults and constraints, and three rows."""
    sql.run(f"CREATE TABLE items ({COLUMNS})")
    rows = "(1, 'a', 1, NULL, '[1,1]'), (2, 'b', 2, NULL, '[2,2]'), (3, 'c', 3, NULL, NULL)"
    sql.run(f"INSERT INTO items VALUES {rows}")
    return sql


def everything(sql: Sql) -> list[tuple[Any, ...]]:
    """id, title, n, vec of all rows."""
    return sql.rows("SELECT id, title, n, vec FROM items ORDER BY id")


BEFORE = [(1, "a", 1, [1.0, 1.0]), (2, "b", 2, [2.0, 2.0]), (3, "c", 3, None)]


# ---- INSERT ---------------------------------------------------------------------------


def test_values_of_every_kind_are_stored(items: Sql) -> None:
    items.run(
        "INSERT INTO items VALUES (10, :t, -:n + 1, now(), ARRAY[1, 2]), "
        "(11, upper('x') || :t, DEFAULT, TIMESTAMP '2020-01-02', :v), "
        "('12', NULL, 1.6, '2020-01-02 03:04:05', '[5,6]'::vector(2))",
        {"t": "t", "n": 3, "v": np.array([3, 4], np.float32)},
    )
    rows = items.rows("SELECT id, title, n, vec, year(at) FROM items WHERE id > 9 ORDER BY id")
    assert rows[0][:4] == (10, "t", -2, [1.0, 2.0])
    assert rows[1] == (11, "Xt", 7, [3.0, 4.0], 2020)
    assert rows[2] == (12, None, 2, [5.0, 6.0], 2020)


def test_columns_left_out_get_their_defaults(items: Sql) -> None:
    result = items.run("INSERT INTO items (vec, id) VALUES ('[1,2]', 20), (NULL, 21)")
    assert (result.kind, result.row_count, result.columns) == ("dml", 2, ())
    assert everything(items)[3:] == [(20, "none", 7, [1.0, 2.0]), (21, "none", 7, None)]


def test_fewer_values_than_columns_fill_from_the_left(items: Sql) -> None:
    items.run("INSERT INTO items VALUES (20), (21)")
    assert everything(items)[3:] == [(20, "none", 7, None), (21, "none", 7, None)]


def test_insert_select_maps_by_place_or_by_name(items: Sql) -> None:
    items.run("INSERT INTO items (id, n) SELECT id + 100, n * 2 FROM items WHERE n < 3")
    items.run("INSERT INTO items BY NAME SELECT vec, id + 200 AS id FROM items WHERE id = 1")
    assert everything(items)[3:] == [
        (101, "none", 2, None), (102, "none", 4, None), (201, "none", 7, [1.0, 1.0]),
    ]  # fmt: skip


def test_insert_select_may_search(items: Sql) -> None:
    items.run(
        "INSERT INTO items SELECT id + 10, title, n, at, vec FROM items "
        "ORDER BY vec <-> '[2,2]' LIMIT 1"
    )
    assert everything(items)[3:] == [(12, "b", 2, [2.0, 2.0])]


def test_identity_numbers_are_given(sql: Sql) -> None:
    sql.run("CREATE TABLE t (id BIGSERIAL PRIMARY KEY, x INT); INSERT INTO t (x) VALUES (5), (6)")
    assert sql.rows("INSERT INTO t DEFAULT VALUES RETURNING id, x") == [(3, None)]
    assert sql.rows("INSERT INTO t VALUES (DEFAULT, 9), (100, 10) RETURNING id") == [(4,), (100,)]
    assert sql.rows("SELECT count(DISTINCT id) FROM t") == [(5,)]


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("INSERT INTO items (id) VALUES (1)", "duplicate_key", "Row 1"),
        ("INSERT INTO items (id) VALUES (9), (9)", "duplicate_key", "Row 2"),
        ("INSERT INTO items (id) VALUES (9), (NULL)", "not_null_violation", "Row 2: Column 'id'"),
        ("INSERT INTO items (id, n) VALUES (9, NULL)", "not_null_violation", "'n'"),
        ("INSERT INTO items (id, n) VALUES (8, 1), (9, 100)", "check_violation", "Row 2"),
        ("INSERT INTO items (id) VALUES ('x')", "invalid_value", "'x' is no BIGINT"),
        ("INSERT INTO items (id, n) VALUES (8, 1), (9, 3000000000)", "out_of_range", "Row 2"),
        ("INSERT INTO items (id, vec) VALUES (9, '[1]')", "wrong_dimensions", "'vec'"),
        ("INSERT INTO items (id, vec) VALUES (9, '[1,NaN]')", "invalid_vector", "'vec'"),
        ("INSERT INTO items (id, vec) VALUES (9, '[1,1e39]')", "invalid_vector", "'vec'"),
        ("INSERT INTO items (id, vec) VALUES (9, 5)", "invalid_vector", "'vec'"),
        ("INSERT INTO items (id, at) VALUES (9, 'soon')", "invalid_value", "TIMESTAMP"),
        ("INSERT INTO items (nope) VALUES (9)", "undefined_column", "'nope'"),
        ("INSERT INTO itmes VALUES (9)", "undefined_table", "'items'"),
        ("INSERT INTO items (id, id) VALUES (9, 9)", "duplicate_column", "twice"),
        ("INSERT INTO items (id, n) VALUES (9)", "syntax_error", "2 columns"),
        ("INSERT INTO items VALUES (9, 'a', 1, NULL, NULL, 1)", "syntax_error", "5 columns"),
        ("INSERT INTO items VALUES (9), (8, 'a')", "syntax_error", "as many values"),
        ("INSERT INTO items (id) SELECT 1, 2", "syntax_error", "returns 2"),
        ("INSERT INTO items (id) SELECT 'x'", "invalid_value", "'x' is no BIGINT"),
        ("INSERT INTO items (id, vec) SELECT 9, [1, 2, 3]", "wrong_dimensions", "got 3"),
        ("INSERT INTO items (id) VALUES ([1])", "invalid_value", "BIGINT"),
    ],
)
def test_a_refused_insert_says_why_and_leaves_nothing(
    items: Sql, text: str, code: str, says: str
) -> None:
    with pytest.raises(NearQLError) as caught:
        items.run(text)
    assert (caught.value.code, caught.value.definite) == (code, True)
    assert says in caught.value.detail
    assert everything(items) == BEFORE


# ---- ON CONFLICT ----------------------------------------------------------------------


def test_do_nothing_keeps_what_is_there(items: Sql) -> None:
    rows = "(1, 'z'), (9, 'i'), (9, 'j')"
    text = f"INSERT INTO items (id, title) VALUES {rows} ON CONFLICT {{}} DO NOTHING"
    result = items.run(text.format("(id)") + " RETURNING id, title")
    assert (result.row_count, result.table.to_pylist()) == (1, [{"id": 9, "title": "i"}])
    assert items.run(text.format("")).row_count == 0
    assert everything(items) == [*BEFORE, (9, "i", 7, None)]


def test_do_update_of_some_columns_keeps_the_others(items: Sql) -> None:
    result = items.run(
        "INSERT INTO items AS t (id, title, n, vec) VALUES (1, 'z', 5, '[8,8]'), (9, 'i', 6, NULL) "
        "ON CONFLICT (id) DO UPDATE SET title = EXCLUDED.title || t.title, n = t.n + EXCLUDED.n "
        "RETURNING id, title, n, vec"
    )
    assert result.row_count == 2
    assert everything(items) == [(1, "za", 6, [1.0, 1.0]), *BEFORE[1:], (9, "i", 6, None)]
    assert result.table.column(0).to_pylist() == [1, 9]


def test_an_upsert_returns_rows_in_the_order_given(items: Sql) -> None:
    rows = "(3), (8), (1), (7), (2)"
    text = f"INSERT INTO items (id) VALUES {rows} ON CONFLICT (id) DO UPDATE SET n = items.n + 1"
    assert items.rows(f"{text} RETURNING id, n") == [(3, 4), (8, 7), (1, 2), (7, 7), (2, 3)]
    with pytest.raises(InvalidValue, match="Row 3: ") as caught:
        items.run(
            "INSERT INTO items (id, n) VALUES (50, 1), (3, 1), (1, 99) "
            "ON CONFLICT (id) DO UPDATE SET n = items.n + EXCLUDED.n"
        )
    assert caught.value.extra["row"] == 2


def test_do_update_takes_vectors_from_excluded(items: Sql) -> None:
    items.run(
        "INSERT INTO items (id, vec) VALUES (2, '[8,8]'), (3, '[9,9]') "
        "ON CONFLICT (id) DO UPDATE SET vec = EXCLUDED.vec"
    )
    assert everything(items) == [BEFORE[0], (2, "b", 2, [8.0, 8.0]), (3, "c", 3, [9.0, 9.0])]


def test_do_update_of_all_columns_replaces(items: Sql) -> None:
    sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in ("title", "n", "at", "vec"))
    result = items.run(
        f"INSERT INTO items VALUES (1, 'z', 5, NULL, '[8,8]') ON CONFLICT (id) DO UPDATE SET {sets}"
    )
    assert result.row_count == 1
    assert everything(items) == [(1, "z", 5, [8.0, 8.0]), *BEFORE[1:]]


def test_do_update_where_leaves_the_others(items: Sql) -> None:
    result = items.run(
        "INSERT INTO items (id, n) VALUES (1, 50), (2, 50) "
        "ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n WHERE items.n > 1"
    )
    assert result.row_count == 1
    assert [row[2] for row in everything(items)] == [1, 50, 3]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("(id) VALUES (1), (1) ON CONFLICT (id) DO UPDATE SET n = 1", "row_affected_twice"),
        ("(id) VALUES (9), (9) ON CONFLICT (id) DO UPDATE SET n = 1", "row_affected_twice"),
        ("(id) VALUES (1) ON CONFLICT (title) DO NOTHING", "invalid_conflict_target"),
        ("(id) VALUES (1) ON CONFLICT (nope) DO NOTHING", "undefined_column"),
        ("(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET nope = 1", "undefined_column"),
        ("(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET n = 1000", "check_violation"),
        ("(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET n = NULL", "not_null_violation"),
        ("(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 5", "key_changed"),
        (
            "(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET title = EXCLUDED.nope",
            "undefined_column",
        ),
        ("(id) VALUES (1) ON CONFLICT (id) DO UPDATE SET n = 'x'", "invalid_value"),
    ],
)
def test_a_refused_upsert_leaves_nothing(items: Sql, text: str, code: str) -> None:
    with pytest.raises(NearQLError) as caught:
        items.run(f"INSERT INTO items {text}")
    assert caught.value.code == code
    assert everything(items) == BEFORE


# ---- UPDATE ---------------------------------------------------------------------------


def test_update_sets_expressions_over_old_values(items: Sql) -> None:
    result = items.run("UPDATE items SET n = n + 1, title = title || n WHERE id < 3")
    assert result.row_count == 2
    assert everything(items) == [(1, "a1", 2, [1.0, 1.0]), (2, "b2", 3, [2.0, 2.0]), BEFORE[2]]


def test_update_of_vectors(items: Sql) -> None:
    items.run("UPDATE items SET vec = :v WHERE id = 3", {"v": [5, 5]})
    items.run("UPDATE items SET vec = vec + '[1,0]' WHERE id = 1")
    items.run("UPDATE items SET vec = NULL WHERE id = 2")
    assert [row[3] for row in everything(items)] == [[2.0, 1.0], None, [5.0, 5.0]]


def test_update_of_nearest_rows(items: Sql) -> None:
    near = "SELECT id FROM items ORDER BY vec <-> '[2,2]' LIMIT 1"
    items.run(f"UPDATE items SET title = 'near' WHERE id IN ({near})")
    items.run("UPDATE items SET n = 50 WHERE vec <-> '[1,1]' < 0.5")
    assert [row[1:3] for row in everything(items)] == [("a", 50), ("near", 2), ("c", 3)]


def test_update_from_another_table(items: Sql) -> None:
    result = items.run(
        "UPDATE items t SET title = s.v, n = s.k * 10 FROM "
        "(VALUES (1, 'one'), (3, 'three'), (8, 'x')) s(k, v) WHERE s.k = t.id RETURNING t.id, title"
    )
    assert sorted(result.table.column(1).to_pylist()) == ["one", "three"]
    assert [row[1:3] for row in everything(items)] == [("one", 10), ("b", 2), ("three", 30)]


def test_update_touches_a_row_once_where_from_matches_twice(items: Sql) -> None:
    assert items.run("UPDATE items SET n = n + 1 FROM range(5) r WHERE id = 1").row_count == 1
    assert everything(items)[0][2] == 2


def test_update_to_default(items: Sql) -> None:
    items.run("UPDATE items SET n = DEFAULT, title = DEFAULT WHERE id = 1")
    assert everything(items)[0] == (1, "none", 7, [1.0, 1.0])


def test_keys_may_change_even_into_each_other(items: Sql) -> None:
    items.run("UPDATE items SET id = 3 - id WHERE id < 3")
    items.run("UPDATE items SET id = id + 10 WHERE id = 3")
    assert [(row[0], row[1]) for row in everything(items)] == [(1, "b"), (2, "a"), (13, "c")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("UPDATE items SET id = 3 WHERE id = 1", "duplicate_key"),
        ("UPDATE items SET id = 9", "duplicate_key"),
        ("UPDATE items SET id = NULL WHERE id = 1", "not_null_violation"),
        ("UPDATE items SET n = n * 1000", "check_violation"),
        ("UPDATE items SET n = NULL", "not_null_violation"),
        ("UPDATE items SET n = 'x'", "invalid_value"),
        ("UPDATE items SET n = title", "invalid_value"),
        ("UPDATE items SET vec = '[1]'", "wrong_dimensions"),
        ("UPDATE items SET vec = [1,2,3]", "wrong_dimensions"),
        ("UPDATE items SET nope = 1", "undefined_column"),
        ("UPDATE items SET n = nope", "undefined_column"),
        ("UPDATE items SET n = 1 WHERE nope", "undefined_column"),
        ("UPDATE itmes SET n = 1", "undefined_table"),
    ],
)
def test_a_refused_update_leaves_nothing(items: Sql, text: str, code: str) -> None:
    with pytest.raises(NearQLError) as caught:
        items.run(text)
    assert caught.value.code == code
    assert everything(items) == BEFORE


# ---- DELETE, TRUNCATE, RETURNING ------------------------------------------------------


def test_delete_by_condition_sub_query_and_other_table(items: Sql) -> None:
    assert items.run("DELETE FROM items WHERE n > 100").row_count == 0
    assert items.run("DELETE FROM items i USING range(3) r WHERE i.id = r.range").row_count == 2
    assert items.rows("DELETE FROM items RETURNING id, title") == [(3, "c")]
    assert everything(items) == []


def test_delete_within_a_radius(items: Sql) -> None:
    assert items.run("DELETE FROM items WHERE vec <-> :q <= 0", {"q": [2, 2]}).row_count == 1
    assert [row[0] for row in everything(items)] == [1, 3]


def test_truncate_counts_rows(items: Sql) -> None:
    assert items.run("TRUNCATE items").row_count == 3
    assert items.run("TRUNCATE TABLE items").row_count == 0
    items.run("INSERT INTO items (id) VALUES (1)")


def test_returning_computes_over_the_rows_written(items: Sql) -> None:
    rows = items.rows(
        "INSERT INTO items (id, vec) VALUES (9, '[3,4]') "
        "RETURNING *, vec <-> '[0,0]' AS d, upper(title)"
    )
    assert rows == [(9, "none", 7, None, [3.0, 4.0], 5.0, "NONE")]
    assert items.rows("DELETE FROM items AS i WHERE id = 9 RETURNING i.n * 2") == [(14,)]


@pytest.mark.parametrize(
    "items_returned", ["(SELECT max(id) FROM items)", "nope", "title::INT", "count(*)", "foo(id)"]
)
@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM items",
        "UPDATE items SET n = 5",
        "INSERT INTO items (id, title) VALUES (9, 'x')",
        "INSERT INTO items (id, title) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET n = 9",
    ],
)
def test_a_write_whose_returning_fails_writes_nothing(
    items: Sql, text: str, items_returned: str
) -> None:
    with pytest.raises(NearQLError):
        items.run(f"{text} RETURNING {items_returned}")
    assert everything(items) == BEFORE


def test_writes_tell_what_they_did(items: Sql) -> None:
    stats = items.run("DELETE FROM items WHERE id = 1").stats
    assert stats["write"] == {"concern": "majority", "committed": True, "copies": 1}
    assert [(one["table"], one["shard"]) for one in stats["shards"]] == [("items", 0)]


def test_a_repeated_request_is_done_once(items: Sql) -> None:
    once = b"0123456789abcdef"
    for _ in range(2):
        result = items.session.execute(
            "UPDATE items SET n = n + 1 WHERE id = 1; INSERT INTO items (id) VALUES (9)",
            request_id=once,
        )
        assert result.row_count == 1
    assert [row[:3] for row in everything(items)] == [
        (1, "a", 2), (2, "b", 2), (3, "c", 3), (9, "none", 7),
    ]  # fmt: skip


def test_halfvec_rows_survive_updates_unchanged(sql: Sql) -> None:
    sql.run("CREATE TABLE h (id INT PRIMARY KEY, x INT, v HALFVEC(3))")
    sql.run("INSERT INTO h VALUES (1, 1, '[0.1, 2.5, -3]'), (2, 2, NULL)")
    before = sql.rows("SELECT v FROM h ORDER BY id")
    sql.run("UPDATE h SET x = x + 1")
    sql.run("INSERT INTO h VALUES (1, 5, NULL) ON CONFLICT (id) DO UPDATE SET x = EXCLUDED.x")
    assert sql.rows("SELECT v FROM h ORDER BY id") == before
    with pytest.raises(InvalidValue, match="range of HALFVEC"):
        sql.run("INSERT INTO h VALUES (3, 1, '[1e6, 0, 0]')")


def test_text_keys_and_uuid_keys(sql: Sql) -> None:
    sql.run(
        "CREATE TABLE t (k TEXT PRIMARY KEY, x INT); CREATE TABLE u (k UUID PRIMARY KEY, x INT)"
    )
    sql.run("INSERT INTO t VALUES ('a', 1) ON CONFLICT (k) DO UPDATE SET x = t.x + EXCLUDED.x")
    sql.run("INSERT INTO t VALUES ('a', 2) ON CONFLICT (k) DO UPDATE SET x = t.x + EXCLUDED.x")
    assert sql.rows("SELECT * FROM t") == [("a", 3)]
    key = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"
    sql.run("INSERT INTO u VALUES (:k, 1)", {"k": key})
    with pytest.raises(Conflict):
        sql.run("INSERT INTO u VALUES (:k, 1)", {"k": key.lower()})
    assert sql.run("DELETE FROM u WHERE k = :k", {"k": key}).row_count == 1
    with pytest.raises(InvalidValue, match="UUID"):
        sql.run("INSERT INTO u VALUES ('x', 1)")


def test_checks_see_every_column(sql: Sql) -> None:
    sql.run(
        "CREATE TABLE t (id INT PRIMARY KEY, j JSON, v VECTOR(2), CHECK (j->>'a' IS NOT NULL), "
        "CHECK (vector_norm(v) <= 1))"
    )
    sql.run("INSERT INTO t VALUES (1, '{\"a\": 1}', '[1,0]')")
    for row in ("2, '{}', NULL", "2, '{\"a\": 1}', '[1,1]'"):
        with pytest.raises(InvalidValue, match="CHECK"):
            sql.run(f"INSERT INTO t VALUES ({row})")
    assert sql.rows("SELECT count(*) FROM t") == [(1,)]


def test_checks_of_a_table_with_half_vectors(sql: Sql) -> None:
    """DuckDB, which evaluates them, knows no float16."""
    sql.run(
        "CREATE TABLE t (id INT PRIMARY KEY, n INT CHECK (n > 0), h HALFVEC(2), "
        "CHECK (vector_norm(h) <= 1))"
    )
    sql.run("INSERT INTO t VALUES (1, 1, '[1,0]'), (2, 1, NULL)")
    sql.run("INSERT INTO t VALUES (1, 2, '[0,1]') ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n")
    sql.run("UPDATE t SET n = n + 1, h = '[0,1]' WHERE id = 1")
    for row in ("3, 0, NULL", "3, 1, '[1,1]'"):
        with pytest.raises(InvalidValue, match="CHECK"):
            sql.run(f"INSERT INTO t VALUES ({row})")
    assert sql.rows("SELECT * FROM t ORDER BY id") == [(1, 3, [0.0, 1.0]), (2, 1, None)]


def test_create_table_as_select(docs: Sql) -> None:
    docs.run(
        "CREATE TABLE near AS SELECT id, vec, vec <-> '[0,0]' AS d FROM docs ORDER BY d LIMIT 5"
    )
    assert docs.rows("SELECT count(*), max(d) FROM near") == [(5, 2.0)]
    assert docs.rows("SELECT id FROM near ORDER BY vec <-> '[0,0]' LIMIT 1") == [(0,)]
    with pytest.raises(SqlError, match="two columns"):
        docs.run("CREATE TABLE twice AS SELECT id, id FROM docs")
    with pytest.raises(InvalidValue):
        docs.run("CREATE TABLE bad (id INT PRIMARY KEY) AS SELECT title FROM docs")
    with pytest.raises(NotFound):
        docs.run("SELECT * FROM bad")


def test_an_upsert_of_nothing_is_nothing(items: Sql) -> None:
    text = "INSERT INTO items (id) SELECT 1 WHERE false ON CONFLICT (id) DO UPDATE SET n = 1"
    assert items.run(text).row_count == 0
    with pytest.raises(InvalidRequest):
        items.run("INSERT INTO items (id) VALUES (1), (1) ON CONFLICT (id) DO UPDATE SET n = 1")


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO made (n) VALUES (1), (2) RETURNING id",
        "UPDATE made SET n = n + 1 WHERE n < 100 RETURNING id, n",
        "DELETE FROM made WHERE n = 10 RETURNING id",
    ],
)
def test_a_repeated_request_returns_no_rows_that_were_never_stored(sql: Sql, text: str) -> None:
    """Numbers would be fresh ones, and the rows that an UPDATE finds now are others."""
    sql.run("CREATE TABLE made (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n INTEGER)")
    sql.run("INSERT INTO made (n) VALUES (10), (20)")
    first = sql.session.execute(text, request_id=b"content1request1")
    assert first.row_count > 0
    before = sql.run("SELECT id, n FROM made ORDER BY id").table.to_pylist()
    again = sql.session.execute(text, request_id=b"content1request1")
    assert again.table.num_rows == 0
    assert again.table.column_names == first.table.column_names
    assert again.row_count == first.row_count
    assert any("was seen before" in notice for notice in again.notices)
    assert sql.run("SELECT id, n FROM made ORDER BY id").table.to_pylist() == before

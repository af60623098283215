"""DuckDB behind its door: functions, isolation of cursors, the lock, time, errors in our words."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue, NearQLError, SqlError, StatementTimeout, TooLarge
from nearql.query import duck
from nearql.query.duck import Cursor


@pytest.fixture
def cursor() -> Iterator[Cursor]:
    """A cursor on the process's database."""
    with duck.shared().cursor() as made:
        yield made


def value(cursor: Cursor, expression: str) -> object:
    """What an expression gives."""
    return cursor.query(f"SELECT {expression} AS v").table.column(0)[0].as_py()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("l2_distance('[1,2]', [4, 6])", 5.0),
        ("nq_l2('[1,2]', [4, 6])", 5.0),
        ("inner_product('[1,2]', '[3,4]')", 11.0),
        ("nq_ip('[1,2]', '[3,4]')", -11.0),
        ("cosine_distance('[1,0]', '[0,1]')", 1.0),
        ("l1_distance('[1,2]', '[3,5]')", 5.0),
        ("nq_l2(NULL, '[1]')", None),
        ("nq_add('[1,2]', '[3,4]')", [4.0, 6.0]),
        ("nq_subtract('[1,2]', '[3,5]')", [-2.0, -3.0]),
        ("nq_multiply('[1,2]', '[3,4]')", [3.0, 8.0]),
        ("vector_dims('[1,2,3]')", 3),
        ("vector_norm('[3,4]')", 5.0),
        ("l2_normalize('[3,4]')", pytest.approx([0.6, 0.8])),
        ("l2_normalize('[0,0]')", [0.0, 0.0]),
        ("subvector('[1,2,3,4]', 2, 2)", [2.0, 3.0]),
        ("subvector('[1,2,3,4]', 0, 2)", [1.0]),
        ("subvector('[1,2,3,4]', 3, 9)", [3.0, 4.0]),
        ("subvector(NULL, 1, 2)", None),
    ],
)
def test_vector_functions(cursor: Cursor, expression: str, expected: object) -> None:
    assert value(cursor, expression) == expected


@pytest.mark.parametrize("piece", ["0, 1", "-1, 2", "2, 0", "4, 1"])
def test_a_subvector_has_a_dimension(cursor: Cursor, piece: str) -> None:
    with pytest.raises(InvalidValue, match="would leave no dimension"):
        value(cursor, f"subvector('[1,2,3]', {piece})")


def test_a_product_of_nothing_has_no_sign(cursor: Cursor) -> None:
    assert str(value(cursor, "inner_product('[0,0]', '[1,2]')")) == "0.0"


def test_a_zero_vector_has_cosine_distance_nan(cursor: Cursor) -> None:
    found = value(cursor, "nq_cos('[0,0]', '[1,1]')")
    assert isinstance(found, float)
    assert math.isnan(found)


def test_vector_aggregates_leave_out_nulls(cursor: Cursor) -> None:
    rows = "(VALUES (1, [1,2]), (1, [3,4]), (1, NULL), (2, NULL)) t(g, v)"
    sql = f"SELECT g, nq_avg(v), nq_sum(v) FROM {rows} GROUP BY g ORDER BY g"
    answer = cursor.query(sql).table
    assert [column.to_pylist() for column in answer.columns] == [
        [1, 2], [[2.0, 3.0], None], [[4.0, 6.0], None],
    ]  # fmt: skip


def test_functions_over_many_rows_with_nulls_in_between(cursor: Cursor) -> None:
    cursor.register(
        "t", pa.table({"v": [None if i % 7 == 0 else [float(i), 1.0] for i in range(5000)]})
    )
    answer = cursor.query(
        "SELECT nq_l2(v, '[0,1]') AS d, nq_add(v, v) AS s, vector_norm(v) FROM t"
    ).table
    expected = [None if i % 7 == 0 else float(i) for i in range(5000)]
    assert answer.column(0).to_pylist() == expected
    assert answer.column(1).to_pylist()[6:9] == [[12.0, 2.0], None, [16.0, 2.0]]
    assert answer.column(2).null_count == sum(i % 7 == 0 for i in range(5000))


@pytest.mark.parametrize("expression", ["nq_l2('[1,2]', '[1]')", "nq_add('[1]', '[1,2]')"])
def test_different_dimensions_are_an_error_that_names_both(cursor: Cursor, expression: str) -> None:
    with pytest.raises(InvalidValue, match=r"dimensions: \d and \d") as caught:
        value(cursor, expression)
    assert caught.value.code == "different_dimensions"


def test_relations_are_seen_by_their_own_cursor_only(cursor: Cursor) -> None:
    cursor.register("mine", pa.table({"x": [1]}))
    assert cursor.query("SELECT x FROM mine").table.num_rows == 1
    with duck.shared().cursor() as other, pytest.raises(SqlError):
        other.query("SELECT x FROM mine")
    cursor.materialize("kept", "SELECT 1 AS x")
    with duck.shared().cursor() as other, pytest.raises(SqlError):
        other.query("SELECT x FROM kept")


secret = pa.table({"password": ["hunter2"]})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM secret",
        "ATTACH 'nearql-must-not-exist.db' AS other",
        "COPY (SELECT 1) TO 'nearql-must-not-exist.csv'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "RESET memory_limit",
        "PRAGMA database_list; SET threads = 99",
    ],
)
def test_the_door_is_locked(cursor: Cursor, sql: str) -> None:
    """Even without the guard in front, DuckDB refuses."""
    with pytest.raises(NearQLError):
        cursor.query(sql)


def test_a_query_is_interrupted_from_another_thread(cursor: Cursor) -> None:
    stop = threading.Timer(0.2, cursor.interrupt)
    stop.start()
    started = time.monotonic()
    with pytest.raises(StatementTimeout):
        cursor.query("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b")
    assert time.monotonic() - started < 20
    stop.join()
    assert value(cursor, "1") == 1


def test_interrupting_a_closed_cursor_is_harmless() -> None:
    with duck.shared().cursor() as made:
        pass
    made.interrupt()


def test_answers_are_cut_off_while_they_come(cursor: Cursor) -> None:
    seen: list[int] = []

    def check(rows: int, size: int) -> None:
        seen.append(rows)
        if rows > 200_000:
            raise TooLarge("enough")

    with pytest.raises(TooLarge):
        cursor.query("SELECT range FROM range(100000000)", check_size=check)
    assert seen[-1] < 1_000_000


@pytest.mark.parametrize(
    ("sql", "code", "sqlstate"),
    [
        ("SELECT 'x'::INTEGER", "invalid_value", "22P02"),
        ("SELECT 9223372036854775807 + 1", "out_of_range", "22003"),
        ("SELECT nope FROM (SELECT 1 AS x)", "undefined_column", "42703"),
        ("SELECT foo(1)", "undefined_function", "42883"),
        ("SELECT 1 +", "syntax_error", "42601"),
        ("SELECT (SELECT range FROM range(2))", "cardinality_violation", "21000"),
    ],
)
def test_errors_have_our_codes(cursor: Cursor, sql: str, code: str, sqlstate: str) -> None:
    with pytest.raises(NearQLError) as caught:
        cursor.query(sql)
    assert (caught.value.code, caught.value.sql_state) == (code, sqlstate)
    assert "Error:" not in caught.value.detail
    assert "LINE" not in caught.value.detail

"""Bulk rows: those of a batch that fit are stored, each of the others is told with its reason."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidRequest, InvalidValue, NotFound, UndefinedColumn
from nearql.engine.types import OnConflict
from nearql.query.bulk import BulkOutcome
from support.sql import Sql


@pytest.fixture
def items(sql: Sql) -> Sql:
    """A table with a default, a NOT NULL and a CHECK."""
    sql.run(
        "CREATE TABLE items (id BIGINT PRIMARY KEY, title TEXT DEFAULT 'none', n INTEGER NOT NULL "
        "DEFAULT 7 CHECK (n < 100), vec VECTOR(2))"
    )
    return sql


def load(sql: Sql, mode: OnConflict = OnConflict.ERROR, **columns: Any) -> BulkOutcome:
    """Insert these columns."""
    return sql.session.insert_rows("items", pa.table(columns), mode)


def failed(outcome: BulkOutcome) -> list[tuple[int, str]]:
    """(row, code) of the failures."""
    return [(one.row, one.code) for one in outcome.failed]


def test_names_match_in_any_case_and_absent_columns_get_defaults(items: Sql) -> None:
    outcome = load(items, ID=[1, 2], Vec=[[1.0, 2.0], None])
    assert (outcome.inserted, outcome.updated, outcome.failed) == (2, 0, ())
    assert items.rows("SELECT * FROM items ORDER BY id") == [
        (1, "none", 7, [1.0, 2.0]), (2, "none", 7, None),
    ]  # fmt: skip


def test_rows_that_do_not_fit_are_told_and_the_others_stored(items: Sql) -> None:
    load(items, id=[50])
    outcome = load(
        items,
        id=[1, 2, 3, None, 5, 50, 7, 7],
        n=["1", "x", "200", "4", None, "6", "7", "8"],
        vec=[
            [1.0, 1.0],
            [2.0, 2.0],
            [3.0, 3.0],
            [4.0, 4.0],
            [5.0, 5.0],
            [6.0, 6.0],
            [7.0],
            [8.0, 8.0],
        ],
    )
    assert failed(outcome) == [
        (1, "invalid_value"), (2, "check_violation"), (3, "not_null_violation"),
        (4, "not_null_violation"), (5, "duplicate_key"), (6, "wrong_dimensions"),
    ]  # fmt: skip
    assert outcome.inserted == 2
    assert items.rows("SELECT id, n FROM items ORDER BY id") == [(1, 1), (7, 8), (50, 7)]


def test_a_key_twice_in_a_batch_is_stored_once(items: Sql) -> None:
    outcome = load(items, id=[1, 1, 2], n=[1, 2, 3])
    assert (outcome.inserted, failed(outcome)) == (2, [(1, "duplicate_key")])
    assert items.rows("SELECT n FROM items WHERE id = 1") == [(1,)]


def test_upsert_replaces_whole_rows(items: Sql) -> None:
    load(items, id=[1, 2], n=[1, 2], title=["a", "b"])
    outcome = load(items, OnConflict.REPLACE, id=[2, 3], n=[20, 30])
    assert (outcome.inserted, outcome.updated, outcome.failed) == (1, 1, ())
    assert items.rows("SELECT id, title, n FROM items ORDER BY id") == [
        (1, "a", 1), (2, "none", 20), (3, "none", 30),
    ]  # fmt: skip


def test_nothing_stored_where_nothing_fits(items: Sql) -> None:
    outcome = load(items, id=[1, 2], vec=[[1.0], [float("nan"), 1.0]])
    assert (outcome.inserted, failed(outcome)) == (
        0,
        [(0, "wrong_dimensions"), (1, "invalid_vector")],
    )
    assert items.rows("SELECT count(*) FROM items") == [(0,)]


def test_an_empty_batch_is_no_error(items: Sql) -> None:
    outcome = load(items, id=pa.array([], pa.int64()))
    assert (outcome.inserted, outcome.failed) == (0, ())


def test_what_is_wrong_with_the_whole_batch_is_an_error(items: Sql) -> None:
    with pytest.raises(UndefinedColumn, match="'title'"):
        load(items, id=[1], titel=["x"])
    with pytest.raises(NotFound, match="'items'"):
        items.session.insert_rows("itmes", pa.table({"id": [1]}), OnConflict.ERROR)
    with pytest.raises(InvalidRequest, match="twice"):
        load(items, id=[1], ID=[2])
    with pytest.raises(InvalidRequest, match="can't be stored"):
        load(items, id=[1], vec=[5])
    with pytest.raises(InvalidValue, match="needs 3 copies"):
        items.session.insert_rows(
            "items", pa.table({"id": [1]}), OnConflict.ERROR, settings={"write_concern": "3"}
        )
    assert items.rows("SELECT count(*) FROM items") == [(0,)]


def test_a_table_without_key_takes_rows(sql: Sql) -> None:
    sql.run("CREATE TABLE log (msg TEXT)")
    rows = pa.table({"msg": ["a", "b"]})
    assert sql.session.insert_rows("log", rows, OnConflict.ERROR).inserted == 2
    with pytest.raises(UndefinedColumn):
        sql.session.insert_rows("log", pa.table({"__key": [1]}), OnConflict.ERROR)


def test_a_repeated_batch_is_stored_once(items: Sql) -> None:
    rows = pa.table({"id": [1, 2]})
    for _ in range(2):
        outcome = items.session.insert_rows(
            "items", rows, OnConflict.ERROR, request_id=b"0123456789abcdef"
        )
        assert (outcome.inserted, outcome.failed) == (2, ())
    assert items.rows("SELECT count(*) FROM items") == [(2,)]


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 310.5, 3.0, -0.25],
        ["1.0", "310.5", "3e0", "-25e-2"],
        pa.array([1, 310.5, 3, -0.25]).cast(pa.decimal128(10, 2)),
    ],
    ids=["float", "text", "decimal"],
)
def test_a_fraction_is_refused_by_an_integer_column(items: Sql, values: Any) -> None:
    """A statement rounds, as PostgreSQL does; rows that come as data are stored as they are."""
    outcome = load(items, id=[1, 2, 3, 4], n=values)
    assert failed(outcome) == [(1, "invalid_value"), (3, "invalid_value")]
    assert "is no INTEGER: it has a fraction" in outcome.failed[0].detail
    assert items.rows("SELECT id, n FROM items ORDER BY id") == [(1, 1), (3, 3)]


def test_whole_numbers_of_any_size_stay_whole(items: Sql) -> None:
    assert load(items, id=[2.0**53, None]).inserted == 1
    assert load(items, id=["9007199254740993", "1e3"]).inserted == 2
    assert items.rows("SELECT id FROM items ORDER BY id") == [
        (1000,), (2**53,), (2**53 + 1,),
    ]  # fmt: skip

"""The facade: inserts, changes, repeated requests, shards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import (
    Conflict,
    InternalError,
    InvalidValue,
)
from nearql.engine.request_id import make_request_id
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.table import Table
from nearql.engine.types import ROW_COLUMN, Change, OnConflict
from nearql.engine.view import TableView
from support.tables import (
    SMALL,
    contents,
    context,
    create,
    definition,
    delete,
    insert,
    keys,
    row,
    rows_of,
    table_of,
)

NONE = np.empty(0, np.int64)
REQUEST = b"request-number-1"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = create(tmp_path / "t")
    yield made
    made.check_invariants()
    made.close()


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Table]:
    made = create(tmp_path / "t", definition=definition(shards=3))
    yield made
    made.check_invariants()
    made.close()


# ---- Inserts -------------------------------------------------------------------------------------


def test_an_insert_is_visible_when_it_returns(table: Table) -> None:
    outcome = insert(table, [3, 1, 2])
    assert (outcome.inserted, outcome.updated, outcome.deleted, outcome.copies) == (3, 0, 0, 1)
    assert contents(table.read_view()) == {key: row(key) for key in (1, 2, 3)}
    assert outcome.positions == table.read_view().positions


def test_an_existing_key_is_refused_by_name_and_nothing_is_written(table: Table) -> None:
    insert(table, [1, 2])
    with pytest.raises(Conflict, match="Row 2: the primary key 2 exists already") as caught:
        insert(table, [8, 9, 2])
    assert caught.value.code == "duplicate_key"
    assert caught.value.extra == {"key": 2, "row": 2}
    assert keys(table) == {1, 2}


def test_a_key_twice_in_the_rows_is_refused_by_name(table: Table) -> None:
    with pytest.raises(Conflict, match="Row 1: the primary key 5 is in the rows twice") as caught:
        insert(table, [5, 5])
    assert caught.value.extra == {"key": 5, "row": 1}
    assert keys(table) == set()


def test_nothing_skips_and_says_what(table: Table) -> None:
    insert(table, [1, 2], "old")
    outcome = insert(table, [0, 1, 3, 3, 2], "new", on_conflict=OnConflict.NOTHING)
    assert outcome.inserted == 2
    assert outcome.skipped is not None
    assert outcome.skipped.tolist() == [1, 3, 4]
    titles = {key: r["title"] for key, r in contents(table.read_view()).items()}
    assert titles == {0: "new", 1: "old", 2: "old", 3: "new"}


def test_replace_counts_inserts_and_updates_and_the_last_row_wins(table: Table) -> None:
    insert(table, [1], "old")
    given = table_of([row(1, "a"), row(2, "b"), row(2, "c")])
    outcome = table.insert(given, OnConflict.REPLACE)
    assert (outcome.inserted, outcome.updated) == (1, 2)
    assert contents(table.read_view()) == {1: row(1, "a"), 2: row(2, "c")}


def test_no_rows_are_no_write(table: Table) -> None:
    before = table.read_view().positions
    outcome = insert(table, [])
    assert (outcome.inserted, outcome.repeated) == (0, False)
    assert table.read_view().positions == before


def test_a_refused_row_leaves_nothing(table: Table) -> None:
    with pytest.raises(InvalidValue, match="Row 1"):
        table.insert(table_of([row(1), row(2) | {"vec": [1, 2, float("nan")]}]), OnConflict.ERROR)
    assert keys(table) == set()


@pytest.mark.parametrize("kind", ["TINYINT", "INTEGER", "BIGINT", "UBIGINT", "TEXT", "UUID"])
def test_every_type_of_key(tmp_path: Path, kind: str) -> None:
    schema = TableSchema((Column(1, "k", ColumnType.parse(kind), not_null=True),), key_number=1)
    values: list[Any] = [0, 1, 127]
    if kind == "TEXT":
        values = ["", "ä€😀", "x' OR 1=1"]
    if kind == "UUID":
        values = [str(uuid.UUID(int=n)) for n in range(3)]
    if kind == "UBIGINT":
        values = [0, 2**63, 2**64 - 1]
    made = create(tmp_path / "t", definition=definition(schema, shards=2))
    rows = table_of([{"k": value} for value in values], schema)
    made.insert(rows, OnConflict.ERROR)
    with pytest.raises(Conflict):
        made.insert(rows.slice(2), OnConflict.ERROR)
    made.close()
    made = Table.open(tmp_path / "t", definition(schema, shards=2), context())
    assert set(contents(made.read_view())) == set(values)
    made.modify(lambda view: Change(np.array(view.scan([])[ROW_COLUMN]), None, deleted=3))
    assert made.read_view().row_count == 0
    made.close()


def test_uuid_keys_are_equal_however_they_are_spelled(tmp_path: Path) -> None:
    schema = TableSchema((Column(1, "k", ColumnType("UUID"), not_null=True),), key_number=1)
    made = create(tmp_path / "t", definition=definition(schema))
    made.insert(table_of([{"k": "0F0E0D0C-0B0A-0908-0706-050403020100"}], schema), OnConflict.ERROR)
    with pytest.raises(Conflict):
        made.insert(table_of([{"k": "0f0e0d0c0b0a09080706050403020100"}], schema), OnConflict.ERROR)
    made.close()


# ---- Changes -------------------------------------------------------------------------------------


def test_modify_sees_everything_before_and_reports_its_counts(table: Table) -> None:
    insert(table, range(40))
    outcome = table.modify(lambda view: delete(view, 3, 4))
    assert outcome.deleted == 2
    assert keys(table) == set(range(40)) - {3, 4}


def test_what_modify_raises_is_passed_on_and_nothing_is_written(table: Table) -> None:
    insert(table, [1])

    def evaluate(view: TableView) -> Change:
        raise ValueError("division by zero")

    with pytest.raises(ValueError, match="division by zero"):
        table.modify(evaluate)
    insert(table, [2])  # the writer lock was given back
    assert keys(table) == {1, 2}


def test_a_change_that_puts_one_key_twice_is_refused(table: Table) -> None:
    insert(table, [1, 2])
    with pytest.raises(Conflict, match="twice"):
        table.modify(lambda view: Change(NONE, rows_of([7, 7]), updated=2))
    assert keys(table) == {1, 2}


def test_a_change_of_rows_that_are_dead_is_a_bug(table: Table) -> None:
    insert(table, [1])
    old = table.read_view()
    insert(table, [1], "new", on_conflict=OnConflict.REPLACE)
    with pytest.raises(InternalError, match="dead already"):
        table.modify(lambda view: delete(old, 1))


def test_modify_checks_rows_as_insert_does(table: Table) -> None:
    bad = table_of([row(1) | {"vec": [1, 2, float("inf")]}])
    with pytest.raises(InvalidValue, match="finite"):
        table.modify(lambda view: Change(NONE, bad))


def test_truncate_counts_what_was_there(table: Table) -> None:
    insert(table, range(40))
    table.checkpoint()
    assert table.truncate().deleted == 40
    assert keys(table) == set()
    insert(table, [5])
    assert keys(table) == {5}


# ---- Request ids ---------------------------------------------------------------------------------


def test_a_repeated_insert_is_answered_and_not_done_again(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    insert(table, [2])
    rows = rows_of([1, 2, 3])
    first = table.insert(rows, OnConflict.NOTHING, request_id=REQUEST)
    table.modify(lambda view: delete(view, 1, 3))
    for step in ("live", "from the log", "from a checkpoint"):
        again = table.insert(rows, OnConflict.NOTHING, request_id=REQUEST)
        assert again.repeated, step
        assert (again.inserted, again.positions) == (first.inserted, first.positions)
        assert again.skipped is not None
        assert again.skipped.tolist() == [1]
        assert keys(table) == {2}
        if step == "from the log":
            table.checkpoint()
        table.close()
        table = Table.open(tmp_path / "t", definition(), context())
    table.close()


@pytest.mark.parametrize("what", ["modify", "truncate"])
def test_repeated_changes_are_not_done_again(sharded: Table, what: str) -> None:
    insert(sharded, range(9))
    runs = []

    def evaluate(view: TableView) -> Change:
        runs.append(1)
        return delete(view, 1, 2, 3)

    def change() -> Any:
        if what == "truncate":
            return sharded.truncate(request_id=REQUEST)
        return sharded.modify(evaluate, request_id=REQUEST)

    first = change()
    insert(sharded, [1, 2], on_conflict=OnConflict.REPLACE)
    again = change()
    assert (again.deleted, again.repeated) == (first.deleted, True)
    assert {1, 2} <= keys(sharded)
    assert len(runs) == (0 if what == "truncate" else 1)


def test_only_the_last_request_ids_are_remembered(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, dedup_entries=2))
    ids = [bytes([n]) * 16 for n in range(1, 4)]
    for key, request_id in enumerate(ids):
        insert(table, [key], request_id=request_id)
    assert insert(table, [1], request_id=ids[1]).repeated
    with pytest.raises(Conflict):
        insert(table, [0], request_id=ids[0])  # forgotten: done as if new
    table.close()


def test_a_statement_without_effect_is_remembered_too(table: Table) -> None:
    first = table.modify(lambda view: delete(view, 99), request_id=REQUEST)
    insert(table, [99])
    again = table.modify(lambda view: delete(view, 99), request_id=REQUEST)
    assert (first.repeated, again.repeated, again.deleted) == (False, True, 0)
    assert keys(table) == {99}


# ---- Shards --------------------------------------------------------------------------------------


def test_rows_spread_over_shards_and_conflicts_name_the_given_row(sharded: Table) -> None:
    outcome = insert(sharded, range(60))
    assert [position.shard for position in outcome.positions] == [0, 1, 2]
    assert sum(segment.rows for segment in sharded.stats().segments) == 60
    assert {segment.shard for segment in sharded.stats().segments} == {0, 1, 2}
    with pytest.raises(Conflict) as caught:
        insert(sharded, [*range(60, 80), 33])
    assert caught.value.extra == {"key": 33, "row": 20}
    assert "Row 20" in caught.value.detail
    assert keys(sharded) == set(range(60)), "no shard wrote before all were checked"


def test_skipped_rows_of_all_shards_are_in_order(sharded: Table) -> None:
    insert(sharded, range(0, 60, 2))
    outcome = insert(sharded, range(60), on_conflict=OnConflict.NOTHING)
    assert outcome.skipped is not None
    assert outcome.skipped.tolist() == list(range(0, 60, 2))


@pytest.mark.parametrize("reopened", [False, True])
def test_a_request_id_with_other_content_is_refused_not_answered(
    tmp_path: Path, reopened: bool
) -> None:
    """The second write would be lost silently if the first one's outcome were its answer."""
    table = create(tmp_path / "t")
    first, other = make_request_id(b"me:1", b"one"), make_request_id(b"me:1", b"two")
    insert(table, [1], request_id=first)
    if reopened:
        table.close()
        table = Table.open(tmp_path / "t", definition(), context())
    with pytest.raises(Conflict) as caught:
        insert(table, [2], request_id=other)
    assert caught.value.code == "request_id_reused"
    assert insert(table, [1], request_id=first).repeated
    assert table.read_view().row_count == 1
    table.close()


def test_keys_are_found_inside_an_evaluation_as_the_view_has_them(tmp_path: Path) -> None:
    for shards in (1, 3):
        table = create(tmp_path / f"t{shards}", definition=definition(shards=shards))
        insert(table, range(40))
        table.checkpoint()
        insert(table, [5, 100], "new", on_conflict=OnConflict.REPLACE)
        table.modify(lambda view: delete(view, 7))
        asked = [100, 7, 5, 39, -1, 0, 5]

        def evaluate(view: TableView, table: Table = table, asked: list[int] = asked) -> Change:
            found = table.find(pa.array(asked, pa.int64()))
            assert (found < 0).tolist() == [key in (7, -1) for key in asked]
            taken = view.take(["id", "title"], found[found >= 0]).to_pylist()
            assert [row["id"] for row in taken] == [100, 5, 39, 0, 5]
            assert [row["title"] for row in taken] == ["new", "new", "t39", "t0", "new"]
            return Change(np.empty(0, np.int64), None)

        table.modify(evaluate)
        table.close()

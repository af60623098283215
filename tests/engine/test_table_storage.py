"""Schema changes, checkpoints, compaction, restarts and damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import (
    Corruption,
    InvalidValue,
    Unsupported,
)
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from support.disks import WatchedFileSystem
from support.tables import (
    SCHEMA,
    SMALL,
    contents,
    context,
    create,
    definition,
    delete,
    insert,
    keys,
    row,
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


# ---- Schema --------------------------------------------------------------------------------------


def altered(old: TableDef, *columns: Column) -> TableDef:
    schema = old.schema
    changed = TableSchema(columns, schema.key_number, version=schema.version + 1)
    return replace(old, schema=changed)


def alter(table: Table, new: TableDef) -> None:
    with table.altering(new.schema):
        table.apply_schema(new)


def test_a_default_fills_old_rows_once_and_for_all(table: Table) -> None:
    insert(table, [1])
    extra = Column(9, "extra", ColumnType("INTEGER"), default="5")
    alter(table, altered(table.definition, *SCHEMA.columns, extra))
    alter(table, altered(table.definition, *SCHEMA.columns, replace(extra, default="6")))
    assert contents(table.read_view())[1]["extra"] == 5
    with pytest.raises(InvalidValue, match="exactly the columns"):
        insert(table, [2])


def test_a_column_added_without_default_stays_null_when_one_is_set_later(table: Table) -> None:
    insert(table, [1])
    extra = Column(9, "extra", ColumnType("INTEGER"))
    alter(table, altered(table.definition, *SCHEMA.columns, extra))
    alter(table, altered(table.definition, *SCHEMA.columns, replace(extra, default="6")))
    table.checkpoint()
    assert contents(table.read_view())[1]["extra"] is None


def test_an_added_vector_column_is_null_and_never_matches(table: Table) -> None:
    insert(table, [1, 2])
    more = Column(9, "other", ColumnType("VECTOR(2)"))
    alter(table, altered(table.definition, *SCHEMA.columns, more))
    assert [r["other"] for r in contents(table.read_view()).values()] == [None, None]


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (Column(9, "x", ColumnType("INTEGER"), not_null=True), InvalidValue, "NOT NULL"),
        (Column(9, "x", ColumnType("DATE"), default="now()"), Unsupported, "must be a number"),
        (Column(9, "x", ColumnType("INTEGER"), default="'a'"), InvalidValue, "no INTEGER"),
        (Column(9, "x", ColumnType("VECTOR(2)"), default="'[1,2]'"), Unsupported, "UPDATE"),
    ],
)
def test_a_column_that_the_rows_cannot_take_is_refused(
    table: Table, column: Column, error: type[Exception], message: str
) -> None:
    new = altered(table.definition, *SCHEMA.columns, column)
    alter(table, table.definition)  # nothing to do
    insert(table, [1])
    with pytest.raises(error, match=message):
        alter(table, new)
    assert table.definition.schema == SCHEMA
    table.truncate()
    alter(table, new)  # without rows any column is fine
    assert table.definition == new


def test_metadata_ahead_of_the_rows_is_caught_up_with_at_open(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    insert(table, [1])
    new = altered(
        table.definition, *SCHEMA.columns, Column(9, "x", ColumnType("BOOLEAN"), default="TRUE")
    )
    table.close()  # as after a crash between metadata's commit and the SCHEMA record
    table = Table.open(tmp_path / "t", new, context())
    assert contents(table.read_view())[1]["x"] is True
    table.close()


# ---- Restart, checkpoint, compaction -------------------------------------------------------------


def test_checkpoints_happen_in_the_background_and_trim_the_log(tmp_path: Path) -> None:
    settings = EngineSettings(seal_rows=100, wal_file_bytes=1 << 16, search_threads=1)
    table = create(tmp_path / "t", settings=settings)
    for start in range(0, 2000, 50):
        insert(table, range(start, start + 50), "x" * 100)
    table._maintenance.close()  # waits for the one that runs
    stats = table.stats()
    assert stats.rows == 2000
    assert sum(segment.sealed for segment in stats.segments) >= 5
    assert table._shards[0].wal.first_lsn > 1
    table.close()
    table = Table.open(tmp_path / "t", definition(), context(settings))
    assert keys(table) == set(range(2000))
    table.close()


def test_small_checkpoints_do_not_leave_many_small_segments(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, seal_rows=1000))
    for key in range(64):
        insert(table, [key])
        table.checkpoint()
    assert len(table.stats().segments) <= 7  # log2(64) + 1
    assert keys(table) == set(range(64))
    table.check_invariants()
    table.close()


def test_compaction_drops_dead_rows_and_old_views_stay_true(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, seal_rows=100))
    insert(table, range(50))
    table.checkpoint()
    old = table.read_view()
    table.modify(lambda view: delete(view, *range(0, 50, 2)))
    before = table.read_view()
    table.checkpoint()
    after = table.read_view()
    assert [(s.rows, s.dead) for s in table.stats().segments] == [(25, 0)]
    assert before.data_version != after.data_version, "row numbers changed"
    assert contents(after) == contents(before) == {k: row(k) for k in range(1, 50, 2)}
    assert set(contents(old)) == set(range(50))
    insert(table, [0])
    table.check_invariants()
    table.close()
    table = Table.open(tmp_path / "t", definition(), context())
    assert keys(table) == {0, *range(1, 50, 2)}
    table.check_invariants()
    table.close()


def test_updating_one_row_for_ever_takes_no_space_for_ever(tmp_path: Path) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, seal_rows=32))
    for number in range(300):
        insert(table, [1, 2], f"v{number}", on_conflict=OnConflict.REPLACE)
    table.checkpoint()
    assert sum(segment.rows for segment in table.stats().segments) == 2
    assert contents(table.read_view()) == {k: row(k, "v299") for k in (1, 2)}
    files = [path for path in (tmp_path / "t" / "shard-0000").iterdir() if path.is_file()]
    assert len([f for f in files if f.name.startswith("segment-")]) == 1
    table.close()


def test_writes_during_a_checkpoint_are_not_trimmed_away(tmp_path: Path) -> None:
    """The log is trimmed up to what the checkpoint holds, not up to its end."""
    fs = WatchedFileSystem()
    settings = replace(SMALL, wal_file_bytes=4096, wal_record_bytes=2048)
    alone = context(settings, fs=fs)
    table = create(tmp_path / "t", context=alone)
    insert(table, range(10))
    # No checkpoint in the background: it would trim the log while the second table opens it.
    alone.background.shutdown()
    real, written = fs.rename, []

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "MANIFEST":
            for key in range(100, 160):
                insert(table, [key], "x" * 500)
                written.append(key)

    fs.rename = rename  # type: ignore[method-assign]
    table.checkpoint()
    assert len(written) == 60
    fs.rename = real  # type: ignore[method-assign]
    killed = Table.open(tmp_path / "t", definition(), context(settings))
    assert keys(killed) == {*range(10), *range(100, 160)}
    table.close()
    killed.close()


# ---- Damage --------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["dedup-", "MANIFEST", "shard.meta"])
def test_a_flipped_bit_in_any_file_is_named(tmp_path: Path, name: str) -> None:
    table = create(tmp_path / "t", settings=replace(SMALL, seal_rows=1000))
    insert(table, range(20), request_id=REQUEST)
    table.modify(lambda view: delete(view, 1))
    table.checkpoint()
    table.close()
    (path,) = (tmp_path / "t" / "shard-0000").glob(f"{name}*")
    flip(path, path.stat().st_size // 2)
    with pytest.raises(Corruption, match=path.name):
        Table.open(tmp_path / "t", definition(), context())
    flip(path, path.stat().st_size // 2)
    table = Table.open(tmp_path / "t", definition(), context())
    assert keys(table) == set(range(20)) - {1}
    table.close()


def test_a_missing_log_is_corruption_not_an_empty_table(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    insert(table, [1])
    table.close()
    wal = tmp_path / "t" / "shard-0000" / "wal"
    for file in wal.iterdir():
        file.unlink()
    with pytest.raises(Corruption, match="log .* is missing"):
        Table.open(tmp_path / "t", definition(), context())


def test_a_missing_shard_and_a_foreign_one_are_corruption(tmp_path: Path) -> None:
    create(tmp_path / "t").close()
    with pytest.raises(Corruption, match=r"shard\.meta is missing"):
        Table.open(tmp_path / "t", definition(shards=2), context())
    with pytest.raises(Corruption, match="another table"):
        Table.open(tmp_path / "t", definition(uuid="other"), context())


def test_creating_again_keeps_what_is_there(tmp_path: Path) -> None:
    table = create(tmp_path / "t")
    insert(table, [1])
    table.close()
    table = create(tmp_path / "t")
    assert keys(table) == {1}
    table.close()


def test_leftovers_of_a_crash_are_removed_at_open(tmp_path: Path) -> None:
    create(tmp_path / "t").close()
    folder = tmp_path / "t" / "shard-0000"
    (folder / "segment-0123").write_bytes(b"half")
    (folder / "MANIFEST.tmp").write_bytes(b"half")
    Table.open(tmp_path / "t", definition(), context()).close()
    assert not {p.name for p in folder.iterdir()} & {"segment-0123", "MANIFEST.tmp"}


def test_stats_tell_rows_bytes_and_segments(table: Table) -> None:
    insert(table, range(10))
    table.modify(lambda view: delete(view, 1))
    stats = table.stats()
    assert stats.rows == 9
    assert [(s.shard, s.first_row, s.rows, s.dead, s.sealed) for s in stats.segments] == [
        (0, 0, 10, 1, False)
    ]
    assert stats.bytes == stats.segments[0].bytes > 10 * 16
    assert stats.wal_bytes > 10 * 16
    assert stats.positions == table.read_view().positions


def test_half_vectors_are_stored_as_half_and_shown_as_float(tmp_path: Path) -> None:
    schema = TableSchema(
        (Column(1, "id", ColumnType("BIGINT")), Column(2, "h", ColumnType("HALFVEC(2)"))), 1
    )
    made = create(tmp_path / "t", definition=definition(schema))
    made.insert(
        table_of([{"id": 1, "h": [0.5, 2]}, {"id": 2, "h": None}], schema), OnConflict.ERROR
    )
    for _ in range(2):
        shown = made.read_view().scan(["h"])["h"]
        assert shown.type == pa.list_(pa.float32(), 2)
        assert shown.to_pylist() == [[0.5, 2.0], None]
        made.close()
        made = Table.open(tmp_path / "t", definition(schema), context())
    made.checkpoint()
    assert made.read_view().take(["h"], np.array([1, 0]))["h"].to_pylist() == [None, [0.5, 2.0]]
    made.close()

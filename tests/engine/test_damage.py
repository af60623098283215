"""Damaged segment files: named by place and rows, set aside, never served; others are readable."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearql.engine.errors import Corruption
from nearql.engine.segment.damage import Damage, damage_of
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.table import Table
from nearql.engine.types import Metric, OnConflict, SearchRequest
from nearql.engine.view import TableView
from support.disks import WatchedFileSystem
from support.tables import (
    SMALL,
    contents,
    create,
    definition,
    delete,
    insert,
    keys,
    one_thread,
    row,
)

BLOCK = 256
SETTINGS = replace(SMALL, seal_rows=100)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows make many blocks."""
    monkeypatch.setattr("nearql.engine.storage.blobs.BLOCK_BYTES", BLOCK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed table: rows 0 to 99 in one file, 100 to 149 in another, rows 3 and 120 dead."""
    table = create(tmp_path / "t", context=one_thread(SETTINGS, LocalFileSystem()))
    insert(table, range(100))
    table.checkpoint()
    insert(table, range(100, 150))
    table.modify(lambda view: delete(view, 3, 120))
    table.checkpoint()
    assert [s.rows for s in table.stats().segments] == [100, 50]
    table.close()
    return tmp_path / "t" / "shard-0000"


def opened(folder: Path, fs: WatchedFileSystem | None = None) -> Table:
    alone = one_thread(SETTINGS, fs or LocalFileSystem())
    return Table.open(folder.parent, definition(), alone)


@pytest.fixture
def reopened(folder: Path) -> Iterator[Table]:
    table = opened(folder)
    yield table
    table.close()


def files(folder: Path, kind: str = "segment-") -> list[Path]:
    """By size, the largest first: the one of rows 0 to 99."""
    return sorted(folder.glob(f"{kind}*"), key=lambda path: -path.stat().st_size)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def vector_place(path: Path, key: int) -> int:
    """Where the file holds the vector of `row(key)`."""
    found = path.read_bytes().find(np.array(row(key)["vec"], np.float32).tobytes())
    assert found > 0
    return found


def titles(view: TableView) -> list[str]:
    return sorted(view.scan(["title"])["title"].to_pylist())


def nearest(view: TableView, key: int) -> int:
    query = np.array([row(key)["vec"]], np.float32)
    hits = view.search(SearchRequest("vec", Metric.L2, query, 1))
    return int(view.take(["id"], hits.rows[0])["id"][0].as_py())


def damages(table: Table) -> list[Damage]:
    views = (segment for shard in table._shards for segment in shard.read_view().segments)
    return [damage for view in views if (damage := damage_of(view.data)) is not None]


# ---- Found at open ------------------------------------------------------------------------------


def test_a_bad_vector_block_costs_the_vectors_of_its_segment_and_names_its_rows(
    folder: Path,
) -> None:
    path = files(folder)[0]
    place = vector_place(path, 70)
    flip(path, place)
    table = opened(folder)
    view = table.read_view()
    start = place // BLOCK * BLOCK
    for use in (lambda: nearest(view, 120), lambda: view.scan(["vec"])):
        with pytest.raises(Corruption, match=f"bytes {start} to {start + BLOCK}") as info:
            use()
        assert info.value.extra["file"] == str(path)
        first, last = info.value.extra["first_row"], info.value.extra["last_row"]
        assert first <= 70 <= last
        assert last - first <= BLOCK // 12 + 1, "the rows of one block, not of the segment"
    assert titles(view) == sorted(f"t{k}" for k in range(150) if k not in (3, 120))
    assert view.row_count == 148
    assert view.take(["vec"], np.array([101]))["vec"].to_pylist() == [row(101)["vec"]]
    with pytest.raises(Corruption):
        view.take(["vec"], np.array([70]))
    table.check_invariants()
    table.close()


def test_such_a_table_takes_writes_and_heals_when_the_rows_hit_are_written_anew(
    folder: Path,
) -> None:
    flip(path := files(folder)[0], vector_place(files(folder)[0], 70))
    table = opened(folder)
    (damage,) = damages(table)
    insert(table, [1000])
    table.modify(lambda view: delete(view, 5, damage.first))
    table.checkpoint()
    assert path.exists(), "what is not written anew stays where it is"
    table.close()
    table = opened(folder)
    expected = {*range(150), 1000} - {3, 5, 120, damage.first}
    assert {row["id"] for row in table.read_view().scan(["id"]).to_pylist()} == expected
    hit = [key for key in damage.rows if key in expected]
    insert(table, hit, "new", on_conflict=OnConflict.REPLACE)
    table.checkpoint()
    assert not damages(table)
    assert not path.exists()
    assert nearest(table.read_view(), 70) == 70
    wanted = {key: row(key, "new" if key in hit else None) for key in expected}
    assert contents(table.read_view()) == wanted
    table.check_invariants()
    table.close()


def test_what_went_bad_is_never_copied_into_a_file_with_good_checksums(
    folder: Path, reopened: Table
) -> None:
    path = files(folder)[0]
    flip(path, vector_place(path, 70))
    reopened.modify(lambda view: delete(view, *range(30, 60)))  # enough to have it written anew
    assert [damage.file for damage in damages(reopened)] == [str(path)]
    with pytest.raises(Corruption, match=path.name):
        nearest(reopened.read_view(), 70)
    assert len(titles(reopened.read_view())) == 148 - 30
    reopened.check_invariants()


@pytest.mark.parametrize("how", ["meta", "end", "cut", "gone", "swapped", "tombstones"])
def test_where_keys_are_lost_the_segment_is_lost_and_nothing_is_written(
    folder: Path, how: str
) -> None:
    path, other = files(folder)
    kept = shutil.copytree(folder, folder.parent.parent / "kept")
    match how:
        case "meta":
            flip(path, 100)
        case "end":
            flip(path, path.stat().st_size - 3)
        case "cut":
            path.write_bytes(path.read_bytes()[:1000])
        case "gone":
            path.unlink()
        case "swapped":
            shutil.copy(other, path)
        case "tombstones":
            path = _tombstones_of_first(folder)
            flip(path, path.stat().st_size // 2)
    table = opened(folder)
    view = table.read_view()
    for use in (
        lambda: view.scan(["id"]),
        lambda: view.scan([]),
        lambda: nearest(view, 120),
        lambda: insert(table, [1000]),
        lambda: table.modify(lambda view: delete(view)),
    ):
        with pytest.raises(Corruption, match=f"{path.name}.*rows 0 to 99"):
            use()
    assert view.take(["id"], np.array([101]))["id"].to_pylist() == [101], "others are readable"
    table.checkpoint()
    table.check_invariants()
    table.close()
    for name in files(kept, ""):
        if name.is_file():
            shutil.copy(name, folder / name.name)
    table = opened(folder)
    assert keys(table) == set(range(150)) - {3, 120}, "the file was put back"
    table.check_invariants()
    table.close()


def _tombstones_of_first(folder: Path) -> Path:
    table = opened(folder)
    entries = [entry for _, entry in table._shards[0].store.segments()]
    table.close()
    return folder / str(next(e.tombstones for e in entries if e.first_row == 0))


def test_truncating_ends_the_damage(folder: Path) -> None:
    files(folder)[0].unlink()
    table = opened(folder)
    table.truncate()
    insert(table, range(5))
    table.checkpoint()
    table.check_invariants()
    table.close()
    table = opened(folder)
    assert keys(table) == set(range(5))
    table.close()


def test_the_log_behind_a_lost_segment_is_kept_until_it_is_back(folder: Path) -> None:
    """Deletes and replacements that came after the checkpoint hit rows that are not there."""
    table = opened(folder)
    table.modify(lambda view: delete(view, 7))
    insert(table, [8], "new", on_conflict=OnConflict.REPLACE)
    table.close()
    path = files(folder)[0]
    path.rename(folder.parent.parent / "aside")
    table = opened(folder)
    table.checkpoint()
    table.close()
    (folder.parent.parent / "aside").rename(path)
    table = opened(folder)
    assert keys(table) == set(range(150)) - {3, 7, 120}
    assert "new" in titles(table.read_view())
    table.close()


def test_a_disk_that_cannot_read_is_damage_too(folder: Path) -> None:
    class BadDisk(WatchedFileSystem):
        def pread(self, handle: int, size: int, offset: int) -> bytes:
            if size == BLOCK and offset == 5 * BLOCK:
                raise OSError(errno.EIO, "I/O error")
            return super().pread(handle, size, offset)

    table = opened(folder, BadDisk())
    assert damages(table)
    table.close()


# ---- Found later ---------------------------------------------------------------------------------


def test_a_scrub_finds_what_went_bad_since_and_sets_it_aside(folder: Path, reopened: Table) -> None:
    path = files(folder)[0]
    read: list[int] = []
    assert reopened.scrub(read.append) == []
    assert sum(read) > path.stat().st_size // 2
    before = reopened.read_view()
    flip(path, vector_place(path, 70))
    (found,) = reopened.scrub(read.append)
    assert found.file == str(path)
    assert found.first <= 70 < found.end
    with pytest.raises(Corruption, match=path.name):
        nearest(reopened.read_view(), 120)
    assert reopened.scrub(read.append) == [], "told once"
    assert titles(reopened.read_view()) == titles(before)
    reopened.check_invariants()


def test_a_scrub_beside_checkpoints_reports_no_file_that_went(
    folder: Path, reopened: Table
) -> None:
    """A file that a checkpoint replaces while it is read is no damage."""

    def paced(size: int) -> None:
        if files(folder):
            reopened.truncate()
            reopened.checkpoint()

    assert reopened.scrub(paced) == []
    assert not damages(reopened)

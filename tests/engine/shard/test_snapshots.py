"""Snapshots of a copy: what is given away, how it is taken, what a kill leaves."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.engine.errors import Corruption, StorageFull, Unavailable, WriteUnknown
from nearql.engine.shard.copy import SnapshotImport
from nearql.engine.shard.snapshot import PIECE_BYTES, SnapshotManifest
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.types import OnConflict
from support.copies import SETTINGS, HandCopy, commit, fetch, lead, ship, soon
from support.disks import PowerLoss, SimulatedDisk
from support.tables import delete, insert, keys, row, table_of

COLUMNS = (1, 2, 3)


def filled() -> HandCopy:
    """A primary with sealed segments, tombstones, remembered requests, and a log behind them."""
    one = HandCopy()
    lead(one)
    for number in range(6):
        one.log(range(number * 10, number * 10 + 20), request_id=bytes([number + 1]) * 16)
        commit(one)
    one.table.checkpoint()
    one.log([500])
    commit(one)
    return one


def commit_all(source: HandCopy, target: HandCopy) -> None:
    """By the log alone, from its beginning."""
    target.copy.append(source.copy.read(1, 1 << 30))
    commit(source, target)


def taken(source: HandCopy, target: HandCopy) -> SnapshotImport:
    """A snapshot with all its pieces, not installed."""
    export = source.copy.export()
    found = target.copy.receive(export.manifest)
    for file, offset, size in found.missing():
        found.write(file, offset, export.read(file, offset, size))
    export.close()
    return found


def test_a_snapshot_is_a_checkpoint_and_the_log_goes_on_behind_it() -> None:
    one, two = filled(), HandCopy()
    fetch(one.copy.export(), two)
    assert two.copy.end == one.copy.end_at(two.copy.end.lsn)
    assert two.copy.end.lsn == one.copy.base_lsn == two.copy.base_lsn
    assert two.copy.commit_lsn == two.copy.applied_lsn == two.copy.end.lsn
    assert two.copy.epochs == one.copy.epochs
    assert two.copy.alloc_id != one.copy.alloc_id
    assert keys(two.table) == set(range(70))
    commit(one, two)
    assert two.hashes() == one.hashes()
    two.restart()
    assert keys(two.table) == set(range(70))
    two.copy.advance(one.copy.end.lsn)
    two.settle()
    assert two.hashes() == one.hashes()


def test_requests_are_remembered_by_who_takes_a_snapshot() -> None:
    one, two = filled(), HandCopy()
    fetch(one.copy.export(), two)
    one.copy.follow()
    lead(two, epoch=2)
    again = insert(
        two.table, range(20), on_conflict=OnConflict.REPLACE, request_id=bytes([1]) * 16,
        timeout_ms=0,
    )  # fmt: skip
    assert again.repeated


def test_a_copy_with_rows_takes_a_snapshot_in_one_step() -> None:
    one, two = HandCopy(), HandCopy()
    lead(one, two)
    one.log(range(30))
    commit(one, two)
    two.table.checkpoint()
    view = two.table.read_view()
    one.log([7], "newer")
    one.log(range(100, 140))
    commit(one)
    one.table.checkpoint()
    fetch(one.copy.export(), two)
    assert keys(two.table) == keys(one.table)
    assert view.row_count == 30  # who reads the old rows goes on
    assert sorted(view.scan(["id"]).column("id").to_pylist()) == list(range(30))
    commit(one, two)
    one.log([900])
    commit(one, two)
    assert two.hashes() == one.hashes()
    two.table.checkpoint()
    two.restart()
    two.copy.advance(one.copy.end.lsn)
    two.settle()
    assert two.hashes() == one.hashes()
    two.table._shards[0].check_invariants()


def test_a_second_snapshot_replaces_the_first_and_leaves_no_files() -> None:
    one, two = filled(), HandCopy()
    fetch(one.copy.export(), two)
    for number in range(3):
        one.log(range(number, 300 + number))
        commit(one)
        one.table.checkpoint()
        fetch(one.copy.export(), two)
        commit(one, two)
        assert two.hashes() == one.hashes()
        two.restart()
    two.copy.advance(one.copy.end.lsn)
    two.settle()
    assert two.hashes() == one.hashes()
    shard = Path("/data/table/shard-0000")
    manifest = two.table._shards[0].store.read_manifest()
    assert manifest is not None
    assert set(two.fs.names(shard)) == {"MANIFEST", "shard.meta", *manifest.files()}
    assert two.fs.names(shard / "incoming") == []
    logs = [len(two.fs.names(shard / name)) for name in ("wal", "wal-b")]
    assert min(logs) == 0 < max(logs)


def test_files_of_a_snapshot_stay_while_it_is_read() -> None:
    one, two = filled(), HandCopy()
    export = one.copy.export()
    for number in range(8):
        one.log(range(number * 5, 300))  # all rows anew: old segments go
        commit(one)
        one.table.checkpoint()
    assert one.copy.first_lsn <= export.manifest.end.lsn + 1
    fetch(export, two)
    commit(one, two)
    assert two.hashes() == one.hashes()
    one.log([1])
    commit(one)
    one.table.checkpoint()
    assert not {file.name for file in export.manifest.files} & set(
        one.fs.names(Path("/data/table/shard-0000"))
    )


def test_an_empty_copy_gives_a_snapshot_too() -> None:
    one, two = HandCopy(), HandCopy()
    fetch(one.copy.export(), two)
    lead(one, two)
    one.log([1])
    commit(one, two)
    assert keys(two.table) == {1}


# ---- Pieces --------------------------------------------------------------------------------


def test_damaged_pieces_are_not_taken() -> None:
    one, two = filled(), HandCopy()
    export = one.copy.export()
    found = two.copy.receive(export.manifest)
    before = found.missing()
    file, offset, size = before[0]
    data = bytearray(export.read(file, offset, size))
    data[-1] ^= 1
    with pytest.raises(Corruption, match="was not taken"):
        found.write(file, offset, bytes(data))
    assert found.missing() == before
    with pytest.raises(AssertionError, match="missing"):
        found.install()


def test_a_transfer_goes_on_where_it_was_broken_off() -> None:
    one, two = filled(), HandCopy()
    export = one.copy.export()
    found = two.copy.receive(export.manifest)
    pieces = found.missing()
    assert len(pieces) > 2
    for file, offset, size in pieces[:2]:
        found.write(file, offset, export.read(file, offset, size))
    two.restart()
    found = two.copy.receive(export.manifest)
    assert found.missing() == pieces[2:]
    for file, offset, size in pieces[2:]:
        found.write(file, offset, export.read(file, offset, size))
    found.install()
    assert keys(two.table) == set(range(70))


def test_another_snapshot_drops_what_was_fetched_of_the_first() -> None:
    one, two = filled(), HandCopy()
    export = one.copy.export()
    found = two.copy.receive(export.manifest)
    for file, offset, size in found.missing():
        found.write(file, offset, export.read(file, offset, size))
    other = two.copy.receive(replace(export.manifest, snapshot_id="other"))
    assert sum(size for _, _, size in other.missing()) == export.manifest.nbytes
    other.abandon()
    assert two.fs.names(Path("/data/table/shard-0000/incoming")) == []


def test_large_files_come_in_pieces_each_with_its_own_checksum() -> None:
    one, two = HandCopy(), HandCopy()
    lead(one)
    one.log([1], "x" * 3_000)
    commit(one)
    one.table.checkpoint()
    export = one.copy.export()
    file = export.manifest.files[0]
    assert len(file.crcs) == -(-file.size // PIECE_BYTES)
    found = two.copy.receive(export.manifest)
    sizes = [(offset, size) for number, offset, size in found.missing() if number == 0]
    assert sizes == [(0, file.size)]


def test_a_file_that_went_bad_after_it_was_written_is_fetched_again() -> None:
    one, two = filled(), HandCopy()
    found = taken(one, two)
    assert isinstance(two.fs, SimulatedDisk)
    name = one.copy.export().manifest.files[0].name
    two.fs.content(Path("/data/table/shard-0000/incoming") / name)[100] ^= 1
    with pytest.raises(Corruption, match="fetched again"):
        found.install()
    assert len(found.missing()) == 1
    assert keys(two.table) == set()


def test_a_damaged_copy_gives_nothing_away() -> None:
    one = filled()
    assert isinstance(one.fs, SimulatedDisk)
    manifest = one.table._shards[0].store.read_manifest()
    assert manifest is not None
    one.fs.content(Path("/data/table/shard-0000") / manifest.segments[0].file)[200] ^= 1
    assert one.copy.damage is None
    with pytest.raises(Corruption):
        one.copy.export()
    assert manifest.segments[0].file in str(one.copy.damage)


def test_a_snapshot_of_another_shard_or_an_older_state_is_refused() -> None:
    one, two = filled(), HandCopy()
    export = one.copy.export()
    with pytest.raises(Corruption, match="another shard"):
        two.copy.receive(replace(export.manifest, shard_uuid=b"x" * 16))
    found = taken(one, two)
    commit_all(one, two)
    before = two.hashes()
    with pytest.raises(Unavailable, match="has applied"):
        found.install()
    assert two.hashes() == before
    one.log([1])
    commit(one, two)
    assert two.hashes() == one.hashes()


def test_a_full_disk_leaves_the_copy_as_it_was() -> None:
    one, two = filled(), HandCopy()
    assert isinstance(two.fs, SimulatedDisk)
    export = one.copy.export()
    found = two.copy.receive(export.manifest)
    two.fs.free = 0
    file, offset, size = found.missing()[0]
    with pytest.raises(StorageFull):
        found.write(file, offset, export.read(file, offset, size))
    two.fs.free = 1 << 30
    for file, offset, size in found.missing():
        found.write(file, offset, export.read(file, offset, size))
    two.fs.free = 0
    with pytest.raises(StorageFull):
        found.install()
    two.fs.free = 1 << 30
    fetch(export, two)
    assert keys(two.table) == set(range(70))


def test_a_manifest_that_is_no_manifest_is_refused() -> None:
    with pytest.raises(Corruption, match="manifest of a snapshot"):
        SnapshotManifest.unpack(b"\x93abc")


# ---- Kills ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_step_of_installing_leaves_the_old_rows_or_the_new(seed: int) -> None:
    one, old = HandCopy(), HandCopy()
    lead(one, old)
    one.log(range(30))
    commit(one, old)
    old.table.checkpoint()
    one.log(range(100, 140))
    commit(one)
    one.table.checkpoint()
    export = one.copy.export()
    assert isinstance(old.fs, SimulatedDisk)
    chance = random.Random(seed)
    outcomes = set()
    for crash_at in range(1, 200):
        disk = old.fs.copy()
        two = HandCopy(disk)
        found = taken(one, two)
        disk.steps, disk.crash_at = 0, crash_at
        try:
            found.install()
            ended = True
        except PowerLoss:
            ended = False
        two.restart(disk.after_kill() if seed == 0 else disk.after_power_loss(chance))
        rows = keys(two.table)
        assert rows in (set(range(30)), set(range(30)) | set(range(100, 140)))
        outcomes.add(len(rows))
        if len(rows) == 30:
            assert two.copy.end.lsn < one.copy.end.lsn
            fetch(export, two)
        commit(one, two)
        assert two.hashes() == one.hashes()
        if ended:
            break
    assert ended
    assert outcomes == {30, 70}


# ---- Contents ------------------------------------------------------------------------------


def test_equal_rows_have_equal_hashes_whatever_their_segments() -> None:
    one, two = HandCopy(), HandCopy(settings=replace(SETTINGS, seal_rows=7))
    lead(one, two)
    for number in range(5):
        one.log(range(number * 7, number * 7 + 20), f"title {number}")
        commit(one, two)
        one.table.checkpoint()
    assert one.hashes() == two.hashes()
    sizes = [[part.rows for part in copy.table.stats().segments] for copy in (one, two)]
    assert sizes[0] != sizes[1]
    before = two.hashes()
    one.log([3], "changed")
    commit(one, two)
    changed = [
        place
        for place, (was, now) in enumerate(zip(before.buckets, two.hashes().buckets, strict=True))
        if was != now
    ]
    assert len(changed) == 1


def test_hashes_are_of_exactly_the_lsn_that_was_asked_for() -> None:
    one, two = HandCopy(), HandCopy()
    lead(one, two)
    first = one.log([1]).extra["lsn"]
    second = one.log([2]).extra["lsn"]
    commit(one)
    assert one.copy.content_hashes(first, COLUMNS, soon()) is None  # passed
    expected = one.copy.content_hashes(second, COLUMNS, soon())
    one.log([3])
    commit(one)
    ship(one, two)
    two.flusher.run()
    holds = two.copy._holds
    with two.table._shards[0].lock:
        hold = holds.want(second)
    two.copy.advance(one.copy.end.lsn)
    two.steps.run()
    assert hold.view is not None
    assert hold.view.lsn == second
    assert expected is not None
    assert expected.rows == hold.view.live == 2


def test_deletes_and_nulls_count() -> None:
    one, two = HandCopy(), HandCopy()
    lead(one)
    lead(two)
    for copy in (one, two):
        copy.log(range(10))
        commit(copy)
    assert one.hashes() == two.hashes()
    assert one.hashes().rows == 10
    rows = [{**row(3), "vec": None}]
    with pytest.raises(WriteUnknown):
        two.table.insert(table_of(rows), OnConflict.REPLACE, timeout_ms=0)
    commit(two)
    assert [a == b for a, b in zip(one.hashes().buckets, two.hashes().buckets, strict=True)].count(
        False
    ) == 1
    with pytest.raises(WriteUnknown):
        one.table.insert(table_of(rows), OnConflict.REPLACE, timeout_ms=0)
    commit(one)
    assert one.hashes() == two.hashes()
    thread = threading.Thread(target=one.table.modify, args=(lambda view: delete(view, 3),))
    thread.start()
    while thread.is_alive():
        one.flusher.run()
        one.copy.advance(one.copy.end.lsn)
    assert one.hashes().rows == 9
    assert sum(one.hashes().buckets) != sum(two.hashes().buckets)


def test_on_a_real_disk(tmp_path: Path) -> None:
    one = HandCopy(LocalFileSystem(), directory=tmp_path / "one")
    two = HandCopy(LocalFileSystem(), directory=tmp_path / "two")
    lead(one)
    for number in range(3):
        one.log(range(number * 10, number * 10 + 20))
        commit(one)
        one.table.checkpoint()
        if number:
            fetch(one.copy.export(), two)
            commit(one, two)
            assert one.hashes() == two.hashes()
            two.table.checkpoint()
    two.table.close()
    two.open()
    two.copy.advance(one.copy.end.lsn)
    two.settle()
    assert one.hashes() == two.hashes()

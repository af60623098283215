"""Background checkpoints, above all those that fail for lack of space."""

from __future__ import annotations

import errno
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.engine.errors import StorageFull
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.shard import Shard
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from support.disks import PowerLoss, SimulatedDisk
from support.tables import (
    SMALL,
    Fatal,
    contents,
    create,
    definition,
    delete,
    insert,
    keys,
    one_thread,
)
from support.waiting import wait_for

DIRECTORY = Path("/data/table")
FOLDER = DIRECTORY / "shard-0000"
SETTINGS: EngineSettings = replace(SMALL, seal_rows=20, disk_reserve_bytes=0)


def made(disk: SimulatedDisk) -> Table:
    return create(DIRECTORY, context=one_thread(SETTINGS, disk))


def test_a_full_segment_is_sealed_without_being_asked() -> None:
    table = made(SimulatedDisk())
    insert(table, range(15))
    assert [s.sealed for s in table.stats().segments] == [False]
    insert(table, range(15, 30))
    assert [s.sealed for s in table.stats().segments] == [True]
    assert table.stats().wal_bytes == 0


def test_a_long_log_is_enough_reason() -> None:
    disk = SimulatedDisk()
    settings = replace(SETTINGS, seal_rows=1000, checkpoint_wal_bytes=3000)
    table = create(DIRECTORY, context=one_thread(settings, disk))
    for key in range(10):
        insert(table, [key])
    assert any(s.sealed for s in table.stats().segments)


def test_a_checkpoint_without_room_fails_cleanly_and_a_later_one_succeeds() -> None:
    disk = SimulatedDisk()
    table = made(disk)
    insert(table, range(10))
    table.checkpoint()
    insert(table, range(10, 19))
    before = disk.names(FOLDER)
    for operation in ("create", "pwritev"):
        disk.fail = {operation: errno.ENOSPC}
        with pytest.raises(StorageFull):
            table.checkpoint()
        disk.fail = {}
        assert disk.names(FOLDER) == before, "no leftovers take space"
        assert keys(table) == set(range(19))
    table.checkpoint()
    table.check_invariants()
    table.close()
    table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk))
    assert keys(table) == set(range(19))


def test_in_the_background_it_is_logged_and_not_tried_at_every_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimulatedDisk()
    table = made(disk)
    insert(table, range(15))
    disk.fail = {"create": errno.ENOSPC}
    with caplog.at_level(logging.WARNING):
        insert(table, range(15, 30))  # the write itself is fine
        tries = disk.calls["create"]
        for key in range(30, 36):
            insert(table, [key])
    assert disk.calls["create"] == tries
    assert [r.levelname for r in caplog.records if "no checkpoint of table docs" in r.message] == [
        "WARNING"
    ]
    assert keys(table) == set(range(36))
    disk.fail = {}
    table._maintenance._retry_at_bytes = 0  # as after enough writes
    insert(table, [36])
    assert all(s.sealed for s in table.stats().segments)
    table.close()


def test_any_other_failure_ends_the_process() -> None:
    """After a failed write of the disk nobody knows what it holds."""
    disk = SimulatedDisk()
    table = made(disk)
    insert(table, range(15))
    disk.fail = {"create": errno.EIO}
    with pytest.raises(Fatal, match="checkpoint of table docs failed"):
        insert(table, range(15, 30))


def test_closing_without_room_keeps_everything_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearql.engine.table._CLOSE_CHECKPOINT_BYTES", 0)
    disk = SimulatedDisk()
    table = made(disk)
    insert(table, range(10))
    disk.fail = {"create": errno.ENOSPC}
    with caplog.at_level(logging.WARNING):
        table.close()
    assert "closed without a checkpoint" in caplog.text
    disk.fail = {}
    table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk))
    assert keys(table) == set(range(10))
    table.close()
    assert Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk)).stats().wal_bytes == 0


@pytest.mark.parametrize("ends", ["memory is short", "the table is closed"])
def test_the_next_checkpoint_waits_unless_somebody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("nearql.engine.maintenance.LONGEST_PAUSE_S", 3600.0)
    disk = SimulatedDisk()
    settings = replace(SETTINGS, checkpoint_pause=10**12)
    table = create(DIRECTORY, context=one_thread(settings, disk))
    insert(table, range(15))
    insert(table, range(15, 30))
    assert [s.sealed for s in table.stats().segments] == [True]
    insert(table, range(30, 45))
    writer = threading.Thread(target=insert, args=(table, range(45, 60)))  # one_thread: it waits
    writer.start()
    wait_for(table._maintenance._busy.locked, "the next one is due")
    assert not all(s.sealed for s in table.stats().segments)
    if ends == "memory is short":
        table._maintenance.relieve()
        writer.join()
        assert all(s.sealed for s in table.stats().segments)
        table._maintenance._next_at = 0.0
    table.close()
    writer.join()
    assert keys(Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk))) == set(range(60))


def test_memory_that_gets_short_in_a_pause_is_relieved_of_what_is_not_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause is another shard's, and the one that holds memory has no checkpoint due."""
    monkeypatch.setattr("nearql.engine.maintenance.LONGEST_PAUSE_S", 3600.0)
    monkeypatch.setattr("nearql.engine.maintenance.RELIEF_BYTES", 1)
    settings = replace(SETTINGS, checkpoint_pause=10**12)
    table = create(DIRECTORY, context=one_thread(settings, SimulatedDisk()))
    insert(table, range(15))
    insert(table, range(15, 30))  # one is made, and the next one pauses
    insert(table, range(30, 45))
    paused = threading.Thread(target=table._maintenance._submit)
    paused.start()
    wait_for(table._maintenance._busy.locked, "one pauses")
    monkeypatch.setattr(Shard, "wants_checkpoint", False)  # what it was for is done meanwhile
    assert not all(s.sealed for s in table.stats().segments)
    table._maintenance.relieve()
    paused.join()
    assert all(s.sealed for s in table.stats().segments)
    table.close()


# ---- Dead rows ----------------------------------------------------------------------------------


def file_bytes(disk: SimulatedDisk) -> int:
    return sum(disk.size(FOLDER / n) for n in disk.names(FOLDER) if n.startswith("segment-"))


def shape(table: Table) -> list[tuple[int, int, int]]:
    return [(s.first_row, s.rows, s.dead) for s in table.stats().segments]


def of_three_segments(disk: SimulatedDisk) -> Table:
    table = create(DIRECTORY, context=one_thread(SETTINGS, disk))
    for start in range(0, 60, 20):
        insert(table, range(start, start + 20))
        table.checkpoint()
    assert shape(table) == [(0, 20, 0), (20, 20, 0), (40, 20, 0)]
    return table


def test_space_comes_back_after_deletes_without_a_command() -> None:
    """They log little, so that the length of the log alone would not start anything."""
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    before = file_bytes(disk)
    table.modify(lambda view: delete(view, *range(0, 20, 2), 20, 21))
    assert shape(table) == [(0, 10, 0), (20, 20, 2), (40, 20, 0)], (
        "10 % dead is not worth it, 50 % is"
    )
    assert file_bytes(disk) < before - 10 * 16, "the vectors and norms of ten rows at least"
    assert keys(table) == set(range(60)) - {*range(0, 20, 2), 20, 21}
    table.check_invariants()


def test_segments_that_became_small_are_joined() -> None:
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    gone = [k for k in range(60) if k % 20 > 3]
    table.modify(lambda view: delete(view, *gone))
    assert shape(table) == [(0, 12, 0)]
    insert(table, [5])
    assert keys(table) == {k for k in range(60) if k % 20 <= 3} | {5}
    table.check_invariants()
    table.close()
    table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk))
    assert keys(table) == {k for k in range(60) if k % 20 <= 3} | {5}
    table.check_invariants()


def test_a_segment_whose_rows_all_died_takes_its_file_along() -> None:
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    table.modify(lambda view: delete(view, *range(20, 40)))
    assert shape(table) == [(0, 20, 0), (40, 20, 0)]
    assert len([n for n in disk.names(FOLDER) if n.startswith("segment-")]) == 2
    table.check_invariants()


def test_rows_that_die_while_their_segment_is_written_anew_stay_dead() -> None:
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    real = disk.rename
    done: list[Path] = []

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == "MANIFEST" and not done:
            done.append(target)
            table.modify(lambda view: delete(view, 11))
            insert(table, [13], "new", on_conflict=OnConflict.REPLACE)

    disk.rename = rename  # type: ignore[method-assign]
    old = table.read_view()
    table.modify(lambda view: delete(view, *range(0, 20, 2)))
    expected = {*range(1, 20, 2), *range(20, 60)} - {11}
    for _ in range(2):
        assert done
        assert keys(table) == expected
        assert contents(table.read_view())[13]["title"] == "new"
        table.check_invariants()
        table.close()
        table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk))
    assert set(contents(old)) == set(range(60)), "a view held meanwhile stays true"


def test_what_a_kill_interrupted_goes_on_at_open() -> None:
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    disk.fail = {"create": errno.ENOSPC}  # no file can be written: the rows die, their space stays
    table.modify(lambda view: delete(view, *range(0, 20, 2)))
    assert shape(table)[0] == (0, 20, 10)
    disk.fail = {}
    table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk.copy()))
    assert shape(table)[0] == (0, 10, 0)
    assert keys(table) == set(range(60)) - set(range(0, 20, 2))
    table.check_invariants()


@pytest.mark.parametrize("step", range(1, 40, 2))
def test_a_kill_at_any_step_of_it_loses_nothing(step: int) -> None:
    disk = SimulatedDisk()
    table = of_three_segments(disk)
    expected = keys(table) - set(range(0, 40, 3))
    disk.crash_at = disk.steps + step
    killed = False
    try:
        table.modify(lambda view: delete(view, *range(0, 40, 3)))
    except PowerLoss:
        killed = True
    assert killed or step > 20
    table = Table.open(DIRECTORY, definition(), one_thread(SETTINGS, disk.after_kill()))
    assert keys(table) in (expected, set(range(60)))
    table.check_invariants()
    if keys(table) == expected:
        assert all(s.dead == 0 for s in table.stats().segments)

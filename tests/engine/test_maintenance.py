"""Background checkpoints, above all those that fail for lack of space."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.engine.errors import StorageFull
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from support.disks import SimulatedDisk
from support.tables import SMALL, Fatal, create, definition, insert, keys, one_thread

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

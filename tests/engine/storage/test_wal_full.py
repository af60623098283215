"""A disk that is full or cannot be used: refused before logging, and the log goes on after."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.engine import errors
from nearql.engine.settings import MIB, EngineSettings
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.storage.wal import RecordKind, Wal
from nearql.engine.storage.wal_file import FIRST_ALLOCATION
from support.disks import SimulatedDisk, WatchedFileSystem
from support.logs import DIRECTORY, SETTINGS, commit, flush, open_wal, payloads, put

RESERVE = 10_000


def test_below_the_reserve_writes_are_refused_and_at_it_they_go_on() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, disk_reserve_bytes=RESERVE))
    disk.free = RESERVE
    commit(wal, b"fits")
    disk.free = RESERVE - 1
    with pytest.raises(errors.StorageFull, match="9999 bytes are free, .*disk_reserve keeps 10000"):
        put(wal, b"refused")
    assert wal.last_lsn == 1
    assert not wal.flush_group()
    disk.free = RESERVE
    assert commit(wal, b"again") == 2
    disk.free = 0  # a restart must be possible, or nobody could make room
    assert payloads(open_wal(disk.after_kill())) == [b"fits", b"again"]


def test_what_makes_room_may_use_half_of_the_reserve() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, disk_reserve_bytes=RESERVE))
    disk.free = RESERVE // 2
    for kind in (RecordKind.DELETE, RecordKind.TRUNCATE):
        wal.append(kind, [b"x"], epoch=1, timestamp_ms=1)
    disk.free -= 1
    for kind in RecordKind:
        with pytest.raises(errors.StorageFull):
            wal.append(kind, [b"x"], epoch=1, timestamp_ms=1)
    flush(wal)
    assert wal.durable_lsn == 2


def test_without_room_to_double_a_file_it_grows_by_what_is_needed() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, wal_file_bytes=64 * MIB))
    disk.free = 3000
    for _ in range(2):
        commit(wal, bytes(FIRST_ALLOCATION // 2 - 200))  # ends shortly before the room given
    commit(wal, bytes(1000))
    assert FIRST_ALLOCATION < wal.size_bytes < FIRST_ALLOCATION + 3000
    with pytest.raises(errors.StorageFull, match="no space left on the device"):
        put(wal, bytes(5000))
    assert wal.last_lsn == 3
    commit(wal, b"a small one fits still")
    disk.free = 1 << 30
    assert commit(wal, bytes(5000)) == 5
    assert len(payloads(open_wal(disk.after_kill()))) == 5


def test_without_room_for_a_new_file_a_record_is_refused_and_the_log_goes_on() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, bytes(50_000))
    put(wal, b"queued before")
    disk.free = 0
    with pytest.raises(errors.StorageFull):
        put(wal, bytes(50_000))
    assert wal.durable_lsn == 2, "rolling drained the old file first"
    assert not [name for name in disk.names(DIRECTORY) if name.endswith(".tmp")]
    assert commit(wal, b"fits in the old file") == 3
    disk.free = 1 << 30
    assert commit(wal, bytes(50_000)) == 4
    assert len(payloads(open_wal(disk.after_power_loss(random.Random(0))))) == 4


def test_a_log_that_cannot_be_created_says_so() -> None:
    disk = SimulatedDisk()
    disk.free = 0
    with pytest.raises(errors.StorageFull):
        open_wal(disk)
    disk.free = 1 << 30
    assert commit(open_wal(disk), b"x") == 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES])
def test_an_unusable_file_refuses_a_record_and_nothing_is_lost(code: int) -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, b"one")
    disk.fail["allocate"] = disk.fail["create"] = code
    with pytest.raises(errors.Unavailable, match=os.strerror(code)) as info:
        put(wal, bytes(65_400))
    assert info.value.code == "disk_error"
    disk.fail.clear()
    flush(wal)
    commit(wal, b"two")
    assert payloads(open_wal(disk.after_kill()))[-1] == b"two"


def test_a_log_whose_directory_is_gone_refuses_records(tmp_path: Path) -> None:
    wal = open_wal(LocalFileSystem(), tmp_path / "wal")
    (tmp_path / "wal").rename(tmp_path / "elsewhere")
    with pytest.raises(errors.Unavailable, match="No such file or directory"):
        put(wal, b"x")
    assert wal.last_lsn == 0


@pytest.mark.parametrize("operation", ["allocate", "create", "rename", "sync_directory"])
def test_a_failing_disk_under_a_new_file_is_final(operation: str) -> None:
    disk = SimulatedDisk()
    failures: list[str] = []
    wal = open_wal(disk, failures=failures)
    commit(wal, bytes(40_000))
    disk.fail[operation] = errno.EIO
    with pytest.raises(errors.Unavailable):
        put(wal, bytes(40_000))
    assert len(failures) == 1
    with pytest.raises(errors.Unavailable, match="has failed"):
        put(wal, b"x")
    disk.after_kill()
    assert payloads(open_wal(disk)) == [bytes(40_000)]


@pytest.mark.parametrize("operation", ["rename", "sync_directory"])
def test_a_new_file_in_doubt_ends_the_log_whatever_the_error(operation: str) -> None:
    """Records appended to the old file would be ignored if the new one turned out to be there."""
    disk = SimulatedDisk()
    failures: list[str] = []
    wal = open_wal(disk, failures=failures)
    commit(wal, bytes(40_000))
    disk.fail[operation] = errno.EMFILE
    with pytest.raises(errors.Unavailable, match="has failed"):
        put(wal, bytes(40_000))
    assert "creating" in failures[0]
    disk.fail.clear()
    with pytest.raises(errors.Unavailable, match="has failed"):
        put(wal, b"small enough for the old file")


def test_a_hint_that_cannot_be_written_only_costs_a_scan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fs = WatchedFileSystem()
    wal = open_wal(fs, tmp_path / "wal")
    commit(wal, b"one")
    fs.fail["pwritev"] = errno.EACCES
    wal.write_hint()
    wal.close()
    assert caplog.text.count("cannot write") == 2
    fs.fail.clear()
    reopened = open_wal(fs, tmp_path / "wal")
    assert not reopened.recovery.clean
    assert payloads(reopened) == [b"one"]


def test_a_hint_on_a_failing_disk_is_final() -> None:
    disk = SimulatedDisk()
    failures: list[str] = []
    wal = open_wal(disk, failures=failures)
    commit(wal, b"one")
    disk.fail["pwritev"] = errno.EIO
    wal.write_hint()
    assert "wal.hint" in failures[0]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_disk_that_fails_while_a_log_is_opened_is_final(is_new: bool) -> None:
    disk = SimulatedDisk()
    failures: list[str] = []
    if not is_new:
        commit(open_wal(disk), b"one")
        disk = disk.after_kill()
    disk.fail["fdatasync"] = errno.EIO
    with pytest.raises(errors.Unavailable, match="the log"):
        open_wal(disk, failures=failures)
    assert len(failures) == 1
    assert "while the log was opened" in failures[0]
    disk.fail.clear()
    assert payloads(open_wal(disk)) == ([] if is_new else [b"one"])


# ---- A real full disk ------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "nearql-test", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs failed: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill_up(wal: Wal) -> list[bytes]:
    """Write until the disk is full; what was taken."""
    written: list[bytes] = []
    while True:
        payload = b"%d" % len(written) * 2000
        try:
            commit(wal, payload)
        except errors.StorageFull:
            return written
        written.append(payload)


@pytest.mark.parametrize("reserve", [0, MIB])
def test_a_real_full_disk_refuses_writes_and_takes_them_again_later(
    small_disk: Path, reserve: int
) -> None:
    settings = replace(EngineSettings(), disk_reserve_bytes=reserve)
    wal = open_wal(LocalFileSystem(), small_disk / "wal", settings=settings)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(MIB))
    written = fill_up(wal)
    assert 100 < len(written) < 1000
    ballast.unlink()
    for _ in range(10):
        commit(wal, b"room again")
    wal.close()
    reopened = open_wal(LocalFileSystem(), small_disk / "wal", settings=settings)
    assert payloads(reopened) == written + [b"room again"] * 10
    reopened.close()

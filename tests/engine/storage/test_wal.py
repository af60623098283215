"""The log in use: appending, group commit, files, reading, trimming."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine import errors
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.flusher import Flusher
from nearql.engine.storage.wal import RecordKind, Wal
from nearql.engine.storage.wal_file import FIRST_ALLOCATION, file_name
from nearql.engine.storage.wal_hint import read_hint
from support.disks import SimulatedDisk, WatchedFileSystem
from support.logs import (
    DIRECTORY,
    IDENTITY,
    SETTINGS,
    ManualFlusher,
    commit,
    flush,
    numbered,
    open_wal,
    payloads,
    put,
)


def test_a_record_comes_back_with_all_it_was_given() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    lsn = wal.append(
        RecordKind.DELETE, [b"ab", b"", memoryview(b"cde")], epoch=7, request_id=b"r" * 16,
        more=True, timestamp_ms=2**40,
    )  # fmt: skip
    flush(wal)
    for log in (wal, open_wal(disk.after_kill())):
        (record,) = log.read(1)
        assert record.lsn == lsn == 1
        assert (record.epoch, record.kind, bytes(record.payload)) == (
            7,
            RecordKind.DELETE,
            b"abcde",
        )
        assert (record.request_id, record.more, record.timestamp_ms) == (b"r" * 16, True, 2**40)


def test_payload_parts_may_be_any_contiguous_buffers() -> None:
    wal = open_wal(SimulatedDisk())
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    put(wal, vectors, pa.py_buffer(b"arrow"), vectors[:0], bytearray(b"array"))  # type: ignore[arg-type]
    flush(wal)
    assert payloads(wal) == [vectors.tobytes() + b"arrow" + b"array"]


def test_large_parts_reach_the_disk_uncopied(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    wal = open_wal(fs, tmp_path / "wal", settings=EngineSettings())
    vectors = np.ones(100_000, np.float32)
    put(wal, vectors)  # type: ignore[arg-type]
    flush(wal)
    written = [np.frombuffer(b, np.uint8) for b in fs.buffers if len(b) == vectors.nbytes]
    assert len(written) == 1
    assert np.shares_memory(written[0], vectors)
    wal.close()


def test_nothing_is_durable_before_the_sync(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    wal = open_wal(fs, tmp_path / "wal")
    put(wal, b"first")
    seen: list[int] = []
    fs.before_sync = lambda: seen.append(wal.durable_lsn)
    assert not wal.wait_durable(1, timeout_ms=0)
    flush(wal)
    assert seen == [0]
    assert wal.wait_durable(1, timeout_ms=0)
    wal.close()


def test_what_queues_becomes_one_group_up_to_the_limit() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, wal_group_bytes=1000))
    commit(wal, b"warm up")
    before = disk.calls["fdatasync"]
    for _ in range(10):
        put(wal, b"x" * 120)  # 200 bytes each
    flush(wal)
    assert disk.calls["fdatasync"] - before == 2
    put(wal, b"x" * 920)  # 1,000 bytes exactly, and then one more byte
    put(wal, b"x")
    flush(wal)
    assert disk.calls["fdatasync"] - before == 4
    put(wal, b"x" * 5000)  # larger than a group: alone
    flush(wal)
    assert disk.calls["fdatasync"] - before == 5
    assert len(payloads(wal)) == 14


def test_many_writers_share_syncs_and_lose_nothing(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    flusher = Flusher(threads=2)
    settings = replace(SETTINGS, wal_file_bytes=20_000)
    wal = Wal.open(tmp_path / "wal", IDENTITY, settings, fs=fs, flusher=flusher)
    acked: list[tuple[int, bytes]] = []

    def write(writer: int) -> None:
        for number in range(100):
            payload = b"%d/%d" % (writer, number)
            lsn = put(wal, payload)
            assert wal.wait_durable(lsn, timeout_ms=60_000)
            assert wal.durable_lsn >= lsn
            acked.append((lsn, payload))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert sorted(lsn for lsn, _ in acked) == list(range(1, 801))
    assert payloads(wal) == [payload for _, payload in sorted(acked)]
    assert len(fs.names(tmp_path / "wal")) > 3
    wal.close()
    flusher.stop()
    reopened = open_wal(fs, tmp_path / "wal", settings=settings)
    assert payloads(reopened) == [payload for _, payload in sorted(acked)]
    assert fs.calls["fdatasync"] < 800


def test_writers_that_come_during_a_sync_share_the_next_one(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    flusher = Flusher(threads=1)
    wal = Wal.open(tmp_path / "wal", IDENTITY, SETTINGS, fs=fs, flusher=flusher)
    put(wal, b"mark the log open")
    assert wal.wait_durable(1, timeout_ms=60_000)
    in_sync, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        in_sync.set()
        assert go_on.wait(60)

    fs.before_sync = hold
    before = fs.calls["fdatasync"]
    put(wal, b"first")
    assert in_sync.wait(60)
    for _ in range(50):
        last = put(wal, b"meanwhile")
    go_on.set()
    assert wal.wait_durable(last, timeout_ms=60_000)
    assert fs.calls["fdatasync"] - before == 2
    wal.close()
    flusher.stop()


def test_a_few_threads_serve_many_logs(tmp_path: Path) -> None:
    flusher = Flusher(threads=3)
    logs = [
        Wal.open(tmp_path / str(number), IDENTITY, SETTINGS, flusher=flusher)
        for number in range(40)
    ]
    before = threading.active_count()
    for _ in range(5):
        lsns = [put(wal, b"record") for wal in logs]
        assert all(
            wal.wait_durable(lsn, timeout_ms=60_000) for wal, lsn in zip(logs, lsns, strict=True)
        )
    assert threading.active_count() - before <= 3
    for wal in logs:
        wal.close()
    flusher.stop()


def test_the_hint_is_written_about_a_second_after_a_flush_without_a_sync() -> None:
    now = [100.0]
    disk = SimulatedDisk()
    flusher = ManualFlusher()
    flusher._clock = lambda: now[0]
    wal = Wal.open(DIRECTORY, IDENTITY, SETTINGS, fs=disk, flusher=flusher)
    put(wal, b"record")
    flusher._flush(wal)
    before = bytes(disk.map(DIRECTORY / "wal.hint")), disk.calls["fdatasync"]
    now[0] += 0.9
    flusher._write_due_hints()
    assert bytes(disk.map(DIRECTORY / "wal.hint")) == before[0]
    now[0] += 0.2
    flusher._write_due_hints()
    assert bytes(disk.map(DIRECTORY / "wal.hint")) != before[0]
    assert disk.calls["fdatasync"] == before[1]
    assert not disk.handles, "an idle log holds no file open"
    commit(wal, b"it opens it again")


# ---- Files -----------------------------------------------------------------------------


def test_files_are_filled_in_turn_and_never_straddled() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, wal_file_bytes=1024))
    written = [random.Random(n).randbytes(n * 37 % 500) for n in range(40)]
    for payload in written:
        commit(wal, payload)
    names = [name for name in disk.names(DIRECTORY) if name.endswith(".wal")]
    assert len(names) > 10
    assert names[0] == file_name(1)
    assert all(disk.size(DIRECTORY / name) <= 1024 for name in names)
    assert wal.size_bytes == sum(disk.size(DIRECTORY / name) for name in names)
    assert payloads(wal) == written
    assert payloads(open_wal(disk.after_kill())) == written


def test_a_record_larger_than_a_file_gets_a_file_of_its_own() -> None:
    disk = SimulatedDisk()
    settings = replace(SETTINGS, wal_file_bytes=1024)
    wal = open_wal(disk, settings=settings)
    written = [b"small", b"x" * 5000, b"y" * 5000, b"small"]
    for payload in written:
        commit(wal, payload)
    assert payloads(wal) == written
    assert payloads(open_wal(disk.after_kill(), settings=settings)) == written


def test_a_first_record_larger_than_a_file_fits() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(SETTINGS, wal_file_bytes=1024))
    commit(wal, b"x" * 5000)
    assert payloads(wal) == [b"x" * 5000]


def test_a_small_log_takes_little_disk_and_a_growing_one_doubles() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, settings=replace(EngineSettings(), wal_file_bytes=8 * FIRST_ALLOCATION))
    assert wal.size_bytes == FIRST_ALLOCATION
    sizes = set()
    for _ in range(20):
        commit(wal, bytes(FIRST_ALLOCATION // 3))
        sizes.add(wal.size_bytes)
    assert sizes == {f * FIRST_ALLOCATION for f in (1, 2, 4, 8)}


def test_a_new_file_is_synced_with_its_directory_before_it_has_its_name() -> None:
    disk = SimulatedDisk()
    open_wal(disk)
    after = disk.after_power_loss(random.Random(0))
    assert after.size(DIRECTORY / file_name(1)) == 1 << 16


def test_a_payload_at_the_limit_is_taken_and_one_above_refused() -> None:
    wal = open_wal(SimulatedDisk(), settings=replace(SETTINGS, wal_record_bytes=1000))
    commit(wal, b"x" * 999, b"x")
    with pytest.raises(errors.TooLarge, match="1001 bytes is above the limit of 1000"):
        put(wal, b"x" * 1000, b"x")
    assert wal.last_lsn == 1


# ---- Reading and trimming --------------------------------------------------------------


def test_reading_begins_anywhere_and_ends_with_what_is_durable() -> None:
    wal = open_wal(SimulatedDisk(), settings=replace(SETTINGS, wal_file_bytes=600))
    written = numbered(30)
    for payload in written:
        commit(wal, payload)
    put(wal, b"not durable")
    for start in range(1, 32):
        assert payloads(wal, start) == list(written[start - 1 :])
    assert list(wal.read(100)) == []


def test_trimming_drops_whole_files_below_an_lsn() -> None:
    disk = SimulatedDisk()
    settings = replace(SETTINGS, wal_file_bytes=600)
    wal = open_wal(disk, settings=settings)
    written = numbered(60)
    for payload in written:
        commit(wal, payload)
    for below in (0, 1, 17, 40, 1000):
        wal.trim(below)
        assert wal.first_lsn <= max(below, 1)
        if below <= 60:
            assert payloads(wal, max(below, 1)) == list(written[max(below, 1) - 1 :])
    assert [n for n in disk.names(DIRECTORY) if n.endswith(".wal")] == [file_name(wal.first_lsn)]
    assert 1 < wal.first_lsn <= 60
    assert wal.size_bytes == disk.size(DIRECTORY / file_name(wal.first_lsn))
    with pytest.raises(errors.NotFound, match="LSN 1 was trimmed") as info:
        wal.read(1)
    assert info.value.code == "log_trimmed"
    commit(wal, b"after")
    reopened = open_wal(disk.after_kill(), settings=settings)
    assert reopened.last_lsn == 61
    assert payloads(reopened)[-1] == b"after"


def test_a_new_log_begins_where_it_is_told_to() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk, start_lsn=42)
    assert (wal.first_lsn, wal.last_lsn, wal.durable_lsn) == (42, 41, 41)
    assert commit(wal, b"x") == 42
    assert open_wal(disk.after_kill(), start_lsn=7).last_lsn == 42


# ---- The end ---------------------------------------------------------------------------


def test_closing_makes_everything_durable_and_the_next_open_scans_nothing() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, b"one")
    put(wal, b"two")
    wal.close()
    wal.close()
    assert not disk.handles
    assert wal.durable_lsn == 2
    with pytest.raises(errors.Unavailable, match="is closed"):
        put(wal, b"three")
    for seed in range(10):
        reopened = open_wal(disk.after_power_loss(random.Random(seed)))
        assert reopened.recovery.clean
        assert reopened.recovery.records == 0
        assert payloads(reopened) == [b"one", b"two"]
        assert commit(reopened, b"three") == 3
    again = open_wal(disk)
    commit(again, b"three")
    assert payloads(open_wal(disk.after_kill())) == [b"one", b"two", b"three"]


def test_reopening_without_writing_stays_clean() -> None:
    disk = SimulatedDisk()
    commit(wal := open_wal(disk), b"one")
    wal.close()
    for _ in range(3):
        reopened = open_wal(disk)
        assert reopened.recovery.clean
        reopened.close()
    open_wal(disk)
    assert open_wal(disk.after_kill()).recovery.clean


def test_the_clean_mark_is_gone_from_the_disk_before_the_first_new_record() -> None:
    disk = SimulatedDisk()
    commit(wal := open_wal(disk), b"one")
    wal.close()
    after = disk.after_power_loss(nothing := random.Random(0))
    hint = read_hint(after, DIRECTORY)
    assert hint is not None
    assert hint.clean
    put(open_wal(disk), b"two")
    for _ in range(10):
        hint = read_hint(disk.after_power_loss(nothing), DIRECTORY)
        assert hint is not None
        assert not hint.clean


@pytest.mark.parametrize("operation", ["fdatasync", "pwritev"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_is_final(operation: str, code: int) -> None:
    disk = SimulatedDisk()
    failures: list[str] = []
    wal = open_wal(disk, failures=failures)
    commit(wal, b"acknowledged")
    put(wal, b"not")
    disk.fail[operation] = code
    calls = disk.calls[operation]
    assert not wal.flush_group()
    assert len(failures) == 1
    assert "writing" in failures[0]
    assert disk.calls[operation] == calls + 1
    disk.fail.clear()
    calls = disk.calls["fdatasync"]
    assert wal.durable_lsn == 1
    with pytest.raises(errors.WriteUnknown, match="not known whether LSN 2 is durable"):
        wal.wait_durable(2)
    assert wal.wait_durable(1)
    with pytest.raises(errors.Unavailable, match="has failed"):
        put(wal, b"more")
    assert not wal.flush_group()
    wal.write_hint()
    wal.close()
    assert disk.calls["fdatasync"] == calls, "a failed sync is never tried again"
    assert len(failures) == 1


def test_waiters_wake_when_the_log_fails(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    failures: list[str] = []
    flusher = Flusher(threads=1)
    wal = Wal.open(
        tmp_path / "wal", IDENTITY, SETTINGS, fs=fs, flusher=flusher, on_fatal=failures.append
    )
    put(wal, b"mark the log open")
    assert wal.wait_durable(1, timeout_ms=60_000)
    fs.fail["fdatasync"] = errno.EIO
    lsn = put(wal, b"x")
    with pytest.raises(errors.WriteUnknown):
        wal.wait_durable(lsn, timeout_ms=60_000)
    assert len(failures) == 1
    wal.close()
    flusher.stop()


def test_a_bug_in_flushing_fails_the_log_instead_of_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    flusher = Flusher(threads=1)
    wal = Wal.open(tmp_path / "wal", IDENTITY, SETTINGS, flusher=flusher, on_fatal=failures.append)
    monkeypatch.setattr(wal, "_take_group", lambda: 1 / 0)
    lsn = put(wal, b"x")
    with pytest.raises(errors.WriteUnknown, match="internal error"):
        wal.wait_durable(lsn, timeout_ms=60_000)
    assert len(failures) == 1
    flusher.stop()


EXIT = """
import errno, os, sys
from pathlib import Path
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.wal import LogIdentity, RecordKind, Wal
wal = Wal.open(Path(sys.argv[1]), LogIdentity(b"c"*16, b"s"*16, b"a"*16), EngineSettings())
def fail(handle):
    raise OSError(errno.EIO, "Input/output error")
wal.wait_durable(wal.append(RecordKind.BATCH, [b"x"], epoch=1, timestamp_ms=1))
os.fdatasync = fail
wal.wait_durable(wal.append(RecordKind.BATCH, [b"y"], epoch=1, timestamp_ms=1))
print("acknowledged")
"""


def test_by_default_a_failed_sync_ends_the_process_with_70(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(tmp_path / "wal")], capture_output=True, timeout=60
    )
    assert done.returncode == 70
    assert done.stdout == b""
    assert b"stopping with code 70: writing" in done.stderr
    assert b"Input/output error" in done.stderr

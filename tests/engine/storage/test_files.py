"""Files that a crash leaves whole, and the two guards of a data directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nearql.engine import errors
from nearql.engine.storage.files import (
    DATA_FORMAT,
    DirectoryLock,
    LocalFileSystem,
    ensure_format,
    remove_temporaries,
    write_atomic,
    write_new,
)
from support.disks import PowerLoss, SimulatedDisk, WatchedFileSystem

TARGET = Path("/disk/MANIFEST")


@pytest.mark.parametrize("seed", range(5))
def test_an_atomic_write_leaves_the_old_or_the_new_contents_whenever_the_power_fails(
    seed: int,
) -> None:
    chance = random.Random(seed)
    old, new = chance.randbytes(2000), chance.randbytes(3000)
    outcomes = set()
    for crash_at in range(1, 12):
        disk = SimulatedDisk()
        write_atomic(disk, TARGET, old)
        disk.crash_at = disk.steps + crash_at
        finished = True
        try:
            write_atomic(disk, TARGET, new)
        except PowerLoss:
            finished = False
        found = bytes(disk.after_power_loss(chance).map(TARGET))
        assert found == new if finished else found in (old, new)
        outcomes.add((finished, found == new))
    assert {(False, False), (True, True)} <= outcomes


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    write_atomic(fs, tmp_path / "file", b"old")
    fs.fail["pwritev"] = errno.ENOSPC
    with pytest.raises(errors.StorageFull, match="no space left on the device of .*file"):
        write_atomic(fs, tmp_path / "file", b"new")
    assert fs.names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_another_failure_is_raised_as_it_is(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    fs.fail["fdatasync"] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        write_new(fs, tmp_path / "file", [b"data"])
    assert fs.names(tmp_path) == []


def test_temporaries_of_a_crash_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.tmp", "b", "c.tmp"):
        (tmp_path / name).write_bytes(b"x")
    remove_temporaries(LocalFileSystem(), tmp_path)
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
def test_any_number_of_buffers_is_written_in_order(tmp_path: Path, count: int) -> None:
    buffers = [b"%d," % number for number in range(count)]
    buffers.insert(count // 2, b"")
    write_new(LocalFileSystem(), tmp_path / "file", buffers)
    assert (tmp_path / "file").read_bytes() == b"".join(buffers)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(handle: int, buffers: list[memoryview], offset: int) -> int:
        return os.pwrite(handle, bytes(buffers[0][:3]), offset)

    monkeypatch.setattr(os, "pwritev", short)
    write_new(LocalFileSystem(), tmp_path / "file", [b"hello", b" ", b"world"])
    assert (tmp_path / "file").read_bytes() == b"hello world"


def test_mapped_bytes_stay_after_the_file_is_gone(tmp_path: Path) -> None:
    fs = LocalFileSystem()
    write_atomic(fs, tmp_path / "file", b"bytes")
    write_atomic(fs, tmp_path / "empty", b"")
    mapped = fs.map(tmp_path / "file")
    fs.unlink(tmp_path / "file")
    fs.unlink(tmp_path / "file")
    assert bytes(mapped) == b"bytes"
    assert bytes(fs.map(tmp_path / "empty")) == b""


def test_directories_are_made_with_their_parents(tmp_path: Path) -> None:
    fs = LocalFileSystem()
    fs.make_directory(tmp_path / "a" / "b")
    fs.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert fs.names(tmp_path / "a") == ["b"]
    assert fs.names(tmp_path / "nowhere") == []


# ---- The lock --------------------------------------------------------------------------


HOLD = """
import sys
from pathlib import Path
from nearql.engine.storage.files import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_directory_in_use_names_its_holder_and_is_free_after_kill_9(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            errors.Unavailable, match=f"in use by .* \\(pid {holder.pid}\\)"
        ) as info:
            DirectoryLock(tmp_path)
        assert info.value.code == "data_dir_in_use"
        holder.send_signal(signal.SIGKILL)
    with DirectoryLock(tmp_path):
        assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_one_process_cannot_take_a_directory_twice_at_a_time(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    with pytest.raises(errors.Unavailable, match="is open in this process already"):
        DirectoryLock(tmp_path)
    first.close()
    first.close()
    DirectoryLock(tmp_path).close()


# ---- The format marker -----------------------------------------------------------------


def test_a_new_directory_gets_a_marker_that_is_read_again(tmp_path: Path) -> None:
    fs = LocalFileSystem()
    with DirectoryLock(tmp_path):
        assert ensure_format(fs, tmp_path) == {"format": DATA_FORMAT}
    assert ensure_format(fs, tmp_path) == {"format": DATA_FORMAT}


def test_a_newer_directory_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text(json.dumps({"format": DATA_FORMAT + 1, "new": True}))
    with pytest.raises(
        errors.Unavailable,
        match=f"has format {DATA_FORMAT + 1}, this version reads up to {DATA_FORMAT}: upgrade",
    ) as info:
        ensure_format(LocalFileSystem(), tmp_path)
    assert info.value.code == "newer_format"
    assert os.listdir(tmp_path) == ["FORMAT"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "x"}', '{"format": null}', "\0"])
def test_a_damaged_marker_is_corruption(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(errors.Corruption, match="FORMAT is damaged"):
        ensure_format(LocalFileSystem(), tmp_path)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(errors.Unavailable, match=r"holds 'thesis\.tex'") as info:
        ensure_format(LocalFileSystem(), tmp_path)
    assert info.value.code == "not_a_data_directory"
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_crash_while_the_marker_is_written_does_not_lock_the_directory_out() -> None:
    for crash_at in range(1, 12):
        disk = SimulatedDisk(crash_at=crash_at)
        with contextlib.suppress(PowerLoss):
            ensure_format(disk, TARGET.parent)
        after = disk.after_power_loss(random.Random(crash_at))
        assert ensure_format(after, TARGET.parent) == {"format": DATA_FORMAT}

"""The metadata journal: what is answered is kept, what is damaged is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from nearql.cluster.metadata import journal as journals
from nearql.cluster.metadata.commands import AllocateNumbers
from nearql.cluster.metadata.journal import Journal
from nearql.cluster.metadata.local import LocalMetadata
from nearql.engine.errors import Corruption, StorageFull, TooLarge, Unavailable
from nearql.engine.storage.files import Buffer, LocalFileSystem


class Fatal(Exception):
    """Stands for the end of the process."""


def fatal(reason: str) -> NoReturn:
    raise Fatal(reason)


def opened(directory: Path, fs: LocalFileSystem | None = None) -> Journal:
    return Journal(directory, fs or LocalFileSystem(), fatal)


def filled(directory: Path, count: int = 4) -> Path:
    journal = opened(directory)
    for number in range(count):
        journal.append(f"entry {number}".encode())
    journal.close()
    return directory / "journal"


def test_entries_are_there_after_reopening(tmp_path: Path) -> None:
    filled(tmp_path)
    again = opened(tmp_path)
    assert again.entries == [b"entry 0", b"entry 1", b"entry 2", b"entry 3"]
    assert again.append(b"more") == 5


def test_a_write_torn_at_any_byte_loses_only_itself(tmp_path: Path) -> None:
    path = filled(tmp_path, 3)
    whole = path.read_bytes()
    last = len(whole) - (20 + len(b"entry 2"))
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        journal = opened(tmp_path)
        assert journal.entries == [b"entry 0", b"entry 1"], cut
        assert path.stat().st_size == last
        journal.close()


def test_a_flipped_bit_before_a_good_entry_is_damage_and_nothing_is_cut(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    entry = 20 + len(b"entry 0")
    for position in range(8, 8 + 3 * entry):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(Corruption):
            opened(tmp_path)
        assert path.read_bytes() == bytes(damaged)


def test_compaction_keeps_the_state_and_forgets_the_entries(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = opened(tmp_path)
    journal.compact({"all": "four"})
    journal.append(b"fifth")
    journal.close()
    again = opened(tmp_path)
    assert (again.snapshot_index, again.snapshot, again.entries) == (4, {"all": "four"}, [b"fifth"])


def test_a_crash_between_snapshot_and_shorter_journal_repeats_nothing(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()
    journal = opened(tmp_path)
    journal.compact({"all": "four"})
    journal.close()
    path.write_bytes(before)  # the second half of the compaction never reached the disk
    again = opened(tmp_path)
    assert (again.snapshot_index, again.entries, again.last_index) == (4, [], 4)


def test_a_journal_that_misses_entries_behind_its_snapshot_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    entry = 20 + len(b"entry 0")
    path.write_bytes(whole[:8] + whole[8 + entry :])
    with pytest.raises(Corruption, match="missing"):
        opened(tmp_path)


def test_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = opened(tmp_path)
    journal.compact({"all": "four"})
    journal.close()
    data = bytearray((tmp_path / "snapshot").read_bytes())
    data[-1] ^= 1
    (tmp_path / "snapshot").write_bytes(data)
    with pytest.raises(Corruption, match="checksum"):
        opened(tmp_path)


class FullDisk(LocalFileSystem):
    """Takes half of a write, then is full."""

    full = False

    def pwritev(self, handle: int, buffers: Sequence[Buffer], offset: int) -> None:
        if self.full:
            os.pwrite(handle, bytes(buffers[0])[:7], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().pwritev(handle, buffers, offset)


def test_a_full_disk_refuses_the_entry_and_the_journal_goes_on(tmp_path: Path) -> None:
    fs = FullDisk()
    journal = opened(tmp_path, fs)
    journal.append(b"one")
    fs.full = True
    with pytest.raises(StorageFull):
        journal.append(b"two")
    fs.full = False
    assert journal.append(b"three") == 2
    journal.close()
    assert opened(tmp_path).entries == [b"one", b"three"]


class FailingSync(LocalFileSystem):
    """An fsync that fails."""

    failing = False

    def fdatasync(self, handle: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().fdatasync(handle)


def test_a_failed_fsync_ends_the_process(tmp_path: Path) -> None:
    fs = FailingSync()
    journal = opened(tmp_path, fs)
    fs.failing = True
    with pytest.raises(Fatal, match="fsync"):
        journal.append(b"one")


def test_local_metadata_survives_restarts_and_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "COMPACT_BYTES", 600)
    first = LocalMetadata.open(tmp_path, LocalFileSystem(), fatal)
    cluster, node = first.state.cluster_id, first.node_id
    for number in range(20):
        command = AllocateNumbers(request_id=f"r{number}", table_uuid="none", count=1)
        assert first.propose(command).code == "undefined_table"
    state = first.state
    first.close()
    again = LocalMetadata.open(tmp_path, LocalFileSystem(), fatal)
    assert (again.state.cluster_id, again.node_id) == (cluster, node)
    assert again.state == state
    assert (tmp_path / "snapshot").exists()


def test_an_oversized_or_late_command_is_refused(tmp_path: Path) -> None:
    metadata = LocalMetadata.open(tmp_path, LocalFileSystem(), fatal)
    with pytest.raises(TooLarge):
        metadata.propose(AllocateNumbers(request_id="x" * 300_000, table_uuid="t", count=1))
    metadata.close()
    with pytest.raises(Unavailable):
        metadata.propose(AllocateNumbers(request_id="x", table_uuid="t", count=1))


def test_watchers_see_every_state_in_order(tmp_path: Path) -> None:
    metadata = LocalMetadata.open(tmp_path, LocalFileSystem(), fatal)
    seen: list[int] = []
    metadata.watch(lambda state: seen.append(state.applied_index))
    start = metadata.state.applied_index
    for number in range(3):
        metadata.propose(AllocateNumbers(request_id=f"r{number}", table_uuid="t", count=1))
    metadata.barrier()
    assert seen == [start + 1, start + 2, start + 3]

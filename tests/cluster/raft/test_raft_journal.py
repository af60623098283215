"""The member's log: what a crash, a torn write or a flipped bit may and may not do to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NoReturn

import pytest

from nearql.cluster.metadata.raft.journal import MAGIC, Entry, RaftJournal
from nearql.engine.errors import Corruption, Unavailable
from nearql.engine.storage.files import LocalFileSystem
from support.disks import PowerLoss, SimulatedDisk

PATH = Path("/raft/log")


class Fatal(BaseException):
    """The process would have ended."""


def on_fatal(reason: str) -> NoReturn:
    raise Fatal(reason)


def file_id() -> bytes:
    return b"sixteen bytes id"


def open_on(disk: SimulatedDisk) -> RaftJournal:
    return RaftJournal(PATH, disk, on_fatal, file_id)


def contents(journal: RaftJournal) -> tuple[object, ...]:
    return journal.entries, journal.term, journal.vote, journal.snapshot


def filled(disk: SimulatedDisk) -> RaftJournal:
    """Three frames behind the first: votes, entries, a truncation."""
    journal = open_on(disk)
    journal.set_vote(3, "n2")
    journal.add(b"\x01", 1, 0)
    journal.add(b"\x00first" * 40, 2, 3)
    journal.sync()
    journal.add(b"\x00second", 3, 3)
    journal.set_commit_index(3)
    journal.sync()
    journal.truncate_from(2)
    journal.add(b"\x00third", 3, 4)
    journal.set_vote(4, "")
    journal.sync()
    return journal


def test_what_was_synced_is_found_again() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    again = open_on(disk.after_power_loss(random.Random(1)))
    assert contents(again) == contents(journal)
    assert again.entries[-1] == Entry(b"\x00third", 3, 4)
    assert (again.term, again.vote, again.commit_index) == (4, "", 3)


def test_a_sync_without_changes_costs_no_fsync() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    before = disk.calls["fdatasync"]
    journal.set_commit_index(2)
    journal.sync()
    assert disk.calls["fdatasync"] == before


def test_many_entries_cost_one_fsync() -> None:
    disk = SimulatedDisk()
    journal = open_on(disk)
    before = disk.calls["fdatasync"]
    for index in range(1, 200):
        journal.add(b"\x00", index, 1)
    journal.sync()
    assert disk.calls["fdatasync"] == before + 1


def test_a_torn_end_is_cut_at_every_byte(tmp_path: Path) -> None:
    """5-raft 5.2: a log cut anywhere in its last frame is the log before that frame."""
    fs = LocalFileSystem()
    path = tmp_path / "log"
    journal = RaftJournal(path, fs, on_fatal)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    whole_until = journal.size_bytes
    journal.add(b"\x00last", 2, 1)
    journal.sync()
    data = path.read_bytes()
    for cut in range(whole_until, len(data)):
        path.write_bytes(data[:cut])
        assert [e.log_index for e in RaftJournal(path, fs, on_fatal).entries] == [1], cut
        path.write_bytes(data[:cut] + bytes(len(data) - cut))
        assert [e.log_index for e in RaftJournal(path, fs, on_fatal).entries] == [1], cut


def test_a_flipped_bit_before_the_end_is_reported_and_nothing_is_cut(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    data = bytes(disk.map(PATH))
    last_frame = data.rfind(b"NQrf")
    fs, path = LocalFileSystem(), tmp_path / "log"
    for position in range(len(MAGIC), last_frame, 7):
        broken = bytearray(data)
        broken[position] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(Corruption, match="start it again") as refusal:
            RaftJournal(path, fs, on_fatal)
        assert refusal.value.code == "metadata_corrupt"
        assert path.read_bytes() == broken
    assert journal.size_bytes == len(data)


def test_bytes_of_a_command_never_pass_for_a_frame(tmp_path: Path) -> None:
    """A torn entry that holds an older file's bytes is a torn write, and no proof of damage."""
    fs, path = LocalFileSystem(), tmp_path / "log"
    journal = RaftJournal(path, fs, on_fatal)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    journal.close()
    evil = path.read_bytes() * 2
    journal = RaftJournal(path, fs, on_fatal)
    journal.add(b"\x00" + evil + b"rest", 2, 1)
    journal.sync()
    path.write_bytes(path.read_bytes()[:-3])
    assert [e.log_index for e in RaftJournal(path, fs, on_fatal).entries] == [1]


def compacted(disk: SimulatedDisk) -> RaftJournal:
    journal = filled(disk)
    journal.stage_snapshot(b"state at 2")
    journal.compact_to(1)
    journal.add(b"\x00fourth", 4, 4)
    journal.sync()
    return journal


def test_compaction_keeps_the_vote_and_the_rest() -> None:
    disk = SimulatedDisk()
    journal = compacted(disk)
    again = open_on(disk.after_power_loss(random.Random(2)))
    assert contents(again) == contents(journal)
    assert again.snapshot == b"state at 2"
    assert [entry.log_index for entry in again.entries] == [2, 3, 4]


def test_a_snapshot_from_the_leader_replaces_everything_at_once() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.stage_snapshot(b"state at 90")
    journal.clear()
    journal.add(b"\x00prev", 89, 7)
    journal.add(b"\x00last", 90, 7)
    journal.sync()
    again = open_on(disk.after_power_loss(random.Random(3)))
    assert ([e.log_index for e in again.entries], again.snapshot) == ([89, 90], b"state at 90")


@pytest.mark.parametrize("seed", range(6))
def test_power_lost_at_any_step_leaves_one_of_the_states_between(seed: int) -> None:
    """Never a mixture of the log before a compaction and the snapshot after it, or the reverse."""
    states = legal_states()
    steps = _steps_of(compacted)
    for crash_at in range(1, steps + 1):
        disk = SimulatedDisk(crash_at=crash_at, torn=random.Random(seed))
        with pytest.raises(PowerLoss):
            compacted(disk)
        chance = random.Random(seed * 1000 + crash_at)
        found = contents(open_on(disk.after_power_loss(chance)))
        assert found in states, crash_at


def legal_states() -> list[tuple[object, ...]]:
    """What each sync of `compacted` leaves."""
    first, second = Entry(b"\x01", 1, 0), Entry(b"\x00first" * 40, 2, 3)
    third, fourth = Entry(b"\x00third", 3, 4), Entry(b"\x00fourth", 4, 4)
    return [
        ([], 0, "", None),
        ([first, second], 3, "n2", None),
        ([first, second, Entry(b"\x00second", 3, 3)], 3, "n2", None),
        ([first, second, third], 4, "", None),
        ([second, third], 4, "", b"state at 2"),
        ([second, third, fourth], 4, "", b"state at 2"),
    ]


def _steps_of(scenario: object) -> int:
    disk = SimulatedDisk()
    assert callable(scenario)
    scenario(disk)
    return disk.steps


def test_a_failed_fsync_ends_the_process() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.add(b"\x00", 4, 4)
    disk.fail["fdatasync"] = 5
    with pytest.raises(Fatal, match="its pages may be lost"):
        journal.sync()


def test_a_full_disk_says_so() -> None:
    disk = SimulatedDisk()
    journal = filled(disk)
    journal.add(b"\x00", 4, 4)
    disk.free = 3
    with pytest.raises(Fatal, match="no space left for the metadata log"):
        journal.sync()


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"NQRJ0007" + bytes(40))
    with pytest.raises(Unavailable, match="format 7.*upgrade NearQL"):
        RaftJournal(path, LocalFileSystem(), on_fatal)


def test_a_stranger_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"PYSYNCOBJ" + bytes(40))
    with pytest.raises(Corruption, match="is no metadata log"):
        RaftJournal(path, LocalFileSystem(), on_fatal)

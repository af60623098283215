"""What stock PySyncObj 0.3.17 does with a crash, a bad disk or a raising callback, and ours beside.

Its network faults are shown by the mutants of `test_raft_guard` (members without one of our rules
are the library as it comes) and in `test_mesh`.
"""

from __future__ import annotations

import gc
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as syncobj
import pytest
from pysyncobj.config import SyncObjConf
from pysyncobj.journal import FileJournal
from pysyncobj.transport import Transport

from nearql.cluster.metadata.raft import library
from nearql.engine.errors import Corruption, InternalError, InvalidRequest
from nearql.engine.storage.files import LocalFileSystem
from support.raft_stage import Stage, entries, on_stage
from support.raft_world import LOG


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library with its own pickle, which a member of ours takes away."""
    monkeypatch.setattr(syncobj, "pickle", pysyncobj.pickle)


class Alone(syncobj.SyncObj):  # type: ignore[misc]
    """A stock cluster of one that remembers its calls."""

    def __init__(self, folder: Path | None = None) -> None:
        files: dict[str, Any] = {}
        if folder is not None:
            files = {"journalFile": str(folder / "journal"), "fullDumpFile": str(folder / "dump")}
        conf = SyncObjConf(autoTick=False, useFork=False, raftMinTimeout=0.4, **files)
        super().__init__("127.0.0.1:1", [], conf, transportClass=Transport)
        self.calls: list[int] = []

    @syncobj.replicated  # type: ignore[untyped-decorator]
    def put(self, number: int) -> int:
        if number < 0:
            raise ValueError("by the test")
        self.calls.append(number)
        return len(self.calls)

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.doTick(0.0)

    def lead(self) -> None:
        self._SyncObj__raftElectionDeadline = 0
        self.ticks(5)
        assert self._isLeader()


@pytest.fixture
def fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of every call that makes something durable."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            calls.append(name)
            real(*arguments)

        return call

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return calls


def test_stock_votes_and_acknowledges_without_one_fsync(tmp_path: Path, fsyncs: list[str]) -> None:
    """Group 3. Ours: `Stage.send` and `World.transmit` look at the disk with every message."""
    journal = FileJournal(str(tmp_path / "journal"))
    journal.setCurrentTerm(7, "n2")
    journal.add(b"\x00x", 1, 7)
    assert fsyncs == []
    journal._destroy()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its open file
def test_stock_cannot_start_on_a_torn_journal(tmp_path: Path) -> None:
    """Group 2. Ours: `test_a_torn_end_is_cut_at_every_byte`."""
    path = tmp_path / "journal"
    journal = FileJournal(str(path))
    for index in range(1, 60):
        journal.add(b"\x00" + bytes(50), index, 1)
    journal._destroy()
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises((struct.error, ValueError)):
        FileJournal(str(path))
    gc.collect()


def test_stock_takes_a_flipped_bit_for_the_truth(tmp_path: Path) -> None:
    """Group 2. Ours: `test_a_flipped_bit_before_the_end_is_reported_and_nothing_is_cut`."""
    path = tmp_path / "journal"
    journal = FileJournal(str(path))
    journal.add(b"\x00honest", 1, 1)
    journal._destroy()
    path.write_bytes(path.read_bytes().replace(b"honest", b"forged"))
    again = FileJournal(str(path))
    assert again[0][0] == b"\x00forged"
    again._destroy()


def test_stock_loses_what_came_after_a_dump_whose_journal_was_not_yet_cut(tmp_path: Path) -> None:
    """Group 2: the crash between a dump's rename and the journal's rewrite."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    node = Alone(before)
    node.lead()
    for number in range(20):
        node.put(number)
        node.ticks(3)
    uncut = list(node._SyncObj__raftLog[0:])
    node.forceLogCompaction()
    node._SyncObj__tryLogCompaction()  # the dump is renamed; the journal is cut a tick later
    shutil.copy(before / "dump", after / "dump")
    for number in range(20, 30):  # acknowledged, and in the journal alone
        node.put(number)
        node.ticks(3)
    uncut += [entry for entry in node._SyncObj__raftLog[0:] if entry[1] > uncut[-1][1]]
    node._doDestroy()
    journal = FileJournal(str(after / "journal"))
    for entry in uncut:
        journal.add(*entry)
    journal._destroy()
    again = Alone(after)
    again.ticks(3)
    assert len(again._SyncObj__raftLog) == 2
    assert set(range(20, 30)).isdisjoint(again.calls)
    again._doDestroy()


def test_ours_keeps_what_came_after_a_snapshot() -> None:
    """Group 2; with power lost at every operation of the disk: test_raft_journal."""
    with on_stage(compact_entries=5) as stage:
        for index in range(2, 30):
            stage.append(1, (index - 1, 1 if index > 2 else 0), entries(1, index, index), index)
        assert stage.member.journal.snapshot is not None
        stage.open()
        stage.append(1, (29, 1), [], commit=29)
        assert stage.machine.commands == [b"%d" % n for n in range(2, 30)]


def test_stock_applies_an_entry_twice_where_a_callback_raises() -> None:
    """Group 11. Ours: `test_a_callback_that_raises_applies_nothing_twice`."""
    node = Alone()
    node.lead()

    def done(_result: object, _error: object) -> None:
        raise ConnectionError("the caller has gone")

    node.put(1, callback=done)
    with pytest.raises(ConnectionError):
        node.ticks(4)
    node.ticks(4)
    assert node.calls == [1, 1]


def test_stock_runs_an_apply_that_raises_again_with_each_tick() -> None:
    """Group 11. Ours: `test_an_apply_that_raises_stops_the_member...`."""
    node = Alone()
    node.lead()
    node.put(-1)
    node.put(5)
    raised = 0
    for _ in range(10):
        try:
            node.doTick(0.0)
        except ValueError:
            raised += 1
    assert raised >= 8
    assert node.calls == []


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library.self_check()
    monkeypatch.setattr(library, "VERSION", "0.3.18")
    with pytest.raises(InternalError, match=r"0\.3\.18 is installed.*==0\.3\.17"):
        library.self_check()


def test_a_library_without_a_private_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(syncobj.SyncObj, "_SyncObj__loadDumpFile")
    with pytest.raises(InternalError, match="it lacks loadDumpFile"):
        library.self_check()


def test_a_snapshot_of_a_newer_version_is_refused_by_name() -> None:
    """Group 17: a downgrade tells what to do."""
    import msgpack

    from nearql.cluster.metadata.raft.sidecar import MetadataMachine

    with pytest.raises(Corruption, match="upgrade NearQL"):
        MetadataMachine(lambda *_frame: None).parse(msgpack.packb([99, {}]))


OLD_STATE = {  # as the first version wrote it: no settings, no fences, no generations
    "cluster_id": "c", "version": 3, "applied_index": 9,
    "nodes": {"n": {"node_id": "n", "name": "n1", "url": "u", "incarnation": 2}},
    "tables": {}, "results": {"r1": {"code": "", "detail": "", "value": 7}},
}  # fmt: skip


def test_a_snapshot_of_the_first_version_is_read() -> None:
    """Group 17: fields that came later have their defaults, and a retry still finds its answer."""
    from nearql.cluster.metadata.codec import pack
    from nearql.cluster.metadata.commands import DropIndex
    from nearql.cluster.metadata.raft.sidecar import MetadataMachine
    from nearql.cluster.metadata.state import Result, apply

    machine = MetadataMachine(lambda *_frame: None)
    state = machine.parse(pack(OLD_STATE))
    assert (state.nodes["n"].fenced, state.settings, state.feature_level) == (False, {}, 0)
    assert apply(state, DropIndex(request_id="r1", index_uuid="x"))[1] == Result(value=7)


def test_a_log_survives_being_copied_to_a_real_disk(tmp_path: Path) -> None:
    """Group 17: the bytes that a simulated disk holds are a log anywhere."""
    with on_stage() as stage:
        stage.append(1, (1, 0), entries(1, 2, 9), commit=9)
        data = bytes(stage.disk.map(LOG))
    path = tmp_path / "log"
    path.write_bytes(data)
    from nearql.cluster.metadata.raft.journal import RaftJournal

    journal = RaftJournal(path, LocalFileSystem(), Stage._on_fatal.__get__(object()))
    assert [entry.log_index for entry in journal.entries] == list(range(1, 10))
    journal.close()


@pytest.mark.parametrize("pair", [(0.2, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_election_timeouts_that_do_not_fit_are_refused(pair: tuple[float, float]) -> None:
    """Stock asserts it, and `python -O` would let it pass."""
    with pytest.raises(InvalidRequest, match="three heartbeats"):
        library.Timing(*pair)

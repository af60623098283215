"""A disk that takes too long: others do without it, and in the end the process goes."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.disks import DiskWatch
from nearql.engine.errors import NearQLError
from nearql.engine.storage.files import LocalFileSystem
from support.replication_nodes import DataNode, Trio
from support.waiting import wait_for

# ---- The watch --------------------------------------------------------------------------------


@dataclass
class Log:
    """A copy of which the log moves as a test says."""

    durable_lsn: int = 0
    end_lsn: int = 0
    has_others: bool = True
    shard_uuid: str = "s"
    slow: list[bool] = field(default_factory=list)

    @property
    def copy(self) -> Any:
        return SimpleNamespace(durable_lsn=self.durable_lsn, end=SimpleNamespace(lsn=self.end_lsn))

    def set_slow(self, slow: bool) -> None:
        self.slow.append(slow)


def watch(*logs: Log) -> tuple[DiskWatch, list[str]]:
    stuck: list[str] = []
    return DiskWatch(lambda: logs, 1000, 4000, stuck.append), stuck


def test_a_log_that_is_synced_or_moves_is_not_slow() -> None:
    log = Log(durable_lsn=5, end_lsn=5)
    found, stuck = watch(log)
    found.look(10_000)
    for lsn in range(6, 12):
        log.durable_lsn, log.end_lsn = lsn, lsn + 3
        found.look(900)
    assert not any(log.slow)
    assert not stuck


def test_a_log_that_waits_is_slow_and_then_stuck() -> None:
    log = Log(durable_lsn=5, end_lsn=6)
    found, stuck = watch(log)
    for _ in range(4):
        found.look(500)
    assert log.slow == [False, False, True, True]  # the first look only sees that it waits
    for _ in range(5):
        found.look(500)
    assert len(stuck) == 1
    assert "replication.disk_stuck_ms" in stuck[0]
    log.durable_lsn = 6
    found.look(500)
    assert log.slow[-1] is False


def test_an_only_copy_does_not_end_its_process() -> None:
    found, stuck = watch(Log(end_lsn=1, has_others=False))
    for _ in range(20):
        found.look(500)
    assert not stuck


# ---- Copies on a disk that stands still -------------------------------------------------------


class StoppedDisk(LocalFileSystem):
    """Syncs wait until they are let go on."""

    def __init__(self) -> None:
        self.goes = threading.Event()

    def fdatasync(self, handle: int) -> None:
        self.goes.wait()
        super().fdatasync(handle)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    make_certificates(tmp_path, ["a", "b", "c"])
    made = Trio(tmp_path, tmp_path, disk_slow_ms=300)
    yield made
    made.close()


def stop_disk(node: DataNode) -> StoppedDisk:
    """From now on this node's log is not synced."""
    disk = StoppedDisk()
    node.copy._wal._fs = node.copy._wal._active._fs = disk  # type: ignore[attr-defined]
    return disk


@pytest.mark.slow
def test_a_replica_on_a_slow_disk_leaves_the_set_and_comes_back(trio: Trio) -> None:
    trio["a"].write_soon([1])
    disk = stop_disk(trio["b"])
    try:
        trio["a"].write_soon([2])  # waits for b until it has left
        assert "id-b" not in trio.catalog.row.isr
        assert trio.catalog.row.primary == "id-a"
    finally:
        disk.goes.set()
    trio.all_show([1, 2])
    trio.are_alike()


@pytest.mark.slow
def test_a_primary_on_a_slow_disk_is_replaced(trio: Trio) -> None:
    trio["a"].write_soon([1])
    disk = stop_disk(trio["a"])
    told: list[str] = []

    def write() -> None:
        try:
            trio["a"].write([2])
        except NearQLError as error:
            told.append(error.code)
        else:
            told.append("done")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: trio.catalog.row.primary != "id-a", "another primary", 60)
        successor = trio[str(trio.catalog.row.primary).removeprefix("id-")]
        successor.forget_promises()
        successor.write_soon([3])  # waits for a until it has left the set
        assert "id-a" not in trio.catalog.row.isr
    finally:
        disk.goes.set()
        writer.join()
    assert told in (["write_unknown"], ["done"])
    assert {1, 3} <= set(successor.ids())


class FailedDisk(LocalFileSystem):
    """Syncs fail."""

    def fdatasync(self, handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_a_promise_that_the_disk_can_not_keep_ends_the_process(trio: Trio) -> None:
    """Node b can't note the new epoch: it must not answer in it, nor try again."""
    trio["a"].write_soon([1])
    copy: Any = trio["b"].copy
    copy._context = replace(copy._context, fs=FailedDisk())
    trio.catalog.promote("id-c")
    wait_for(lambda: trio["b"].given_up != [], "its end", 60)
    assert "failed" in trio["b"].given_up[0]

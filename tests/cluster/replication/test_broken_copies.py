"""A copy whose disk is full, that is damaged, or whose rules are broken: what its node does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.runner import WAITING_EVENTS, CopyRunner
from nearql.engine.errors import Corruption, StorageFull, Unavailable
from nearql.engine.shard.copy import Appended
from support.replication_nodes import SHARD, DataNode, Trio
from support.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    make_certificates(tmp_path / "certificates", ["a", "b", "c"])
    made = Trio(tmp_path, tmp_path / "certificates")
    made["a"].write_soon([0])
    made.all_show([0])
    yield made
    made.close()


def runner_of(node: DataNode) -> CopyRunner:
    return node.replication._runners[SHARD]


def test_a_replica_without_room_waits_for_it_and_holds_nobody_up(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, copy = threading.Event(), trio["c"].copy
    append = copy.append

    def refusing(records: Sequence[Any]) -> Appended:
        if full.is_set():
            raise StorageFull("the disk of c is full")
        return append(records)

    monkeypatch.setattr(copy, "append", refusing)
    full.set()
    trio["a"].write_soon([1])  # answered once c is not waited for any more
    assert "id-c" not in trio.catalog.row.isr
    wait_for(lambda: "full" in (trio["c"].handle.status.alarm or ""), "c says so", 60)
    assert trio["c"].handle.readable
    assert trio["c"].ids() == [0]
    full.clear()
    trio["a"].write_soon([2])
    trio.all_show([1, 2])
    trio.are_alike()
    assert trio["c"].handle.status.alarm is None


def test_a_copy_that_contradicts_its_primary_is_made_anew(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = trio.catalog.row.replicas["id-c"]
    copy = trio["c"].copy
    monkeypatch.setattr(copy, "append", lambda records: Appended(copy.end, mismatch=records[0].lsn))
    trio["a"].write_soon([1])
    trio.all_show([0, 1])
    trio.are_alike()
    assert trio.catalog.row.replicas["id-c"] == trio["c"].copy.alloc_id.hex() != name


def test_a_condemned_copy_is_made_anew_and_holds_the_same(trio: Trio) -> None:
    name = trio.catalog.row.replicas["id-b"]
    trio["b"].replication.condemn(SHARD, "its hashes differ")
    wait_for(lambda: trio.catalog.row.replicas["id-b"] != name, "another copy", 60)
    trio["a"].write_soon([1])
    trio.all_show([0, 1])
    trio.are_alike()


def test_a_replica_whose_log_is_damaged_is_made_anew(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = trio["c"].copy

    def damaged(records: Sequence[Any]) -> Appended:
        raise Corruption("the log of c is damaged")

    monkeypatch.setattr(copy, "append", damaged)
    trio["a"].write_soon([1])
    trio.all_show([0, 1])
    trio.are_alike()
    assert trio["c"].copy is not copy


def test_a_copy_with_a_damaged_file_is_made_anew(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As scrubbing finds it."""
    copy = trio["c"].copy
    found = property(lambda self: "a segment is damaged" if self is copy else None)
    monkeypatch.setattr(type(copy), "damage", found)
    wait_for(lambda: trio["c"].copy is not copy, "there is a new copy", 60)
    trio["a"].write_soon([1])
    trio.all_show([0, 1])
    trio.are_alike()


def test_a_copy_whose_rules_are_broken_takes_no_further_part(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug on one node is no reason to do anything that can't be undone; the others go on."""

    def broken(now_ms: int, event: ev.Event) -> list[Any]:
        raise AssertionError("commit went back")

    monkeypatch.setattr(runner_of(trio["c"]).core, "step", broken)
    wait_for(lambda: trio["c"].handle.role == "halted", "c stops", 60)
    assert "commit went back" in (trio["c"].handle.status.alarm or "")
    assert not trio["c"].handle.readable
    trio["a"].write_soon([1])
    assert "id-c" not in trio.catalog.row.isr
    monkeypatch.undo()
    trio.stop("c")
    trio.start("c")
    trio.all_show([0, 1])
    trio.are_alike()


def test_a_primary_whose_rules_are_broken_answers_nobody(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(now_ms: int, event: ev.Event) -> list[Any]:
        raise AssertionError("two primaries")

    monkeypatch.setattr(runner_of(trio["a"]).core, "step", broken)
    wait_for(lambda: trio["a"].handle.role == "halted", "a stops", 60)
    with pytest.raises(Unavailable):
        trio["a"].handle.check_writable("one")
    trio.catalog.promote("id-b")
    trio["b"].write_soon([1])


def test_messages_beyond_what_waits_are_lost_and_nothing_else_is(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an effect waits for the disk, no flood of messages fills the memory."""
    runner = runner_of(trio["c"])
    held, release = threading.Event(), threading.Event()

    def slow(epoch: int) -> None:
        held.set()
        release.wait(60)

    monkeypatch.setattr(trio["c"].copy, "promise", slow)
    trio.catalog.promote("id-b")
    assert held.wait(60)

    async def flood() -> int:
        for _ in range(WAITING_EVENTS + 10):
            runner.feed(ev.Tick())
        return len(runner._events)

    assert trio["c"].replication.thread.run(flood()) == WAITING_EVENTS
    assert runner.dropped_messages >= 10
    monkeypatch.undo()
    release.set()
    trio["b"].write_soon([1])
    trio.all_show([0, 1])
    trio.are_alike()


def test_a_copy_is_detached_and_attached_again(trio: Trio) -> None:
    """As the keeper does around what it does to files."""
    node = trio["c"]
    node.replication.detach(SHARD)
    assert node.replication.shard(SHARD) is None
    trio["a"].write_soon([1])
    node.attach()
    trio.all_show([0, 1])
    trio.are_alike()

"""What a write concern asks for while a copy of the shard is being made: real links, real copies.

Metadata lists that copy as `adding`. Until it is in sync it is none of those that a write concern
counts on; it joins the in-sync set only with everything that was committed before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.metadata.nodes import FenceNode
from nearql.cluster.metadata.shards import MoveCommit, MoveStart
from nearql.cluster.replication.core import events as ev
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Unavailable
from support.replication_nodes import Trio
from support.waiting import wait_for


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    """Copies on a and b, of which a is the primary; c has none yet."""
    make_certificates(tmp_path / "certificates", ["a", "b", "c"])
    made = Trio(tmp_path, tmp_path / "certificates", copies="ab")
    made["a"].write_soon([0], "all")
    yield made
    made.close()


def begin(trio: Trio, removing: str | None = None) -> None:
    """A copy on c is listed; it does not take part before `attach`."""
    name = trio["c"].copy.alloc_id.hex()
    trio.move(MoveStart, adding="id-c", alloc_id=name, removing=removing)
    wait_for(lambda: trio["a"].handle.status.copies == 3, "the primary knows of it", 60)


def refusal(trio: Trio, concern: str | int) -> str:
    with pytest.raises(Unavailable) as caught:
        trio["a"].handle.check_writable(concern)
    assert caught.value.code == "not_enough_replicas"
    return str(caught.value.extra["reason"])


def join(trio: Trio) -> None:
    """The new copy takes part, and is in sync; what is left is to say that the move is done."""
    trio["c"].attach()
    wait_for(lambda: "id-c" in trio.catalog.row.isr, "c is in sync", 60)


@pytest.mark.parametrize("removing", [None, "id-b"])
def test_all_is_on_every_copy_but_the_one_that_is_being_made(
    trio: Trio, removing: str | None
) -> None:
    begin(trio, removing)
    for concern in ("all", 2, "majority"):
        _, lsn = trio["a"].write([trio["a"].copy.end.lsn + 1], concern)
        assert min(trio[name].copy.durable_lsn for name in "ab") >= lsn
    assert trio["c"].copy.durable_lsn == 0
    assert refusal(trio, 3) == "copy_being_made"


@pytest.mark.slow
def test_once_it_is_in_sync_all_is_on_its_disk_too(trio: Trio) -> None:
    begin(trio)
    before = trio["a"].write([1], "all")[1]
    join(trio)
    assert trio["c"].copy.durable_lsn >= before
    lsn = trio["a"].write_soon([2], "all")[1]
    assert all(node.copy.durable_lsn >= lsn for node in trio)
    trio.move(MoveCommit)
    lsn = trio["a"].write_soon([3], 3)[1]
    assert all(node.copy.durable_lsn >= lsn for node in trio)
    trio.are_alike()


def test_a_move_that_begins_meanwhile_is_not_waited_for(trio: Trio) -> None:
    """Who waits for `all` as it begins is answered by the copies that there were."""
    handle, counted = trio["a"].handle, threading.Event()
    ask = handle._ask

    def asked(event: ev.Event) -> None:  # after `all` was counted, and before the core is asked
        counted.set()
        wait_for(lambda: handle.status.copies == 3, "the move has begun", 60)
        ask(event)

    epoch, lsn = trio["a"].write([1])
    handle._ask = asked  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.committed, lsn, epoch, "all", Deadline(60_000))
        assert counted.wait(60)
        begin(trio)
        assert waiting.result(60).acked == 2


@pytest.mark.slow
def test_all_is_refused_while_another_copy_is_away(trio: Trio) -> None:
    """One that is being made is no leave to do without one that there was."""
    begin(trio)
    join(trio)
    trio.stop("b")
    trio.catalog.do(FenceNode, node_id="id-b", incarnation=trio["b"].incarnation)
    wait_for(lambda: "id-b" not in trio.catalog.row.isr, "b is dropped", 60)
    wait_for(lambda: trio["a"].handle.status.refusals["all"] is not None, "all is refused", 60)
    assert refusal(trio, "all") == "not_enough_replicas"

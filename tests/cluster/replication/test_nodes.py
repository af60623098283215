"""Three nodes in one process: real links over loopback, real cores, real copies on disk."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.metadata.nodes import FenceNode
from nearql.cluster.replication.handle import Grant
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Conflict, InvalidRequest, NearQLError, Unavailable
from nearql.engine.types import OnConflict
from support.replication_nodes import SHARD, TIMING, WAIT_MS, DataNode, Trio
from support.tables import rows_of
from support.waiting import wait_for

_ids = itertools.count(1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, ["a", "b", "c"])
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Trio]:
    """For tests that leave it as it was, but for rows."""
    made = Trio(tmp_path_factory.mktemp("shared"), certificates)
    yield made
    made.close()


@pytest.fixture
def trio(tmp_path: Path, certificates: Path) -> Iterator[Trio]:
    made = Trio(tmp_path, certificates)
    yield made
    made.close()


def new_ids(count: int = 1) -> list[int]:
    """Ids that no other test has."""
    return [next(_ids) for _ in range(count)]


def soon(node: DataNode, level: str, **options: object) -> Grant:
    """A confirmed grant, as soon as there is one."""
    found: list[Grant] = []

    def granted() -> bool:
        try:
            grant = node.handle.read_gate(level, deadline=Deadline(WAIT_MS), **options)  # type: ignore[arg-type]
            grant.confirm()
        except Unavailable:
            return False
        found.append(grant)
        return True

    wait_for(granted, f"a {level} read on {node.name}", 60)
    return found[0]


# ---- A cluster that is well -------------------------------------------------------------------


def test_writes_are_on_every_copy_and_copies_are_alike(shared: Trio) -> None:
    ids = new_ids(100)
    shared["a"].write_soon(ids)
    shared.all_show(ids)
    shared.are_alike()


@pytest.mark.parametrize("concern", ["one", "majority", "all", 1, 2, 3])
def test_writes_at_each_concern(shared: Trio, concern: str | int) -> None:
    ids = new_ids(3)
    epoch, lsn = shared["a"].write_soon(ids, concern)
    assert epoch == shared.catalog.row.epoch
    if concern in ("all", 3):
        assert all(node.copy.durable_lsn >= lsn for node in shared)
    progress = shared["a"].handle.wait(lsn, epoch, 3, Deadline(WAIT_MS))
    assert progress.acked == 3
    assert progress.committed
    shared.all_show(ids)


@pytest.mark.parametrize("concern", [0, 4, "most", "-1"])
def test_a_wrong_concern_is_refused(shared: Trio, concern: str | int) -> None:
    shared["a"].write_soon(new_ids())
    with pytest.raises(InvalidRequest):
        shared["a"].handle.check_writable(concern)


def test_who_is_not_the_primary_names_it(shared: Trio) -> None:
    shared["a"].write_soon(new_ids())
    with pytest.raises(Unavailable) as caught:
        shared["b"].handle.check_writable("one")
    assert caught.value.code == "not_primary"
    assert caught.value.extra["primary"] == "id-a"


@pytest.mark.parametrize("name", ["a", "b"])
def test_reads_at_each_level(shared: Trio, name: str) -> None:
    ids = new_ids(2)
    token = shared["a"].write_soon(ids)
    assert soon(shared[name], "session", token=token).lsn >= token[1]
    assert set(ids) <= set(shared[name].ids())
    assert soon(shared[name], "linearizable").lsn >= token[1]
    soon(shared[name], "bounded", max_staleness_ms=30_000)
    soon(shared[name], "any")
    with pytest.raises(InvalidRequest):
        shared[name].handle.read_gate("newest", deadline=Deadline(WAIT_MS))


def test_what_copies_come_to_can_be_waited_for(shared: Trio) -> None:
    node = shared["b"]
    before = shared["a"].write_soon(new_ids())[1]
    writer = threading.Thread(target=shared["a"].write_soon, args=(new_ids(),))
    writer.start()
    assert node.replication.wait_until(lambda: node.copy.applied_lsn > before, 60)
    writer.join()
    assert not node.replication.wait_until(lambda: False, 0)
    with pytest.raises(ZeroDivisionError):
        node.replication.wait_until(lambda: bool(1 // 0), 60)


def test_records_leave_memory_where_it_is_short(shared: Trio) -> None:
    copy = shared["a"].copy
    _, lsn = shared["a"].write_soon(new_ids(20))
    assert copy.remembers(lsn)
    shared["a"].table._maintenance.relieve()
    assert not copy.remembers(lsn)
    assert [record.lsn for record in copy.read(lsn, 1)] == [lsn]


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_linearizable_read_shows_what_was_answered_before(shared: Trio, name: str) -> None:
    for _ in range(20):
        ids = new_ids()
        shared["a"].write_soon(ids)
        soon(shared[name], "linearizable")
        assert set(ids) <= set(shared[name].ids())


def test_readers_elsewhere_see_a_write_before_the_next_heartbeat(
    tmp_path: Path, certificates: Path
) -> None:
    """Heartbeats come every ten minutes here, so that nobody else could tell what is committed."""
    far = 600_000
    rare = replace(TIMING, heartbeat_ms=far, lease_ms=4 * far, silent_ms=4 * far, resend_ms=far)
    trio = Trio(tmp_path, certificates, timing=rare)
    try:
        for _ in range(3):
            epoch, lsn = trio["a"].write_soon(new_ids())
            for name in "bc":
                options: dict[str, Any] = {"token": (epoch, lsn)}
                soon(trio[name], "session", **options)
                assert trio[name].copy.applied_lsn >= lsn
    finally:
        trio.close()


def test_status_tells_how_far_every_copy_is(shared: Trio) -> None:
    _, lsn = shared["a"].write_soon(new_ids(), "all")
    wait_for(
        lambda: all(
            peer.durable_lsn >= lsn and peer.lag_ms == 0
            for peer in shared["a"].handle.status.peers.values()
        ),
        "the primary knows it",
        60,
    )
    status = shared["a"].replication.status()
    assert status.shards[SHARD].role == "primary_active"
    assert set(status.shards[SHARD].peers) == {"id-b", "id-c"}
    counts = {name: value for name, _, value, _ in status.counts}
    assert 0 < counts["replication_connections"] <= 8
    assert counts["replication_sent_bytes"] > 0
    assert counts["replication_received_bytes"] > 0
    wait_for(lambda: shared["b"].handle.role == "isr", "b is in sync", 60)
    assert shared["b"].handle.readable
    assert shared["b"].handle.primary == "id-a"
    assert shared["a"].replication.positions()[SHARD] == (status.shards[SHARD].epoch, lsn)


def test_the_metrics_of_replication_are_documented(shared: Trio) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    listed = set(re.findall(r"`nearql_(replication_\w+)`", page))
    counts = shared["a"].replication.status().counts
    assert listed == {f"{name}_total" if total else name for name, _, _, total in counts}


# ---- Failures ---------------------------------------------------------------------------------


def test_a_primary_that_dies_is_replaced_and_comes_back_as_a_replica(trio: Trio) -> None:
    trio["a"].write_soon(range(10))
    trio.stop("a")
    epoch = trio.fail_over("b")
    assert trio["b"].write_soon([10])[0] == epoch
    trio["b"].write_soon([11])
    trio.start("a")
    trio.all_show(range(12))
    trio.are_alike()
    assert trio["a"].handle.primary == "id-b"


@pytest.mark.slow
def test_a_replica_that_restarts_is_sent_what_it_lacks(trio: Trio) -> None:
    trio["a"].write_soon([1])
    trio.stop("c")
    for n in range(2, 12):  # too few for a checkpoint, which would make a snapshot the shorter way
        trio["a"].write_soon([n])
    trio.start("c")
    trio.all_show(range(1, 12))
    trio.are_alike()
    assert trio["c"].replication.counts["snapshots_installed"] == 0


def test_a_copy_that_restarts_is_not_read_before_it_has_what_was_committed(trio: Trio) -> None:
    trio["a"].write_soon(range(20))
    trio.all_show(range(20))
    for name in "abc":
        trio.stop(name)
    trio.start("b")  # in sync by metadata, and nobody tells it how much of its log is committed
    status = trio["b"].replication.status
    wait_for(lambda: status().shards[SHARD].role == "isr", "its part is known", 60)
    assert trio["b"].ids() == []
    assert not trio["b"].handle.readable
    trio.start("c")
    trio.fail_over("c")
    for name in "cb":
        wait_for(lambda name=name: trio[name].handle.readable, f"{name} may be read", 60)  # type: ignore[misc]
        assert trio[name].ids() == [*range(20)]


def test_a_copy_that_moves_away_while_a_reader_waits_is_not_readable(trio: Trio) -> None:
    """The reader is sent to another node; it found an internal error (a soak, seed 20261124)."""
    handle = trio["b"].handle
    wait_for(lambda: handle.readable, "b may be read", 60)
    trio["b"].replication.detach(SHARD)
    assert not handle.readable


@pytest.mark.slow
def test_without_a_majority_in_sync_nothing_is_answered_and_nothing_is_lost(trio: Trio) -> None:
    trio["a"].write_soon([1])
    trio.stop("b")
    trio.stop("c")

    def refused() -> bool:
        try:
            trio["a"].handle.check_writable("majority")
        except Unavailable:
            return True
        return False

    wait_for(refused, "the lease is lost", 60)
    assert trio["a"].ids() == [1]
    trio.start("b")
    trio["a"].write_soon([2])
    trio.start("c")
    trio.all_show([1, 2])
    trio.are_alike()


@pytest.mark.slow
def test_another_primary_takes_over_and_the_old_one_follows(trio: Trio) -> None:
    """While the old one is well: its reads are refused as soon as the new one may answer."""
    trio["a"].write_soon([1])
    grant = soon(trio["a"], "linearizable")
    epoch = trio.catalog.promote("id-b")
    assert trio["b"].write_soon([2])[0] == epoch
    with pytest.raises(Unavailable) as refused:
        grant.confirm()
    assert refused.value.code == "not_linearizable"
    with pytest.raises(Unavailable):
        trio["a"].handle.check_writable("one")
    trio.all_show([1, 2])
    trio.are_alike()


def test_what_was_never_committed_is_cut_off(trio: Trio) -> None:
    """a logs a row that nobody else gets; b becomes primary; a comes back without the row."""
    trio["a"].write_soon([1])
    trio.stop("b")
    trio.stop("c")
    epoch, lsn = trio["a"].handle.epoch, trio["a"].copy.end.lsn
    with pytest.raises(NearQLError):
        trio["a"].table.insert(rows_of([99]), OnConflict.ERROR, timeout_ms=300)
    written = trio["a"].copy.end.lsn > lsn
    trio.stop("a")
    trio.start("b")
    trio.start("c")
    trio.fail_over("b")
    trio["b"].write_soon([2])
    trio.start("a")
    trio.all_show([1, 2])
    trio.are_alike()
    assert 99 not in trio["a"].ids()
    wait_for(lambda: trio["a"].handle.readable, "a knows that it is in sync", 60)
    if written:  # else the lease was lost before the row was logged
        with pytest.raises(Conflict) as caught:
            trio["a"].handle.read_gate(
                "session", token=(epoch, lsn + 1), deadline=Deadline(WAIT_MS)
            )
        assert caught.value.code == "rolled_back"


@pytest.mark.slow
def test_a_node_that_lost_its_disk_gets_everything_again(trio: Trio) -> None:
    trio["a"].write_soon(range(50))
    trio.stop("c")
    trio["a"].write_soon(range(50, 100))
    trio["c"].wipe()
    trio.start("c")
    trio.all_show(range(100))
    trio.are_alike()


def test_a_node_that_stops_hands_over_first_and_loses_nothing(trio: Trio) -> None:
    trio["a"].write_soon([1])
    trio.are_alike()
    assert trio["a"].replication.hand_over(SHARD, "id-c", 60) == ""
    assert trio.catalog.row.primary == "id-c"
    trio["c"].write_soon([2])
    trio.are_alike()
    assert trio["c"].replication.hand_over_all(60) == {}
    assert trio.catalog.row.primary in ("id-a", "id-b")
    trio[trio.catalog.row.primary[-1]].write_soon([3])
    trio.all_show([1, 2, 3])
    trio.are_alike()


@pytest.mark.slow
def test_a_replica_alone_refuses_what_it_cannot_know(trio: Trio) -> None:
    trio["a"].write_soon([1])
    trio.all_show([1])
    soon(trio["b"], "any")
    trio.stop("a")
    trio.stop("c")
    gate = trio["b"].handle.read_gate
    gate("any", deadline=Deadline(WAIT_MS))
    with pytest.raises(Unavailable) as caught:
        gate("linearizable", deadline=Deadline(200))
    assert caught.value.code == "not_linearizable"
    with pytest.raises(Unavailable) as caught:
        gate("bounded", max_staleness_ms=1, deadline=Deadline(200))
    assert caught.value.code == "too_stale"


@pytest.mark.slow
def test_a_fenced_node_leaves_the_in_sync_set_and_all_is_refused(trio: Trio) -> None:
    trio["a"].write_soon([1])
    trio.stop("c")
    trio.catalog.do(FenceNode, node_id="id-c", incarnation=trio["c"].incarnation)
    wait_for(lambda: "id-c" not in trio.catalog.row.isr, "it is dropped", 60)
    trio["a"].write_soon([2])
    wait_for(
        lambda: trio["a"].handle.status.refusals.get("all") == "not_enough_replicas",
        "it is refused",
        60,
    )
    with pytest.raises(Unavailable) as caught:
        trio["a"].handle.check_writable("all")
    assert caught.value.code == "not_enough_replicas"

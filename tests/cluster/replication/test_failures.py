"""The table of write concern in docs/consistency.md, cell by cell: three copies over real logs in
virtual time, one write, one failure, and what is left of the write.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.messages import Record
from support.shard_faults import Faults
from support.shard_node import Node
from support.shard_world import World

TWO = ev.Concern(committed=True, copies=2)


def calm() -> World:
    """Three copies, of which one is an active primary; nothing goes wrong by itself."""
    world = next(w for w in map(World, itertools.count()) if len(w.names) == len(w.holders) == 3)
    world.faults, world.delay, world.sync_ms, world.apply_ms = Faults(), 5, 2, 0
    world.begin()
    world.pass_time(3000)
    assert set(world.shard.isr) == set(world.names)
    return world


def primary_of(world: World) -> Node:
    assert world.shard.primary is not None
    return world.nodes[world.shard.primary]


def written(world: World, concern: ev.Concern) -> Record:
    """A write that was answered."""
    primary, answered = primary_of(world), world.counts["acknowledged"]
    lsn = primary.disk.end_lsn + 1
    for _ in range(100):
        if world.counts["acknowledged"] > answered:
            break
        if primary.disk.end_lsn < lsn:
            world.write(primary.name, concern)
        world.pass_time(10)
    assert world.counts["acknowledged"] == answered + 1
    record = primary.disk.at(lsn)
    assert record is not None
    return record


def cut_off(world: World, node: Node) -> None:
    """Nobody hears this node, nor it anybody."""
    others = [name for name in (*world.names, "meta", "client") if name != node.name]
    world.cuts.update({(node.name, other) for other in others})
    world.cuts.update({(other, node.name) for other in others})


def healed(world: World) -> None:
    world.cuts.clear()
    for node in world.nodes.values():
        if not node.up:
            node.start()
    world.settle()


def kept_on(world: World, record: Record) -> int:
    """How many copies hold the record."""
    return sum(
        node.disk.base_lsn >= record.lsn or node.disk.at(record.lsn) == record
        for node in world.nodes.values()
    )


# ---- Failures ----------------------------------------------------------------------------------


def primary_is_killed(world: World) -> None:
    primary_of(world).stop(power=False)


def primary_loses_power(world: World) -> None:
    primary_of(world).stop(power=True)


def everybody_loses_power(world: World) -> None:
    for node in world.nodes.values():
        node.stop(power=True)


def primary_loses_its_disk(world: World) -> None:
    world.nemesis.wipe(primary_of(world))


FAILURES = [
    primary_is_killed, primary_loses_power, everybody_loses_power, primary_loses_its_disk,
]  # fmt: skip


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize("concern", [ev.MAJORITY, ev.ALL, TWO], ids=["majority", "all", "2"])
def test_what_is_committed_is_kept(concern: ev.Concern, fail: Callable[[World], None]) -> None:
    world = calm()
    record = written(world, concern)
    fail(world)
    world.pass_time(1500)  # another primary, where the old one is gone
    healed(world)
    assert kept_on(world, record) == 3


def test_all_is_on_every_disk_when_it_is_answered() -> None:
    world = calm()
    record = written(world, ev.ALL)
    assert [node.disk.durable_lsn >= record.lsn for node in world.nodes.values()] == [True] * 3


@pytest.mark.parametrize("power", [False, True])
def test_one_is_kept_where_its_primary_comes_back_first(power: bool) -> None:
    """It was answered before any other copy had it."""
    world = calm()
    primary = primary_of(world)
    for name in world.names:
        world.cuts.update({(primary.name, name)} if name != primary.name else ())
    record = written(world, ev.ONE)
    assert kept_on(world, record) == 1
    primary.stop(power=power)
    healed(world)
    assert kept_on(world, record) == 3


@pytest.mark.parametrize("power", [False, True])
def test_one_is_lost_where_another_copy_reigns_first(power: bool) -> None:
    """Whoever saw it learns that from the epochs of the log that is now everybody's."""
    world = calm()
    primary = primary_of(world)
    for name in world.names:
        world.cuts.update({(primary.name, name)} if name != primary.name else ())
    record = written(world, ev.ONE)
    primary.stop(power=power)
    world.pass_time(2500)
    assert primary_of(world) is not primary
    healed(world)
    assert kept_on(world, record) == 0
    for node in world.nodes.values():
        assert node.core is not None
        assert node.core.is_rolled_back(record.epoch, record.lsn)


def test_one_is_refused_once_the_others_are_silent_for_a_lease() -> None:
    world = calm()
    primary = primary_of(world)
    cut_off(world, primary)
    world.pass_time(world.timing.lease_ms * 1.05)
    assert primary.core is not None
    assert primary.core.refusal(primary.now_ms, ev.ONE) == "lease_lost"


def test_too_few_in_sync_are_refused_before_anything_is_logged() -> None:
    """One copy of three is left: it has no lease; and metadata with one member would not do."""
    world = calm()
    primary = primary_of(world)
    for node in world.nodes.values():
        if node is not primary:
            node.stop(power=False)
    world.pass_time(2000)
    assert primary.core is not None
    end = primary.disk.end_lsn
    for concern in (ev.MAJORITY, ev.ALL, TWO):
        assert primary.core.refusal(primary.now_ms, concern) is not None
        world.write(primary.name, concern)
    assert primary.disk.end_lsn == end
    healed(world)


def test_all_is_refused_while_a_copy_is_not_in_sync_and_others_are_not() -> None:
    world = calm()
    primary = primary_of(world)
    gone = next(node for node in world.nodes.values() if node is not primary)
    gone.stop(power=False)
    world.pass_time(1500)
    assert gone.name not in world.shard.isr
    assert primary.core is not None
    assert primary.core.refusal(primary.now_ms, ev.ALL) == "not_enough_replicas"
    record = written(world, ev.MAJORITY)
    assert kept_on(world, record) == 2
    healed(world)
    assert kept_on(world, record) == 3


@pytest.mark.parametrize(
    "concern", [ev.ALL, ev.Concern(committed=True, copies=3)], ids=["all", "3"]
)
def test_a_copy_that_is_lost_meanwhile_leaves_an_unknown_outcome(concern: ev.Concern) -> None:
    """The record is there, and more copies may come to have it: neither done nor refused."""
    world = calm()
    primary = primary_of(world)
    gone = next(node for node in world.nodes.values() if node is not primary)
    gone.stop(power=False)
    world.write(primary.name, concern)
    world.pass_time(2000)
    assert (world.counts["unknown"], world.counts["acknowledged"]) == (1, 0)
    healed(world)

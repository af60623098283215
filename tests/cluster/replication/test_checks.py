"""Which cuts of committed records the simulator's checks allow: none that anybody counts on.

The story of seed 131149, LSN 18 being of epoch 3 and not yet committed when its primary dies:

    n1   epoch 5's primary, without LSN 18, stands still for a while
    n2   epoch 6's primary, with LSN 18, which it commits with n1 once that follows it
    n3   outside the in-sync set, with LSN 18; reads only now what n1 of epoch 5 said: cut at 17

No write is lost: n3 had acknowledged nothing in epoch 6, and joins the set only when it has all
that is committed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.replica import Replica
from support.shard_node import Node
from support.shard_scene import Copy, sync
from support.shard_world import Broken, World

LSN = 18
SESSION = msg.Session(1, 1)


def world_with_commit(*, in_sync: tuple[str, ...] = ("n1", "n2")) -> World:
    """LSN 18 of epoch 3 is on n2 and n3, and was committed in epoch 6."""
    world = World(1, real_log=False)
    world.begin()
    assert world.holders == ("n1", "n2", "n3")
    table = world.metadata.tables["t"]
    shard = replace(table.shards[0], epoch=6, primary="n2", isr=in_sync)
    tables = {"t": replace(table, shards=(shard,))}
    world.metadata = replace(world.metadata, tables=tables)
    for name in ("n2", "n3"):
        for value in range(1, LSN + 1):
            world.nodes[name].disk.log(3, value)
        world.nodes[name].disk.sync(LSN, 0)
    commits(world.nodes["n2"], 6)
    return world


def commits(node: Node, epoch: int) -> None:
    """It commits the whole log, as a copy that follows that epoch's primary."""
    node.core = node.world.make_core(node)
    node.core.role = Replica(node.core.copy, epoch, "n2", 1)
    node.world.checks.effect(node, ef.SetCommit(LSN))


def is_cut(node: Node, *, epoch: int, at: int = LSN - 1) -> None:
    """What the primary of that epoch said makes it cut its log."""
    node.events.append(ev.Received("n1", msg.SyncOk(epoch, SESSION, at)))
    node.world.checks.effect(node, ef.Truncate(at, 2))


def acknowledges(node: Node, epoch: int) -> None:
    message = msg.Ack(epoch, SESSION, LSN, LSN, 0, 1 << 20, 0)
    node.world.checks.effect(node, ef.Send("n2", message))


def test_a_primary_of_before_the_commit_may_cut_a_copy_on_which_nobody_counts() -> None:
    node = world_with_commit().nodes["n3"]
    acknowledges(node, 3)
    acknowledges(node, 5)
    is_cut(node, epoch=5)


@pytest.mark.parametrize("epoch", [6, 7])
def test_a_primary_of_the_commits_epoch_or_a_later_one_may_not(epoch: int) -> None:
    with pytest.raises(Broken, match=r"n3 cut .* which was committed"):
        is_cut(world_with_commit().nodes["n3"], epoch=epoch)


def test_the_oldest_epoch_that_committed_a_record_counts() -> None:
    world = world_with_commit()
    commits(world.nodes["n3"], 4)
    with pytest.raises(Broken, match=r"n3 cut .* which was committed"):
        is_cut(world.nodes["n3"], epoch=5)


def test_a_member_of_the_set_is_never_cut_so() -> None:
    world = world_with_commit(in_sync=("n1", "n2", "n3"))
    with pytest.raises(Broken, match=r"n3 cut .* which was committed"):
        is_cut(world.nodes["n3"], epoch=5)


def test_a_copy_that_acknowledged_in_a_later_epoch_is_never_cut_in_an_earlier_one() -> None:
    """Committed or not: a client may have been told of that copy."""
    node = world_with_commit().nodes["n3"]
    acknowledges(node, 6)
    with pytest.raises(Broken, match="follows epoch 5, and had acknowledged in 6"):
        is_cut(node, epoch=5)
    with pytest.raises(Broken, match="follows epoch 5, and had acknowledged in 6"):
        acknowledges(node, 5)


def test_what_is_not_committed_is_cut() -> None:
    node = world_with_commit(in_sync=("n1", "n2", "n3")).nodes["n3"]
    node.disk.log(3, LSN + 1)
    is_cut(node, epoch=6, at=LSN)


def test_a_copy_listens_to_a_deposed_primary_until_it_hears_of_a_later_one() -> None:
    """The core's side of the story: the promise is what keeps acknowledged records."""
    log = ev.LogState(((3, 1),), LSN, 1, 0)
    for heard, end in ((5, LSN - 1), (6, LSN)):
        copy = Copy("c", log=log, promised=3)
        copy.row(epoch=5, primary="a", isr=("a", "b"))
        (asked,) = copy.sent(msg.Sync)
        if heard == 6:
            copy.hear("b", sync(6))
        copy.hear("a", msg.SyncOk(5, asked.session, LSN - 1))
        assert bool(copy.wanted(ef.Truncate)) is (heard == 5)
        assert copy.core.copy.log.end_lsn == end

"""Write concern and WAIT: what is refused, what is waited for, what is told."""

from __future__ import annotations

import time

import pytest

from nearql.engine.errors import Conflict, InvalidValue, Unavailable, WriteUnknown
from nearql.engine.types import ShardPosition, WriteOutcome
from nearql.query.replicas import Settled
from nearql.server.gateway.concerns import ClusterReplicas
from support.cluster_edges import MakePair
from support.fake_cluster import Progress
from support.http_node import DOCS

OUTCOME = WriteOutcome(1, 0, 0, (ShardPosition(0, 4, 17),))
WRITTEN = [{"table": "docs", "shard": 0, "epoch": 4, "lsn": 17}]


def soon() -> float:
    """A deadline far enough."""
    return time.monotonic() + 30


def test_a_concern_above_the_copies_is_wrong_not_unavailable(make_pair: MakePair) -> None:
    with make_pair() as pair:
        replicas = pair.here.session.replicas
        replicas.check(DOCS, "3")
        with pytest.raises(InvalidValue, match="has 3") as caught:
            replicas.check(DOCS, "4")
        assert caught.value.code == "not_enough_copies"
        assert pair.here.copy.asked == [("check", 3)]


def test_a_copy_that_takes_anothers_place_is_not_one_more(make_pair: MakePair) -> None:
    """While a copy is moved, metadata lists the old one and the new one."""
    with make_pair() as pair:
        known = pair.metadata.state.tables[DOCS.uuid].shards[0]
        replicas = {**known.replicas, "id-4": "moved"}
        moving = {"adding": "id-4", "removing": "id-3"}
        pair.metadata.change_shard(DOCS, 0, replicas=replicas, **moving)
        pair.here.session.replicas.check(DOCS, "3")
        with pytest.raises(InvalidValue, match="has 3"):
            pair.here.session.replicas.check(DOCS, "4")


@pytest.mark.parametrize("concern", ["one", "majority", "all", "2"])
def test_the_primary_refuses_before_anything_is_logged(make_pair: MakePair, concern: str) -> None:
    with make_pair() as pair:
        pair.here.copy.refuses = Unavailable("Two are away.", code="not_enough_replicas")
        with pytest.raises(Unavailable) as caught:
            pair.here.session.replicas.check(DOCS, concern)
        assert caught.value.code == "not_enough_replicas"


def test_a_primary_that_is_not_ready_yet_is_waited_for(make_pair: MakePair) -> None:
    with make_pair() as pair:
        copy = pair.here.copy
        copy.refuses, copy.refuses_times = Unavailable("Soon.", code="not_primary"), 3
        pair.here.session.replicas.check(DOCS, "majority")
        assert copy.asked == [("check", "majority")] * 4


def test_a_primary_takes_no_write_while_its_voter_is_silent(make_pair: MakePair) -> None:
    """Also none that the leader passed on."""
    with make_pair() as pair:
        pair.here.cluster.ticking = False
        with pytest.raises(Unavailable) as caught:
            pair.here.session.replicas.check(DOCS, "one")
        assert (caught.value.code, caught.value.retryable) == ("metadata_stale", True)
        assert pair.here.copy.asked == []


def test_a_copy_that_is_not_to_be_primary_refuses_at_once(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        copy = pair.here.copy
        copy.refuses, copy.refuses_times = Unavailable("No.", code="not_primary"), 3
        with pytest.raises(Unavailable):
            pair.here.session.replicas.check(DOCS, "majority")
        assert copy.asked == [("check", "majority")]


def test_a_write_is_settled_by_its_own_position(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.copy.progress = Progress(committed=True, acked=2)
        settled = pair.here.session.replicas.settle(DOCS, OUTCOME, "2", soon())
        assert settled == Settled(2, True)
        assert pair.here.copy.asked == [("committed", 17, 4, 2)]


def test_a_write_of_an_earlier_reign_is_asked_for_in_this_one(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.copy.epoch, pair.here.copy.applied_lsn = 6, 40
        pair.here.session.replicas.settle(DOCS, OUTCOME, "majority", soon())
        pair.here.session.replicas.wait(WRITTEN, 2, soon())
        assert pair.here.copy.asked == [
            ("committed", 17, 6, "majority"),
            ("read", "session", (4, 17), None),  # it was not rolled back
            ("wait", 17, 6, 2),
        ]


def test_waiting_for_what_was_rolled_back_says_so(make_pair: MakePair) -> None:
    for here in (1, 2):
        with make_pair(here) as pair:
            primary = pair.here if here == 1 else pair.there
            primary.copy.epoch = 6
            primary.copy.gate = Conflict("Lost.", code="rolled_back")
            with pytest.raises(Conflict):
                pair.here.session.replicas.wait(WRITTEN, 2, soon())


def test_a_primary_that_was_replaced_meanwhile_knows_of_no_copy(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.copy.loses = WriteUnknown("Another reign.")
        assert pair.here.session.replicas.wait(WRITTEN, 2, soon()) == Settled(0, False)


def test_a_lost_reign_is_an_unknown_outcome(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.copy.loses = WriteUnknown("Fenced.", epoch=4, lsn=17)
        with pytest.raises(WriteUnknown) as caught:
            pair.here.session.replicas.settle(DOCS, OUTCOME, "majority", soon())
        assert caught.value.extra == {"epoch": 4, "lsn": 17}


def test_a_node_without_the_copy_takes_no_write(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.replication.copies.clear()
        with pytest.raises(Unavailable) as caught:
            pair.here.session.replicas.check(DOCS, "one")
        assert caught.value.code == "no_primary"


# ---- WAIT ----------------------------------------------------------------------------------


def test_wait_asks_the_primary_here(make_pair: MakePair) -> None:
    with make_pair() as pair:
        pair.here.copy.progress = Progress(committed=False, acked=1)
        assert pair.here.session.replicas.wait(WRITTEN, 3, soon()) == Settled(1, False)
        assert pair.here.copy.asked == [("wait", 17, 4, 3)]


def test_wait_asks_the_primary_elsewhere(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        pair.there.copy.progress = Progress(committed=True, acked=2)
        assert pair.here.session.replicas.wait(WRITTEN, 2, soon()) == Settled(2, True)
        assert pair.mesh.calls == [("id-2", "id-1", "wait")]


def test_wait_counts_no_copy_of_a_primary_that_is_gone(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        pair.mesh.cut.add("id-1")
        assert pair.here.session.replicas.wait(WRITTEN, 2, soon()) == Settled(0, False)
        pair.metadata.change_shard(DOCS, 0, primary=None)
        assert pair.here.session.replicas.wait(WRITTEN, 2, soon()) == Settled(0, False)


def test_a_session_that_wrote_nothing_is_on_every_node(make_pair: MakePair) -> None:
    with make_pair() as pair:
        replicas = pair.here.session.replicas
        assert isinstance(replicas, ClusterReplicas)
        assert replicas.wait([], 1, soon()) == Settled(3, True)

"""Placement: what each change of a shard or a node does, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.codec import from_plain, to_plain
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

NAMES = ("a", "b", "c", "d")
_requests = itertools.count()


def request() -> str:
    return f"request-{next(_requests)}"


class Cluster:
    """Four nodes and a table of one shard, whose copies lie on a, b and c."""

    def __init__(self) -> None:
        self.state = s.Metadata()
        for name in NAMES:
            self.do(c.RegisterNode(request_id=request(), node_id=name, name=name, url=name))
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        table = TableDef("t", "docs", TableSchema(columns, 1), shards=1)
        nodes = ("a", "b", "c")
        self.do(c.CreateTable(request_id=request(), table=table, shard_uuids=("s",), nodes=nodes))
        alloc = {name: f"{name}-1" for name in nodes}
        self.do(c.TableReady(request_id=request(), table_uuid="t", alloc_ids=alloc))

    def do(self, command: c.Command) -> str:
        before = self.shard
        self.state, result = s.apply(self.state, command)
        self.state.check_invariants()
        if not result.ok:
            assert self.shard == before
        return str(result.code)

    def register(self, name: str, *, level: int = 0) -> str:
        command = c.RegisterNode(
            request_id=request(), node_id=name, name=name, url=name, level=level
        )
        return self.do(command)

    def upgrade(self, *names: str, level: int) -> None:
        assert [self.register(name, level=level) for name in names] == [""] * len(names)

    def on_shard(self, kind: type[sh.ShardCommand], **arguments: Any) -> str:
        arguments.setdefault("expected_version", self.shard.version)
        return self.do(kind(request_id=request(), shard_uuid="s", **arguments))

    def isr(self, *members: str, **arguments: Any) -> str:
        incarnations = {name: row.incarnation for name, row in self.state.nodes.items()}
        arguments = {"epoch": self.shard.epoch, "incarnations": incarnations, **arguments}
        return self.on_shard(sh.IsrChange, isr=members, **arguments)

    @property
    def shard(self) -> Any:
        row = self.state.tables.get("t")
        return row.shards[0] if row else None


def test_a_promotion_needs_an_in_sync_copy_that_lives_and_makes_an_epoch() -> None:
    cluster = Cluster()
    assert cluster.isr("a", "b") == ""
    assert cluster.on_shard(sh.Promote, node_id="c", incarnation=1) == "not_in_sync"
    assert cluster.on_shard(sh.Promote, node_id="b", incarnation=7) == "stale_incarnation"
    assert cluster.on_shard(sh.Promote, node_id="b", incarnation=1) == ""
    assert (cluster.shard.primary, cluster.shard.epoch) == ("b", 2)


def test_a_stale_version_changes_nothing() -> None:
    cluster = Cluster()
    stale = cluster.shard.version
    assert cluster.isr("a", "b") == ""
    assert cluster.isr("a", "b", "c", expected_version=stale) == "shard_changed"


def test_the_in_sync_set_keeps_its_primary_its_size_and_its_epoch() -> None:
    cluster = Cluster()
    assert cluster.isr("a") == "not_enough_replicas"
    assert cluster.isr("b", "c") == "wrong_members"
    assert cluster.isr("a", "b", "d") == "wrong_members"
    assert cluster.isr("a", "b", epoch=9) == "stale_epoch"
    assert cluster.isr("a", "b", incarnations={"a": 1, "b": 2}) == "stale_incarnation"


def test_a_fenced_node_leaves_the_sets_that_can_spare_it_and_joins_none() -> None:
    cluster = Cluster()
    assert cluster.do(n.FenceNode(request_id=request(), node_id="c", incarnation=1)) == ""
    assert cluster.shard.isr == ("a", "b")
    assert cluster.isr("a", "b", "c") == "fenced"
    assert cluster.do(n.FenceNode(request_id=request(), node_id="b", incarnation=1)) == ""
    assert cluster.shard.isr == ("a", "b")  # two are needed: b must be waited for
    again = c.RegisterNode(request_id=request(), node_id="c", name="c", url="c")
    assert cluster.do(again) == ""
    assert not cluster.state.nodes["c"].fenced
    late = n.FenceNode(request_id=request(), node_id="c", incarnation=1)
    assert cluster.do(late) == "stale_incarnation"


def test_a_primary_that_restarts_reigns_in_a_new_epoch() -> None:
    cluster = Cluster()
    cluster.do(c.RegisterNode(request_id=request(), node_id="a", name="a", url="a"))
    assert cluster.shard.epoch == 2
    cluster.do(c.RegisterNode(request_id=request(), node_id="b", name="b", url="b"))
    assert cluster.shard.epoch == 2


def test_a_lost_copy_leaves_even_below_the_minimum_but_never_the_last() -> None:
    cluster = Cluster()
    lost = {"alloc_id": "a-1", "new_alloc_id": "a-2"}
    assert cluster.on_shard(sh.CopyLost, node_id="a", **{**lost, "alloc_id": "x"}) == "no_copy"
    assert cluster.on_shard(sh.CopyLost, node_id="a", **lost) == ""
    assert cluster.shard.primary is None
    assert cluster.shard.isr == ("b", "c")
    second = {"alloc_id": "b-1", "new_alloc_id": "b-2"}
    assert cluster.on_shard(sh.CopyLost, node_id="b", **second) == ""
    third = {"alloc_id": "c-1", "new_alloc_id": "c-2"}
    assert cluster.on_shard(sh.CopyLost, node_id="c", **third) == "last_copy"


def test_an_unclean_promotion_is_recorded_with_its_epoch() -> None:
    cluster = Cluster()
    assert cluster.isr("a", "b") == ""
    assert cluster.on_shard(sh.UncleanPromote, node_id="d") == "no_copy"
    assert cluster.on_shard(sh.UncleanPromote, node_id="c") == ""
    assert (cluster.shard.isr, cluster.shard.unclean_epochs) == (("c",), (2,))


def test_a_move_ends_with_the_new_copy_in_sync_and_the_old_one_gone() -> None:
    cluster = Cluster()
    move = {"adding": "d", "alloc_id": "d-1", "removing": "c"}
    assert cluster.on_shard(sh.MoveCommit) == "no_move"
    assert cluster.on_shard(sh.MoveStart, **move) == ""
    assert cluster.on_shard(sh.MoveStart, **move) == "move_under_way"
    assert cluster.on_shard(sh.MoveCommit) == "not_in_sync"
    assert cluster.isr("a", "b", "c", "d") == ""
    assert cluster.on_shard(sh.MoveCommit) == ""
    assert sorted(cluster.shard.replicas) == ["a", "b", "d"]
    assert (cluster.shard.isr, cluster.shard.epoch) == (("a", "b", "d"), 2)


def test_a_primary_is_handed_over_before_it_moves_away() -> None:
    cluster = Cluster()
    cluster.on_shard(sh.MoveStart, adding="d", alloc_id="d-1", removing="a")
    cluster.isr("a", "b", "c", "d")
    assert cluster.on_shard(sh.MoveCommit) == "still_primary"
    assert cluster.on_shard(sh.Promote, node_id="d", incarnation=1) == ""
    assert cluster.on_shard(sh.MoveAbort) == "still_primary"
    assert cluster.on_shard(sh.MoveCommit) == ""


def test_an_aborted_move_leaves_what_was() -> None:
    cluster = Cluster()
    before = cluster.shard
    cluster.on_shard(sh.MoveStart, adding="d", alloc_id="d-1", removing="a")
    cluster.isr("a", "b", "c", "d")
    assert cluster.on_shard(sh.MoveAbort) == ""
    assert (cluster.shard.isr, cluster.shard.replicas) == (before.isr, before.replicas)


def test_a_node_leaves_only_without_copies() -> None:
    cluster = Cluster()
    assert cluster.do(n.RemoveNode(request_id=request(), node_id="a")) == "node_in_use"
    assert cluster.do(n.RemoveNode(request_id=request(), node_id="d")) == ""
    assert cluster.do(n.DrainNode(request_id=request(), node_id="d", draining=True)) == (
        "undefined_node"
    )


def test_settings_and_the_feature_level_are_compared_and_set() -> None:
    cluster = Cluster()

    def change(value: str | None, expected: str | None) -> str:
        command = n.ChangeSetting(request_id=request(), name="x", value=value, expected=expected)
        return cluster.do(command)

    assert [change("1", None), change("2", None), change("2", "1"), change(None, "2")] == [
        "", "setting_changed", "", "",
    ]  # fmt: skip
    assert cluster.state.settings == {}
    cluster.upgrade(*NAMES, level=2)
    assert cluster.do(n.RaiseFeatureLevel(request_id=request(), level=2, expected=0)) == ""
    assert cluster.do(n.RaiseFeatureLevel(request_id=request(), level=1, expected=2)) == (
        "feature_level_changed"
    )


def test_a_level_is_raised_once_every_node_knows_it_and_then_needed() -> None:
    cluster = Cluster()
    raised = {"level": 1, "expected": 0}
    cluster.upgrade("a", "b", "c", level=1)
    assert cluster.do(n.RaiseFeatureLevel(request_id=request(), **raised)) == "version_too_old"
    cluster.upgrade("a", level=0)  # back again: nothing was raised yet
    cluster.upgrade("a", "d", level=1)
    assert cluster.do(n.RaiseFeatureLevel(request_id=request(), **raised)) == ""
    assert cluster.register("d", level=0) == "version_too_old"
    assert cluster.register("d", level=2) == ""


@pytest.mark.parametrize(
    "command",
    [
        c.TableReady(request_id="x", table_uuid="t", alloc_ids={"a": "1"}),
        c.CreateTable(
            request_id="x",
            table=TableDef("u", "other", TableSchema((), 1), shards=1),
            shard_uuids=("u1",),
            nodes=(),
        ),
    ],
    ids=["no copies", "no nodes"],
)
def test_a_nonsensical_command_is_refused_and_not_raised(command: c.Command) -> None:
    assert Cluster().do(command) == "invalid_command"


NODE_STEPS = ["promote", "fence", "restart", "unclean", "lost", "move"]
_NODE = st.sampled_from(NAMES)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("isr"), st.sets(_NODE)),
        st.tuples(st.sampled_from(NODE_STEPS), _NODE),
        st.tuples(st.sampled_from(["commit", "abort"]), st.just("")),
    ),
    max_size=20,
)


def step(cluster: Cluster, kind: str, what: Any) -> None:
    incarnation = cluster.state.nodes[what].incarnation if kind != "isr" and what else 0
    alloc = cluster.shard.replicas.get(what, "") if isinstance(what, str) else ""
    match kind:
        case "isr":
            cluster.isr(*what)
        case "promote":
            cluster.on_shard(sh.Promote, node_id=what, incarnation=incarnation)
        case "unclean":
            cluster.on_shard(sh.UncleanPromote, node_id=what)
        case "fence":
            cluster.do(n.FenceNode(request_id=request(), node_id=what, incarnation=incarnation))
        case "restart":
            cluster.do(c.RegisterNode(request_id=request(), node_id=what, name=what, url="u"))
        case "lost":
            cluster.on_shard(sh.CopyLost, node_id=what, alloc_id=alloc, new_alloc_id=request())
        case "move":
            cluster.on_shard(sh.MoveStart, adding=what, alloc_id=request(), removing=None)
        case "commit":
            cluster.on_shard(sh.MoveCommit)
        case _:
            cluster.on_shard(sh.MoveAbort)


@given(_STEPS)
def test_in_any_order_an_epoch_has_one_primary_and_the_set_only_copies(
    steps: list[tuple[str, Any]],
) -> None:
    cluster = Cluster()
    reigns: dict[int, str] = {1: "a"}
    for kind, what in steps:
        before = cluster.shard
        step(cluster, kind, what)
        shard = cluster.shard
        assert shard.epoch >= before.epoch
        assert set(shard.isr) <= set(shard.replicas)
        if shard.primary is not None:
            assert reigns.setdefault(shard.epoch, shard.primary) == shard.primary
        if len(shard.isr) < min(shard.min_isr, len(before.isr)):
            assert kind in ("lost", "unclean")
    assert from_plain(s.Metadata, to_plain(cluster.state)) == cluster.state

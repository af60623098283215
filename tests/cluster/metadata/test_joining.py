"""New disks: who is let in, who takes a lost disk's place, and when a table's copies are ready."""

from __future__ import annotations

import itertools

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

_requests = itertools.count()


def request() -> str:
    return f"request-{next(_requests)}"


class Cluster:
    """Nodes a, b and c; `create` makes a table on all of them, not ready yet."""

    def __init__(self) -> None:
        self.state = s.Metadata()
        for name in ("a", "b", "c"):
            assert self.register(name, name) == ""

    def do(self, command: c.Command) -> str:
        self.state, result = s.apply(self.state, command)
        self.state.check_invariants()
        return result.code

    def register(self, node_id: str, name: str, digest: str = "", now_ms: int = 0) -> str:
        return self.do(
            c.RegisterNode(
                request_id=request(), node_id=node_id, name=name, url="u", join_digest=digest,
                registered_ms=now_ms,
            )
        )  # fmt: skip

    def token(self, digest: str, created_ms: int = 0, expires_ms: int = 100) -> str:
        return self.do(
            n.CreateJoinToken(
                request_id=request(), digest=digest, created_ms=created_ms, expires_ms=expires_ms
            )
        )

    def create(self) -> None:
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        table = TableDef("t", "docs", TableSchema(columns, 1), shards=2)
        assert not self.do(
            c.CreateTable(
                request_id=request(), table=table, shard_uuids=("s0", "s1"), nodes=("a",),
                placement=(("a", "b", "c"), ("b", "c", "a")),
            )
        )  # fmt: skip

    def prepared(self, node: str, alloc: str = "1") -> str:
        alloc_ids = dict.fromkeys(("s0", "s1"), f"{node}-{alloc}")
        return self.do(
            sh.CopyReady(request_id=request(), table_uuid="t", node_id=node, alloc_ids=alloc_ids)
        )

    def ready(self) -> str:
        return self.do(c.TableReady(request_id=request(), table_uuid="t", alloc_ids={}))

    @property
    def shards(self) -> tuple[s.ShardRow, ...]:
        return self.state.tables["t"].shards


def test_a_table_is_ready_once_each_shard_has_enough_prepared_copies() -> None:
    cluster = Cluster()
    cluster.create()
    assert [shard.primary for shard in cluster.shards] == ["a", "b"]
    assert cluster.prepared("b") == ""
    assert cluster.ready() == "not_enough_replicas"
    assert cluster.prepared("c") == ""
    assert cluster.ready() == ""
    assert cluster.state.tables["t"].ready
    assert [(shard.primary, shard.isr) for shard in cluster.shards] == [("b", ("b", "c"))] * 2
    assert cluster.prepared("a") == ""  # late: a copy to be filled, not one in sync
    assert cluster.shards[0].replicas["a"] == "a-1"
    assert cluster.shards[0].isr == ("b", "c")
    assert cluster.ready() == ""  # again changes nothing
    assert cluster.shards[0].isr == ("b", "c")


def test_a_copy_that_has_a_name_keeps_it() -> None:
    cluster = Cluster()
    cluster.create()
    assert cluster.prepared("a") == cluster.prepared("a") == ""
    assert cluster.prepared("a", "2") == "copy_known"
    before = cluster.shards
    assert cluster.prepared("z") == ""  # has no copy here
    assert cluster.shards == before


def test_a_new_primary_leaves_the_fenced_behind_while_enough_remain() -> None:
    cluster = Cluster()
    cluster.create()
    for node in ("a", "b", "c"):
        cluster.prepared(node)
    cluster.ready()
    cluster.do(n.FenceNode(request_id=request(), node_id="a", incarnation=1))
    assert "a" in cluster.shards[0].isr  # the primary is not dropped before another is
    promote = sh.Promote(
        request_id=request(), shard_uuid="s0", expected_version=cluster.shards[0].version,
        node_id="b", incarnation=1,
    )  # fmt: skip
    assert cluster.do(promote) == ""
    assert cluster.shards[0].isr == ("b", "c")


def test_a_name_is_taken_over_with_a_token_only_and_a_token_lets_one_in() -> None:
    cluster = Cluster()
    assert cluster.register("a2", "a") == "duplicate_node"
    assert cluster.register("a2", "a", "d") == "invalid_join_token"
    assert cluster.token("d") == ""
    assert cluster.register("a2", "a", "d", now_ms=100) == "invalid_join_token"  # it has expired
    assert cluster.register("a2", "a", "d", now_ms=99) == ""
    assert sorted(cluster.state.nodes) == ["a2", "b", "c"]
    assert cluster.state.nodes["a2"].incarnation == 2
    assert cluster.register("d", "d", "d", now_ms=99) == "invalid_join_token"
    assert cluster.register("a2", "a", "d", now_ms=999) == ""  # known by now: it needs none


def test_a_known_disk_takes_nobodys_name() -> None:
    cluster = Cluster()
    cluster.token("d")
    assert cluster.register("b", "a", "d") == "duplicate_node"


def test_who_takes_a_lost_disks_place_makes_its_copies_anew() -> None:
    cluster = Cluster()
    cluster.create()
    for node in ("a", "b", "c"):
        cluster.prepared(node)
    cluster.ready()
    cluster.token("d")
    assert cluster.register("a2", "a", "d") == ""
    first, second = cluster.shards
    assert first.replicas == {"b": "b-1", "c": "c-1", "a2": ""}
    assert (first.isr, first.primary) == (("b", "c"), None)
    assert (second.isr, second.primary) == (("b", "c"), "b")
    assert cluster.prepared("a2") == ""
    assert cluster.shards[0].replicas["a2"] == "a2-1"


def test_a_disk_with_the_only_copy_in_sync_can_not_be_given_up() -> None:
    cluster = Cluster()
    cluster.create()
    for node in ("a", "b", "c"):
        cluster.prepared(node)
    cluster.ready()
    unclean = sh.UncleanPromote(
        request_id=request(), shard_uuid="s0", expected_version=cluster.shards[0].version,
        node_id="a",
    )  # fmt: skip
    assert cluster.do(unclean) == ""
    cluster.token("d")
    assert cluster.register("a2", "a", "d") == "last_copy"
    assert "a" in cluster.state.nodes


def test_unused_tokens_are_bounded_and_expired_ones_go() -> None:
    cluster = Cluster()
    for number in range(n.MOST_JOIN_TOKENS):
        assert cluster.token(f"d{number}") == ""
    assert cluster.token("more") == "too_many_join_tokens"
    assert cluster.token("more", created_ms=100, expires_ms=200) == ""
    assert list(cluster.state.join_tokens) == ["more"]

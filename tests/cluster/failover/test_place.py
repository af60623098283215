"""Where a new table's copies go."""

from __future__ import annotations

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import state as s
from nearql.cluster.placement import default_copies, place
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

NAMES = ("a", "b", "c", "d")


def world(*commands: c.Command) -> s.Metadata:
    state = s.Metadata()
    registered = [c.RegisterNode(request_id=x, node_id=x, name=x, url="u") for x in NAMES]
    for command in (*registered, *commands):
        state, result = s.apply(state, command)
        assert result.ok
    return state


def on(*nodes: str) -> c.CreateTable:
    columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
    table = TableDef("t", "t", TableSchema(columns, 1), shards=1)
    return c.CreateTable(request_id="t", table=table, shard_uuids=("s",), nodes=nodes)


def test_three_copies_or_as_many_as_there_are_nodes() -> None:
    assert [default_copies(nodes) for nodes in (0, 1, 2, 3, 9)] == [1, 1, 2, 3, 3]


def test_the_asked_node_comes_first_and_then_the_emptiest() -> None:
    assert place(world(), NAMES, 3, "c") == ("c", "a", "b")
    assert place(world(on("a", "b")), NAMES, 3, "b") == ("b", "c", "d")


def test_the_dead_the_fenced_and_those_on_their_way_out_get_nothing() -> None:
    fenced = n.FenceNode(request_id="f", node_id="a", incarnation=1)
    leaving = n.DrainNode(request_id="l", node_id="b", draining=True)
    state = world(fenced, leaving)
    assert place(state, ("a", "b", "c"), 1, "a") == ("c",)
    assert place(state, ("a", "b", "c"), 2, "a") == ()

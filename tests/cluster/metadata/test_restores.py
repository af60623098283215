"""Tables being restored: hidden until one step shows them all, with their views, or none."""

from __future__ import annotations

import uuid

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.codec import decode_command, encode_command
from nearql.cluster.metadata.nodes import FenceNode
from nearql.cluster.metadata.restores import PublishRestored, abandoned, restoring_by
from nearql.engine.named_query import ViewColumn, ViewDef
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

BY = restoring_by("n", 1, "job")


def rid() -> str:
    return uuid.uuid4().hex


def made(name: str, by: str = BY, *, ready: bool = True) -> list[c.Command]:
    table = TableDef(name, name, TableSchema((Column(1, "id", ColumnType("BIGINT")),), 1))
    create = c.CreateTable(
        request_id=rid(), table=table, shard_uuids=(f"{name}-0",), nodes=("n",), restoring=by
    )
    if not ready:
        return [create]
    return [create, c.TableReady(request_id=rid(), table_uuid=name, alloc_ids={"n": "a"})]


def published(*tables: str, views: tuple[ViewDef, ...] = ()) -> PublishRestored:
    numbers = dict.fromkeys(tables, 41)
    return PublishRestored(request_id=rid(), restoring=BY, numbers=numbers, views=views)


def view(name: str, *reads: str) -> ViewDef:
    return ViewDef(name, name, "SELECT 1", (ViewColumn("id", "id", "BIGINT"),), reads)


def registered() -> c.Command:
    return c.RegisterNode(request_id=rid(), node_id="n", name="n1", url="")


def run(*commands: c.Command, alive: bool = True) -> tuple[s.Metadata, s.Result]:
    state, result = s.Metadata(), s.Result()
    for command in [registered(), *commands] if alive else commands:
        state, result = s.apply(state, command)
        state.check_invariants()
    return state, result


def test_one_step_shows_every_table_and_view() -> None:
    views = (view("v", "a"), view("w", "b", "v"))
    before, _ = run(*made("a"), *made("b"))
    assert [row.restoring for row in before.tables.values()] == [BY, BY]
    state, result = s.apply(before, published("a", "b", views=views))
    assert result.ok
    assert [(row.restoring, row.next_number) for row in state.tables.values()] == [("", 41)] * 2
    assert list(state.views) == ["v", "w"]
    assert state.version > before.version


def test_a_step_that_lacks_a_table_shows_nothing() -> None:
    for step, tables in (
        (published("a", "b"), [*made("a")]),  # b was dropped
        (published("a"), [*made("a"), *made("b")]),
        (published("a", "b"), [*made("a"), *made("b", ready=False)]),
        (published("a", "b"), [*made("a"), *made("b", "n/1/another job")]),
    ):
        state, result = run(*tables, step)
        assert result.code == "restore_broken"
        assert all(row.restoring for row in state.tables.values())


def test_a_view_that_can_not_be_made_hides_the_tables_too() -> None:
    state, result = run(*made("a"), published("a", views=(view("v", "a"), view("v", "a"))))
    assert result.code == "duplicate_table"
    assert state.tables["a"].restoring == BY
    assert not state.views


def test_a_number_that_was_given_out_stays_so() -> None:
    more = c.AllocateNumbers(request_id=rid(), table_uuid="a", count=1000)
    state, _ = run(*made("a"), more, published("a"))
    assert state.tables["a"].next_number == 1001


def test_the_name_is_taken_from_the_beginning() -> None:
    state, _ = run(*made("a"))
    _, result = s.apply(state, made("A", "")[0])
    assert result.code == "duplicate_table"


def test_tables_of_a_process_that_ended_are_abandoned() -> None:
    state, _ = run(*made("a"))
    assert abandoned(state) == []
    again, _ = s.apply(state, registered())
    assert [row.table.name for row in abandoned(again)] == ["a"]
    fenced, _ = s.apply(state, FenceNode(request_id=rid(), node_id="n", incarnation=1))
    assert [row.table.name for row in abandoned(fenced)] == ["a"]
    assert [row.table.name for row in abandoned(run(*made("a"), alive=False)[0])] == ["a"]


def test_what_may_be_dropped_as_abandoned_is_shown_no_more() -> None:
    fence = FenceNode(request_id=rid(), node_id="n", incarnation=1)
    for commands in ([*made("a"), fence], [*made("a"), registered()]):
        state, _ = run(*commands)
        state, result = s.apply(state, published("a"))
        assert result.code == "restore_broken"
        assert [row.table.name for row in abandoned(state)] == ["a"]


def test_the_command_survives_its_encoding() -> None:
    command = published("a", views=(view("v", "a"),))
    assert decode_command(encode_command(command)) == command

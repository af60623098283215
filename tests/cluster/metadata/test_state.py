"""The metadata state machine: what each command does, and what must hold whatever the order."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import jobs, restores
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.access_commands import ACCESS_COMMANDS
from nearql.cluster.metadata.codec import (
    NewerFormat,
    decode_command,
    encode_command,
    from_plain,
    to_plain,
    unpack,
)
from nearql.engine.errors import Corruption
from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.types import Metric


def table_def(name: str, uuid_: str = "t1", shards: int = 1) -> TableDef:
    columns = (
        Column(1, "id", ColumnType("BIGINT"), not_null=True),
        Column(2, "vec", ColumnType("VECTOR(3)")),
    )
    return TableDef(uuid_, name, TableSchema(columns, 1), shards=shards)


def create(name: str, uuid_: str = "t1", shards: int = 1, request: str = "") -> c.CreateTable:
    shard_uuids = tuple(f"{uuid_}-{n}" for n in range(shards))
    return c.CreateTable(
        request_id=request or uuid.uuid4().hex,
        table=table_def(name, uuid_, shards),
        shard_uuids=shard_uuids,
        nodes=("node-a", "node-b", "node-c"),
    )


def run(*commands: c.Command) -> tuple[s.Metadata, list[s.Result]]:
    state, results = s.Metadata(), []
    for command in commands:
        state, result = s.apply(state, command)
        state.check_invariants()
        results.append(result)
    return state, results


def test_a_table_is_created_once_whatever_its_case() -> None:
    state, results = run(create("docs"), create("DOCS", "t2"))
    assert [r.code for r in results] == ["", "duplicate_table"]
    assert list(state.tables) == ["t1"]


def test_a_new_shard_needs_a_majority_of_its_copies() -> None:
    state, _ = run(create("docs", shards=2))
    assert [shard.min_isr for shard in state.tables["t1"].shards] == [2, 2]
    assert state.tables["t1"].shards[0].primary == "node-a"


def test_a_repeated_request_changes_nothing_and_answers_the_same() -> None:
    once = c.AllocateNumbers(request_id="r1", table_uuid="t1", count=10)
    state, results = run(create("docs"), once, once)
    assert results[1] == results[2] == s.Result(value=1)
    assert state.tables["t1"].next_number == 11


def test_a_schema_change_is_compared_and_set() -> None:
    schema = table_def("docs").schema
    newer = TableSchema(schema.columns, 1, version=2)
    change = {"table_uuid": "t1", "schema": newer, "expected_version": 1}
    _, results = run(
        create("docs"),
        c.ReplaceSchema(request_id="a", **change),  # type: ignore[arg-type]
        c.ReplaceSchema(request_id="b", **change),  # type: ignore[arg-type]
    )
    assert [r.code for r in results] == ["", "", "schema_changed"]


def test_a_rename_onto_another_table_is_refused() -> None:
    schema = TableSchema(table_def("x").schema.columns, 1, version=2)
    rename = c.ReplaceSchema(
        request_id="a", table_uuid="t2", schema=schema, expected_version=1, new_name="docs"
    )
    _, results = run(create("docs"), create("other", "t2"), rename)
    assert results[-1].code == "duplicate_table"


def test_index_names_are_unique_in_the_database() -> None:
    index = IndexDef("i1", "docs_vec", "vec", "hnsw", Metric.L2, {"m": 16})
    again = IndexDef("i2", "DOCS_VEC", "vec", "flat", Metric.L2)
    state, results = run(
        create("docs"),
        c.CreateIndex(request_id="a", table_uuid="t1", index=index),
        c.CreateIndex(request_id="b", table_uuid="t1", index=again),
        c.DropIndex(request_id="c", index_uuid="i1"),
        c.DropIndex(request_id="d", index_uuid="i1"),
    )
    assert [r.code for r in results] == ["", "", "duplicate_index", "", "undefined_index"]
    assert state.tables["t1"].table.indexes == ()


def test_the_catalog_version_rises_with_what_a_plan_can_see_only() -> None:
    created, _ = run(create("docs"))
    allocated, _ = s.apply(created, c.AllocateNumbers(request_id="n", table_uuid="t1", count=5))
    assert allocated.version == created.version
    dropped, _ = s.apply(created, c.DropTable(request_id="d", table_uuid="t1"))
    assert dropped.version == created.version + 1


def test_a_node_name_belongs_to_one_disk() -> None:
    first = c.RegisterNode(request_id="a", node_id="1", name="n1", url="http://a")
    again = c.RegisterNode(request_id="b", node_id="1", name="n1", url="http://b")
    thief = c.RegisterNode(request_id="c", node_id="2", name="n1", url="http://c")
    state, results = run(first, again, thief)
    assert [r.value for r in results[:2]] == [1, 2]
    assert results[2].code == "duplicate_node"
    assert state.nodes["1"].url == "http://b"


def test_remembered_results_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "GENERATION", 3)
    monkeypatch.setattr(s, "GENERATIONS", 2)
    numbers = [c.AllocateNumbers(request_id=f"r{n}", table_uuid="t1", count=1) for n in range(14)]
    state, results = run(create("docs", request="first"), *numbers)
    assert s.apply(state, numbers[12])[1] == results[13]
    assert s.apply(state, numbers[6])[1] == results[7]
    assert s.apply(state, numbers[0])[1] != results[1]  # forgotten: done anew
    assert len(state.results) + sum(map(len, state.older_results)) <= 9


SHARD: Any = {"shard_uuid": "t1-0", "expected_version": 1}
COMMANDS: list[c.Command] = [
    c.Initialise(request_id="r", cluster_id="x"),
    c.RegisterNode(request_id="r", node_id="1", name="n1", url="u"),
    create("docs", shards=3, request="r"),
    c.TableReady(request_id="r", table_uuid="t1", alloc_ids={"node-a": "1"}),
    c.DropTable(request_id="r", table_uuid="t1"),
    c.ReplaceSchema(
        request_id="r", table_uuid="t1", schema=table_def("a").schema, expected_version=1
    ),
    c.CreateIndex(
        request_id="r",
        table_uuid="t1",
        index=IndexDef("i", "n", "vec", "hnsw", Metric.COSINE, {"m": 16, "target_recall": 0.9}),
    ),
    c.DropIndex(request_id="r", index_uuid="i"),
    c.AllocateNumbers(request_id="r", table_uuid="t1", count=3),
    n.FenceNode(request_id="r", node_id="1", incarnation=2),
    n.DrainNode(request_id="r", node_id="1", draining=True),
    n.CreateJoinToken(request_id="r", digest="d", created_ms=1, expires_ms=2),
    n.RemoveNode(request_id="r", node_id="1"),
    n.ChangeSetting(request_id="r", name="a", value="1", expected=None),
    n.RaiseFeatureLevel(request_id="r", level=1, expected=0),
    sh.Promote(request_id="r", node_id="1", incarnation=1, **SHARD),
    sh.UncleanPromote(request_id="r", node_id="1", **SHARD),
    sh.IsrChange(request_id="r", epoch=1, isr=("1",), incarnations={"1": 3}, **SHARD),
    sh.CopyLost(request_id="r", node_id="1", alloc_id="a", new_alloc_id="b", **SHARD),
    sh.CopyReady(request_id="r", table_uuid="t1", node_id="1", alloc_ids={"t1-0": "a"}),
    sh.MoveStart(request_id="r", adding="1", alloc_id="a", removing=None, **SHARD),
    sh.MoveCommit(request_id="r", **SHARD),
    sh.MoveAbort(request_id="r", **SHARD),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda x: type(x).__name__)
def test_each_command_survives_its_encoding(command: c.Command) -> None:
    assert decode_command(encode_command(command)) == command


def test_every_command_has_a_round_trip_above() -> None:
    elsewhere = {kind.__name__ for kind in ACCESS_COMMANDS}  # test_access
    elsewhere |= {"CreateView", "DropView"}  # test_views
    elsewhere |= {kind.__name__ for kind in jobs.HANDLERS}  # test_jobs
    elsewhere |= {kind.__name__ for kind in restores.HANDLERS}  # test_restores
    assert {type(x).__name__ for x in COMMANDS} == set(s.COMMANDS) - elsewhere


def test_bytes_of_a_newer_version_are_refused_by_name() -> None:
    import msgpack

    with pytest.raises(NewerFormat, match="format 99.*upgrade NearQL"):
        unpack(msgpack.packb([99, {}]))


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_corruption_not_a_crash(data: bytes) -> None:
    try:
        unpack(data)
    except Corruption:
        return


def _steps() -> st.SearchStrategy[list[tuple[str, Any, str]]]:
    step = st.tuples(
        st.sampled_from(["create", "drop", "allocate", "ready"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([f"r{n}" for n in range(6)]),  # few, so that requests repeat
    )
    return st.lists(step, max_size=25)


def _command(kind: str, name: str, request: str) -> c.Command:
    if kind == "create":
        return create(name, f"uuid-{name}", request=request)
    if kind == "drop":
        return c.DropTable(request_id=request, table_uuid=f"uuid-{name}")
    if kind == "ready":
        alloc = {node: node for node in ("node-a", "node-b", "node-c")}
        return c.TableReady(request_id=request, table_uuid=f"uuid-{name}", alloc_ids=alloc)
    return c.AllocateNumbers(request_id=request, table_uuid=f"uuid-{name}", count=2)


@given(_steps())
def test_any_order_keeps_the_invariants_and_the_encoding_keeps_the_state(
    steps: list[tuple[str, str, str]],
) -> None:
    state, _ = run(*[_command(*step) for step in steps])
    assert from_plain(s.Metadata, to_plain(state)) == state

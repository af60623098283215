"""Jobs of operators in the metadata, and the two changes of a table that only they make."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import jobs as j
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.cluster.metadata.codec import decode_command, encode_command, from_plain, to_plain
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

NAMES = ("a", "b", "c", "d")
_requests = itertools.count()


def request() -> str:
    return f"request-{next(_requests)}"


class Cluster:
    """Four nodes and a table of two shards, whose copies lie on a, b and c."""

    def __init__(self) -> None:
        self.state = s.Metadata()
        for name in NAMES:
            self.do(c.RegisterNode(request_id=request(), node_id=name, name=name, url=name))
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        table = TableDef("t", "docs", TableSchema(columns, 1), shards=2, replicas=3)
        create = c.CreateTable(
            request_id=request(), table=table, shard_uuids=("s0", "s1"), nodes=("a", "b", "c")
        )
        self.do(create)
        alloc = {name: f"{name}-1" for name in ("a", "b", "c")}
        self.do(c.TableReady(request_id=request(), table_uuid="t", alloc_ids=alloc))

    def do(self, command: c.Command) -> str:
        before = replace(self.state, applied_index=0, results={}, older_results=())
        self.state, result = s.apply(self.state, command)
        self.state.check_invariants()
        if not result.ok:
            after = replace(self.state, applied_index=0, results={}, older_results=())
            assert after == before, "a refusal changes nothing"
        return str(result.code)

    def start(self, uuid: str, kind: str, **members: Any) -> str:
        job = j.JobRow(uuid, kind, began_ms=1, **members)
        return self.do(j.StartJob(request_id=request(), job=job))

    def end(self, uuid: str, state: str = j.DONE) -> str:
        return self.do(
            j.EndJob(request_id=request(), job_uuid=uuid, state=state, detail="", ended_ms=2)
        )

    def shard(self, number: int = 0) -> sh.ShardRow:
        return self.state.tables["t"].shards[number]

    def drop_copy(self, node_id: str, number: int = 0, version: int | None = None) -> str:
        shard = self.shard(number)
        return self.do(
            j.DropCopy(
                request_id=request(),
                shard_uuid=shard.uuid,
                expected_version=shard.version if version is None else version,
                node_id=node_id,
            )
        )

    def set_replicas(self, count: int) -> str:
        return self.do(j.SetReplicas(request_id=request(), table_uuid="t", replicas=count))


MOVE = j.Move("t", "a", "d")


def test_a_table_is_in_one_job_at_a_time() -> None:
    cluster = Cluster()
    assert cluster.start("1", "move", moves=(MOVE,)) == ""
    assert cluster.start("2", "failover", leads=(j.Lead("t", "b"),)) == "job_under_way"
    assert cluster.start("2", "replicas", table_uuid="t", replicas=2) == "job_under_way"
    assert cluster.start("2", "drain", node_id="c") == ""
    assert cluster.end("1") == ""
    assert cluster.start("3", "rebalance", moves=(MOVE,)) == ""
    assert [cluster.state.jobs[uuid].number for uuid in ("1", "2", "3")] == [1, 2, 3]


def test_jobs_of_what_is_not_there_are_refused() -> None:
    cluster = Cluster()
    assert cluster.start("1", "move", moves=(replace(MOVE, table_uuid="x"),)) == "undefined_table"
    assert cluster.start("1", "move", moves=(replace(MOVE, target="x"),)) == "undefined_node"
    assert cluster.start("1", "drain", node_id="x") == "undefined_node"
    assert cluster.start("1", "nonsense") == "invalid_command"
    assert cluster.start("1", "drain", node_id="a", state=j.DONE) == "invalid_command"


def test_a_drain_keeps_its_node_empty_until_it_is_cancelled() -> None:
    cluster = Cluster()
    assert cluster.start("1", "drain", node_id="a") == ""
    assert cluster.state.nodes["a"].draining
    assert cluster.start("2", "drain", node_id="a") == "job_under_way"
    assert cluster.end("1", j.CANCELLED) == ""
    assert not cluster.state.nodes["a"].draining
    assert cluster.start("2", "drain", node_id="a") == ""
    assert cluster.end("2") == ""
    assert cluster.state.nodes["a"].draining


def test_only_a_running_job_is_noted_and_ended() -> None:
    cluster = Cluster()
    cluster.start("1", "move", moves=(MOVE,))
    note = j.NoteJob(request_id=request(), job_uuid="1", detail="waits")
    assert cluster.do(note) == ""
    assert cluster.state.jobs["1"].detail == "waits"
    assert cluster.end("1", "bogus") == "invalid_command"
    assert cluster.end("1", j.FAILED) == ""
    assert cluster.end("1") == "no_such_job"
    assert cluster.do(replace(note, request_id=request())) == "no_such_job"


def test_of_ended_jobs_the_last_ones_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(j, "MOST_ENDED", 3)
    cluster = Cluster()
    cluster.start("running", "drain", node_id="d")
    for number in range(6):
        cluster.start(str(number), "move", moves=(MOVE,))
        cluster.end(str(number))
    assert sorted(cluster.state.jobs) == ["3", "4", "5", "running"]


def test_running_jobs_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(j, "MOST_RUNNING", 2)
    cluster = Cluster()
    assert [cluster.start(name, "drain", node_id=name) for name in "abc"] == [
        "", "", "too_many_jobs",
    ]  # fmt: skip


def test_a_copy_is_dropped_where_others_can_spare_it() -> None:
    cluster = Cluster()
    assert cluster.drop_copy("a") == "still_primary"
    assert cluster.drop_copy("d") == "no_copy"
    assert cluster.drop_copy("c", version=99) == "shard_changed"
    assert cluster.drop_copy("c") == ""
    assert (cluster.shard().isr, set(cluster.shard().replicas)) == (("a", "b"), {"a", "b"})
    assert cluster.drop_copy("b") == "not_enough_replicas"
    assert cluster.set_replicas(1) == ""
    assert cluster.drop_copy("b") == ""
    assert cluster.shard().replicas == {"a": "a-1"}
    start = sh.MoveStart(
        request_id=request(), shard_uuid="s0", expected_version=cluster.shard().version,
        adding="b", alloc_id="", removing=None,
    )  # fmt: skip
    assert cluster.do(start) == ""
    assert cluster.drop_copy("b") == "move_under_way"


def test_the_minimum_in_sync_follows_the_number_of_copies() -> None:
    cluster = Cluster()
    assert cluster.set_replicas(7) == "not_enough_replicas"
    assert cluster.set_replicas(0) == "not_enough_replicas"
    assert cluster.set_replicas(5) == ""
    assert [cluster.shard(n).min_isr for n in (0, 1)] == [3, 3]
    assert cluster.state.tables["t"].table.replicas == 5
    assert cluster.set_replicas(2) == ""
    assert cluster.shard().min_isr == 2


COMMANDS: list[c.Command] = [
    j.StartJob(
        request_id="r",
        job=j.JobRow("1", "rebalance", 5, (MOVE,), (j.Lead("t", "b"),), "a", "t", 2, 4),
    ),
    j.NoteJob(request_id="r", job_uuid="1", detail="x"),
    j.EndJob(request_id="r", job_uuid="1", state=j.DONE, detail="", ended_ms=6),
    j.DropCopy(request_id="r", shard_uuid="s0", expected_version=1, node_id="a"),
    j.SetReplicas(request_id="r", table_uuid="t", replicas=2),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda x: type(x).__name__)
def test_each_command_survives_its_encoding(command: c.Command) -> None:
    assert decode_command(encode_command(command)) == command


def test_every_command_has_a_round_trip_above() -> None:
    assert {type(command) for command in COMMANDS} == set(j.HANDLERS)


_STEP = st.tuples(
    st.sampled_from(["start", "end", "cancel", "drop", "replicas", "move", "commit", "abort"]),
    st.sampled_from(NAMES),
    st.integers(0, 4),
)


@given(st.lists(_STEP, max_size=30))
def test_any_order_keeps_enough_copies_and_the_encoding_keeps_the_state(
    steps: list[tuple[str, str, int]],
) -> None:
    cluster = Cluster()
    for kind, name, number in steps:
        shard = cluster.shard(number % 2)
        on_shard: Any = {"shard_uuid": shard.uuid, "expected_version": shard.version}
        if kind == "start":
            cluster.start(str(number), "drain", node_id=name)
        elif kind in ("end", "cancel"):
            cluster.end(str(number), j.DONE if kind == "end" else j.CANCELLED)
        elif kind == "drop":
            cluster.drop_copy(name, number % 2)
        elif kind == "replicas":
            cluster.set_replicas(number)
        elif kind == "move":
            cluster.do(
                sh.MoveStart(
                    request_id=request(), adding=name, alloc_id="", removing=None, **on_shard
                )
            )
        else:
            command = sh.MoveCommit if kind == "commit" else sh.MoveAbort
            cluster.do(command(request_id=request(), **on_shard))
        for row in cluster.state.tables["t"].shards:
            assert len(row.isr) >= row.min_isr
            assert set(row.isr) <= set(row.replicas)
            assert row.adding is None or row.adding in row.replicas
    assert from_plain(s.Metadata, to_plain(cluster.state)) == cluster.state

"""What operators ask of a cluster, over metadata that is real and a network that is not."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from nearql.client.cli import operate
from nearql.client.cli.cluster import main as cluster_command
from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import jobs as j
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata.local import LocalMetadata
from nearql.cluster.metadata.nodes import RaiseFeatureLevel
from nearql.engine.errors import Conflict, InvalidRequest, NearQLError, NotFound, Unavailable
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.storage.files import LocalFileSystem
from nearql.server import problem
from nearql.server.gateway.gateway import Gateway
from nearql.server.jobs import Jobs, cluster_jobs
from nearql.server.operations import Operations, cancel_job, set_replicas

NAMES = ("a", "b", "c", "d")
_requests = itertools.count()


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason)


class World:
    """Four nodes, named in capitals; tables t and u on a, b and c, led by a."""

    def __init__(self, folder: Path) -> None:
        self.metadata = LocalMetadata.open(folder, LocalFileSystem(), _fail)
        self.alive = set(NAMES)
        self.do(RaiseFeatureLevel, level=1, expected=0)
        for name in NAMES:
            self.do(c.RegisterNode, node_id=name, name=name.upper(), url="u", level=1)
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        for uuid in "tu":
            table = TableDef(uuid, uuid, TableSchema(columns, 1), shards=1, replicas=3)
            nodes = ("a", "b", "c")
            self.do(c.CreateTable, table=table, shard_uuids=(f"{uuid}0",), nodes=nodes)
            self.do(c.TableReady, table_uuid=uuid, alloc_ids=dict.fromkeys(nodes, "x"))
        members = lambda: [  # noqa: E731
            SimpleNamespace(node_id=name, name=name.upper(), alive=name in self.alive)
            for name in NAMES
        ]
        cluster = SimpleNamespace(metadata=self.metadata, nodes=members, node_id="a")
        status = SimpleNamespace(shards={}, counts=())
        calls = SimpleNamespace(call=self._unreachable)
        replication = SimpleNamespace(status=lambda: status, calls=calls)
        self.gateway = Gateway(self.metadata, cast(Any, cluster), cast(Any, replication))
        self.operations = Operations(self.gateway)
        self.jobs = Jobs()
        self.jobs.sources.append(lambda: cluster_jobs(self.gateway))

    @staticmethod
    def _unreachable(*_: Any, **__: Any) -> NoReturn:
        raise Unavailable("nobody answers", code="node_unreachable")

    def do(self, kind: type[c.Command], **members: Any) -> Any:
        command = kind(request_id=f"r{next(_requests)}", **members)
        result = self.metadata.propose(command)
        assert result.ok, result
        return result.value

    def shard(self, uuid: str = "t") -> sh.ShardRow:
        return self.metadata.state.tables[uuid].shards[0]

    def change(self, kind: type[sh.ShardCommand], **members: Any) -> None:
        shard = self.shard()
        self.do(kind, shard_uuid=shard.uuid, expected_version=shard.version, **members)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(kind: type[NearQLError], code: str, work: Callable[[], Any]) -> None:
    with pytest.raises(kind) as told:
        work()
    assert told.value.code == code


def test_names_that_are_not_there(world: World) -> None:
    refused(NotFound, "undefined_table", lambda: world.operations.table("nowhere"))
    refused(NotFound, "undefined_node", lambda: world.operations.node("nobody"))
    refused(NotFound, "undefined_job", lambda: world.jobs.one("none"))


def test_a_table_that_is_being_restored_is_not_there_yet(world: World) -> None:
    row = world.metadata.state.tables["t"]
    hidden = {**world.metadata.state.tables, "t": replace(row, restoring="a/1/job")}
    state = replace(world.metadata.state, tables=hidden)
    world.gateway.metadata = cast(Any, SimpleNamespace(state=state))
    refused(NotFound, "undefined_table", lambda: world.operations.table("t"))
    assert world.operations.table("u").table.name == "u"


def test_a_cluster_with_older_nodes_records_no_job(world: World) -> None:
    state = replace(world.metadata.state, feature_level=0)
    world.gateway.metadata = cast(Any, SimpleNamespace(state=state))
    ask = world.operations
    refused(Unavailable, "older_nodes", lambda: ask.drain(ask.node("A")))


def test_moves_that_could_only_fail_are_refused(world: World) -> None:
    ask = world.operations
    row = ask.table("T")
    a, b, d = ask.node("A"), ask.node("B"), ask.node("D")
    ask.check_move(row, a, d)
    refused(Conflict, "no_copy", lambda: ask.check_move(row, d, a))
    refused(Conflict, "wrong_target", lambda: ask.check_move(row, a, b))
    world.alive.discard("d")
    refused(Conflict, "wrong_target", lambda: ask.check_move(row, a, d))


def test_a_job_tells_how_far_it_is(world: World) -> None:
    name = world.operations.start("move", moves=(j.Move("t", "b", "d"),), total=1)
    job = world.jobs.one(name)
    assert (job["state"], job["done"], job["total"]) == ("running", 0, 1)
    assert [step["state"] for step in job["steps"]] == ["queued"]
    world.change(sh.MoveStart, adding="d", alloc_id="x", removing="b")
    assert world.jobs.one(name)["steps"][0]["state"] == "copying"
    shard = world.shard()
    lives = {n: row.incarnation for n, row in world.metadata.state.nodes.items()}
    world.change(sh.IsrChange, epoch=shard.epoch, isr=tuple("abcd"), incarnations=lives)
    assert world.jobs.one(name)["steps"][0]["state"] == "verifying"
    world.change(sh.MoveCommit)
    assert world.jobs.one(name)["done"] == 1
    world.do(j.NoteJob, job_uuid=name, detail="for something")
    assert world.jobs.one(name)["state"] == "waiting"
    world.do(j.EndJob, job_uuid=name, state="done", detail="", ended_ms=5)
    job = world.jobs.one(name)
    assert (job["state"], job["ended_at"]) == ("done", "1970-01-01T00:00:00.005+00:00")


def test_a_drain_is_begun_once_and_undone(world: World) -> None:
    ask = world.operations
    name = ask.drain(ask.node("A"))
    assert ask.drain(ask.node("A")) == name
    assert (world.jobs.one(name)["done"], world.jobs.one(name)["total"]) == (0, 2)
    assert ask.undrain(ask.node("A")) == name
    assert not ask.node("A").draining
    refused(Conflict, "not_draining", lambda: ask.undrain(ask.node("A")))
    again = ask.drain(ask.node("A"))
    world.do(j.EndJob, job_uuid=again, state="done", detail="", ended_ms=5)
    assert ask.node("A").draining
    assert ask.undrain(ask.node("A")) == again
    assert not ask.node("A").draining


def test_a_plan_leaves_alone_what_is_in_a_job(world: World) -> None:
    ask = world.operations
    plan = ask.plan()
    assert {step["to"] for step in plan if step["what"] == "copy"} == {"D"}
    ask.start("move", moves=(j.Move("t", "b", "d"),), total=1)
    assert {step["table"] for step in ask.plan()} <= {"u"}


def test_a_failover_names_a_copy_in_sync(world: World) -> None:
    ask = world.operations
    row = ask.table("t")
    assert ask.successor(row, "C") == "c"
    assert ask.successor(row, None) == "b"
    refused(Unavailable, "not_in_sync", lambda: ask.successor(row, "D"))
    world.alive -= {"b", "c"}
    refused(Unavailable, "not_in_sync", lambda: ask.successor(row, None))


def test_an_unclean_failover_needs_that_no_copy_in_sync_lives(world: World) -> None:
    ask = world.operations
    lives = {n: row.incarnation for n, row in world.metadata.state.nodes.items()}
    world.change(sh.IsrChange, epoch=1, isr=("a", "b"), incarnations=lives)
    row = ask.table("t")
    refused(Conflict, "clean_possible", lambda: ask.promote_uncleanly(row, ask.node("C")))
    world.alive -= {"a", "b"}
    refused(Conflict, "no_copy", lambda: ask.promote_uncleanly(row, ask.node("D")))
    name = ask.promote_uncleanly(row, ask.node("C"))
    assert (world.shard().primary, world.shard().unclean_epochs) == ("c", (2,))
    assert "lost" in world.jobs.one(name)["detail"]


def test_a_copy_in_sync_whose_files_are_gone_keeps_nobody_from_being_promoted(world: World) -> None:
    """What metadata says when it refuses to forget the last copy can be done."""
    ask = world.operations
    lives = {n: row.incarnation for n, row in world.metadata.state.nodes.items()}
    world.change(sh.IsrChange, epoch=1, isr=("a", "b"), incarnations=lives)
    world.alive.discard("b")
    row, before = ask.table("t"), world.shard()
    refused(Conflict, "clean_possible", lambda: ask.promote_uncleanly(row, ask.node("C")))
    world.gateway.failed = lambda: {"t"}  # on a, which is asked
    refused(Conflict, "wrong_target", lambda: ask.promote_uncleanly(row, ask.node("A")))
    assert world.shard() == before
    ask.promote_uncleanly(row, ask.node("C"))
    assert (world.shard().primary, world.shard().isr) == ("c", ("c",))


def test_an_unclean_failover_that_would_fail_later_changes_nothing(world: World) -> None:
    world.change(sh.IsrChange, epoch=1, isr=("a", "b"), incarnations={"a": 1, "b": 1})
    row, ask, before = world.operations.table("t"), world.operations, world.shard()
    world.alive -= {"a", "b", "c"}
    refused(Conflict, "wrong_target", lambda: ask.promote_uncleanly(row, ask.node("C")))
    world.alive.add("c")
    job = ask.start("failover", leads=(j.Lead("t", "c"),))
    refused(Conflict, "job_under_way", lambda: ask.promote_uncleanly(row, ask.node("C")))
    cancel_job(world.gateway, job)
    assert world.shard() == before
    ask.promote_uncleanly(row, ask.node("C"))
    assert world.shard().primary == "c"


def test_an_unclean_failover_takes_rows_as_they_are_by_then(world: World) -> None:
    row, ask, propose = world.operations.table("t"), world.operations, world.metadata.propose
    world.alive -= {"a", "b"}
    in_sync: dict[str, Any] = {"epoch": 1, "isr": ("a", "b"), "incarnations": {"a": 1, "b": 1}}
    world.change(sh.IsrChange, **in_sync)
    left = [1, 1]  # changes by somebody else, each just before one of ours

    def late(command: c.Command, *, timeout_ms: int = 0) -> c.Result:
        if isinstance(command, sh.UncleanPromote) and left:
            left.pop()
            world.change(sh.IsrChange, **in_sync)
        return propose(command)

    world.metadata.propose = late  # type: ignore[method-assign]
    ask.promote_uncleanly(replace(row, shards=(world.shard(),)), ask.node("C"))
    assert (world.shard().primary, world.shard().isr, left) == ("c", ("c",), [])


def test_what_an_unclean_failover_did_before_it_failed_is_told(world: World) -> None:
    row, ask, propose = world.operations.table("t"), world.operations, world.metadata.propose
    world.alive -= {"a", "b"}
    world.change(sh.IsrChange, epoch=1, isr=("a", "b"), incarnations={"a": 1, "b": 1})

    def without_jobs(command: c.Command, *, timeout_ms: int = 0) -> c.Result:
        if isinstance(command, j.StartJob):
            return c.Result("too_many_jobs", "50 jobs are under way.")
        return propose(command)

    world.metadata.propose = without_jobs  # type: ignore[method-assign]
    with pytest.raises(Conflict) as told:
        ask.promote_uncleanly(replace(row, shards=(world.shard(),)), ask.node("C"))
    document = problem.document(told.value, "r")
    assert "Shards [0] of table 't' were promoted to C before that." in document["detail"]
    assert (document["promoted_shards"], document["definite"]) == ([0], False)
    world.metadata.propose = propose  # type: ignore[method-assign]
    refused(
        Conflict, "clean_possible", lambda: ask.promote_uncleanly(ask.table("t"), ask.node("C"))
    )
    assert ask.successor(ask.table("t"), "C") == "c"


def test_another_number_of_copies(world: World) -> None:
    ask = world.operations
    row = ask.table("t")
    assert "nothing was done" in ask.set_replicas(row, 3)
    refused(Unavailable, "not_enough_replicas", lambda: ask.set_replicas(row, 5))
    refused(Conflict, "not_a_cluster", lambda: set_replicas(None, row, 2))
    assert "Job" in set_replicas(world.gateway, row, 4)
    refused(Conflict, "job_under_way", lambda: ask.set_replicas(row, 2))


def test_only_jobs_of_metadata_are_cancelled(world: World) -> None:
    name = world.operations.drain(world.operations.node("A"))
    cancel_job(world.gateway, name)
    assert world.jobs.one(name)["state"] == "cancelled"
    refused(NotFound, "no_such_job", lambda: cancel_job(world.gateway, name))
    refused(InvalidRequest, "not_cancellable", lambda: cancel_job(world.gateway, "other"))


# ---- nearql cluster ---------------------------------------------------------------------------


def test_names_after_an_action_are_counted() -> None:
    assert operate.wrong_names("move", ["docs", "n1", "n2"]) is None
    assert operate.wrong_names("failover", ["docs"]) is None
    assert operate.wrong_names("move", ["docs"]) == "move takes TABLE FROM TO"
    assert operate.wrong_names("rebalance", ["x"]) == "rebalance takes no names"


def test_options_belong_to_their_actions(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["drain", "n1", "--unclean"], ["status", "n1"], ["leave"], ["move", "docs"]):
        with pytest.raises(SystemExit) as told:
            cluster_command(argv)
        assert told.value.code == 2
    assert "move takes TABLE FROM TO" in capsys.readouterr().err


def test_a_job_is_followed_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"job": "1", "kind": "move", "state": "running", "detail": "", "done": 0, "total": 1}
    states = iter(["running", "failed"])

    def run(_: Any) -> dict[str, Any]:
        return {**job, "unit": "copies", "steps": [], "state": next(states)}

    arguments = argparse.Namespace(no_wait=False, json=False, undo=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operate, "LOOK_S", 0.001)
        code = operate._follow(cast(Any, SimpleNamespace(run=run)), run(None), arguments)
    told = capsys.readouterr()
    assert (code, told.out) == (1, "move 1 failed\n")
    assert told.err == "move: 0 of 1 copies\n"


def test_jobs_are_listed_with_their_parts() -> None:
    step = {
        "what": "copy", "table": "docs", "from": "n1", "to": "n2", "state": "copying",
        "bytes": 5, "bytes_total": 9,
    }  # fmt: skip
    job = {
        "job": "1", "kind": "move", "state": "running", "detail": "", "done": 0, "total": 1,
        "started_at": "now", "steps": [step],
    }  # fmt: skip
    shown = operate.described([job])
    assert "copying" in shown
    assert operate.described([{**job, "state": "done"}]).count("docs") == 0

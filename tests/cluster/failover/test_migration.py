"""Where copies go next: examples step by step, and that everything asked for comes about."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata import jobs as j
from nearql.cluster.metadata import nodes as n
from nearql.cluster.metadata import shards as sh
from nearql.cluster.metadata import state as s
from nearql.cluster.migration import Action, HandOver, Limits, Look, Propose, Verify, decide
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema

NAMES = ("a", "b", "c", "d", "e")
COLUMNS = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)


@dataclass
class World:
    """Five nodes; table t with two shards on a, b and c. `sync` is what nodes do by themselves."""

    state: s.Metadata = field(default_factory=s.Metadata)
    dead: set[str] = field(default_factory=set)
    gone_s: dict[str, float] = field(default_factory=dict)
    proved: set[tuple[str, str]] = field(default_factory=set)
    refuted: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    now_ms: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        for name in NAMES:
            self.do(n_register(self.request(), name))
        self.create("t", ("a", "b", "c"), shards=2)

    def request(self) -> str:
        self.requests += 1
        return f"r{self.requests}"

    def do(self, command: c.Command) -> str:
        self.state, result = s.apply(self.state, command)
        self.state.check_invariants()
        for row in self.state.tables.values():
            for shard in row.shards:
                assert len(shard.isr) >= min(shard.min_isr, len(shard.replicas))
        return str(result.code)

    def create(self, uuid: str, nodes: tuple[str, ...], shards: int = 1) -> None:
        table = TableDef(uuid, uuid, TableSchema(COLUMNS, 1), shards=shards, replicas=len(nodes))
        uuids = tuple(f"{uuid}{number}" for number in range(shards))
        self.do(
            c.CreateTable(request_id=self.request(), table=table, shard_uuids=uuids, nodes=nodes)
        )
        alloc = {node: f"{uuid}-{node}" for node in nodes}
        self.do(c.TableReady(request_id=self.request(), table_uuid=uuid, alloc_ids=alloc))

    def job(self, uuid: str, kind: str, **members: Any) -> str:
        job = j.JobRow(uuid, kind, began_ms=self.now_ms, **members)
        return self.do(j.StartJob(request_id=self.request(), job=job))

    def look(self, limits: Limits | None = None) -> list[Action]:
        look = Look(
            now_ms=self.now_ms,
            alive=frozenset(set(self.state.nodes) - self.dead),
            gone_s=self.gone_s,
            proved=frozenset(self.proved),
            refuted=frozenset(self.refuted),
            failed=self.failed,
            refused=frozenset(self.refused),
        )
        return decide(look, self.state, limits or Limits())

    def act(self, action: Action) -> None:
        if isinstance(action, Propose):
            self.do(action.command)
        elif isinstance(action, Verify):
            self.proved.add((action.shard_uuid, action.alloc_id))
        elif {action.primary, action.target} & self.dead:
            self.failed[action.shard_uuid] = self.failed.get(action.shard_uuid, 0) + 1
        else:
            shard = self.shards()[action.shard_uuid]
            if shard.primary == action.primary:
                self.promote(shard, action.target)

    def promote(self, shard: sh.ShardRow, node_id: str) -> None:
        self.do(
            sh.Promote(
                request_id=self.request(), shard_uuid=shard.uuid, expected_version=shard.version,
                node_id=node_id, incarnation=self.state.nodes[node_id].incarnation,
            )
        )  # fmt: skip

    def shards(self) -> dict[str, sh.ShardRow]:
        return {shard.uuid: shard for row in self.state.tables.values() for shard in row.shards}

    def sync(self, uuid: str) -> None:
        """Disks tell names of their copies, and the primary lets living copies join."""
        for row in self.state.tables.values():
            for node in list(self.state.nodes):
                names = {
                    shard.uuid: f"{shard.uuid}-{node}-{shard.version}"
                    for shard in row.shards
                    if shard.replicas.get(node) == "" and node not in self.dead
                }
                if names:
                    ready = sh.CopyReady(
                        request_id=self.request(), table_uuid=row.table.uuid, node_id=node,
                        alloc_ids=names,
                    )  # fmt: skip
                    self.do(ready)
        shard = self.shards()[uuid]
        if shard.primary is None or shard.primary in self.dead:
            return
        isr = {m for m, alloc in shard.replicas.items() if alloc and m not in self.dead}
        isr |= set(shard.isr) if len(isr) < shard.min_isr else set()
        self.do(
            sh.IsrChange(
                request_id=self.request(), shard_uuid=uuid, expected_version=shard.version,
                epoch=shard.epoch, isr=tuple(sorted(isr)),
                incarnations={m: self.state.nodes[m].incarnation for m in isr},
            )
        )  # fmt: skip

    def leave(self, shard: sh.ShardRow, node_id: str) -> None:
        """A living copy falls behind."""
        isr = tuple(member for member in shard.isr if member != node_id)
        incarnations = {m: self.state.nodes[m].incarnation for m in isr}
        self.do(
            sh.IsrChange(
                request_id=self.request(), shard_uuid=shard.uuid, expected_version=shard.version,
                epoch=shard.epoch, isr=isr, incarnations=incarnations,
            )
        )  # fmt: skip

    def kill(self, node_id: str, gone_s: float = 0.0) -> None:
        """Fenced; the controller's failover follows where it can."""
        self.dead.add(node_id)
        self.gone_s[node_id] = gone_s
        incarnation = self.state.nodes[node_id].incarnation
        self.do(n.FenceNode(request_id=self.request(), node_id=node_id, incarnation=incarnation))
        self.fail_over()

    def fail_over(self) -> None:
        for shard in self.shards().values():
            living = [m for m in shard.isr if m not in self.dead]
            if (shard.primary is None or shard.primary in self.dead) and living:
                self.promote(shard, living[0])

    def revive(self, node_id: str) -> None:
        self.dead.discard(node_id)
        self.gone_s.pop(node_id, None)
        self.do(n_register(self.request(), node_id))

    def settle(self, rounds: int = 60, limits: Limits | None = None) -> None:
        """Look and act until nothing is left to do; whatever is asked for must end."""
        for _ in range(rounds):
            self.now_ms += 1000
            actions = self.look(limits)
            for action in actions:
                self.act(action)
            for uuid in list(self.shards()):
                self.sync(uuid)
            self.fail_over()
            self.check_limits(limits or Limits())
            if not actions and not any(shard.adding for shard in self.shards().values()):
                return
        raise AssertionError(f"never ends: {self.look(limits)}")

    def check_limits(self, limits: Limits) -> None:
        moving = {
            row.table.uuid: {m for shard in row.shards for m in (shard.adding, shard.removing) if m}
            for row in self.state.tables.values()
            if any(shard.adding for shard in row.shards)
        }
        assert len(moving) <= limits.moves
        busy = Counter(node for nodes in moving.values() for node in nodes)
        assert max(busy.values(), default=0) <= 1

    def nodes_of(self, table: str = "t") -> set[str]:
        rows = self.state.tables[table].shards
        assert all(set(shard.replicas) == set(rows[0].replicas) for shard in rows)
        return set(rows[0].replicas)

    def primaries(self, table: str = "t") -> set[str | None]:
        return {shard.primary for shard in self.state.tables[table].shards}


def n_register(request: str, name: str) -> c.Command:
    return c.RegisterNode(request_id=request, node_id=name, name=name, url=name)


def kinds(actions: list[Action]) -> list[str]:
    return [
        type(a.command if isinstance(a, Propose) else a).__name__ for a in actions
    ]  # fmt: skip


def test_a_move_step_by_step() -> None:
    world = World()
    world.job("1", "move", moves=(j.Move("t", "a", "d"),))
    assert kinds(actions := world.look()) == ["MoveStart", "MoveStart"]
    for action in actions:
        world.act(action)
    assert world.look() == []  # d has to take a snapshot first
    world.sync("t0")
    assert kinds(actions := world.look()) == ["Verify"]
    world.act(actions[0])
    assert world.look() == []  # t1 is not there yet
    world.sync("t1")
    world.act(world.look()[0])
    assert kinds(actions := world.look()) == ["HandOver", "HandOver"]
    assert {a.target for a in actions if isinstance(a, HandOver)} == {"d"}
    world.act(actions[0])
    assert kinds(actions := world.look()) == ["HandOver"]
    world.act(actions[0])
    assert kinds(actions := world.look()) == ["MoveCommit", "MoveCommit"]
    for action in actions:
        world.act(action)
    assert kinds(actions := world.look()) == ["EndJob"]
    world.act(actions[0])
    assert world.state.jobs["1"].state == j.DONE
    assert world.nodes_of() == {"b", "c", "d"}
    assert world.look() == []


def test_a_copy_that_does_not_hold_the_same_is_given_up_and_the_source_stays() -> None:
    world = World()
    world.job("1", "move", moves=(j.Move("t", "a", "d"),))
    for action in world.look():
        world.act(action)
    world.sync("t0")
    verify = world.look()[0]
    assert isinstance(verify, Verify)
    world.refuted.add((verify.shard_uuid, verify.alloc_id))
    world.refused.add((verify.shard_uuid, verify.target))
    assert "MoveAbort" in kinds(world.look())
    world.settle()
    assert world.nodes_of() == {"a", "b", "c"}
    ended = world.state.jobs["1"]
    assert (ended.state, "did not hold" in ended.detail) == (j.FAILED, True)


def test_a_new_copy_that_a_failover_made_primary_is_compared_with_another() -> None:
    world = World()
    world.job("1", "move", moves=(j.Move("t", "a", "d"),))
    for action in world.look():
        world.act(action)
    for uuid in world.shards():
        world.sync(uuid)
        world.promote(world.shards()[uuid], "d")
    actions = [action for action in world.look() if isinstance(action, Verify)]
    assert [(action.primary, action.target) for action in actions] == [("a", "d")] * 2
    world.refuted |= {(action.shard_uuid, action.alloc_id) for action in actions}
    for _ in range(2):  # its part goes to another one, then it is given up
        for action in world.look():
            world.act(action)
    assert world.nodes_of() == {"a", "b", "c"}
    assert "d" not in world.primaries()


def test_a_drain_empties_a_node_and_says_what_it_waits_for() -> None:
    world = World()
    world.create("u", ("a", "d", "e"))
    world.create("v", ("a", "b", "c", "d", "e"))
    world.job("1", "drain", node_id="a")
    world.settle()
    assert "a" not in world.primaries("t") | world.primaries("u") | world.primaries("v")
    assert "a" not in world.nodes_of("t") | world.nodes_of("u")
    job = world.state.jobs["1"]
    assert (job.state, "'v'" in job.detail, "add a node" in job.detail) == (j.RUNNING, True, True)
    world.do(n_register("new", "f"))
    world.settle()
    assert world.nodes_of("v") == {"b", "c", "d", "e", "f"}
    assert world.state.jobs["1"].state == j.DONE
    assert world.state.nodes["a"].draining


def test_a_cancelled_move_is_undone_unless_the_new_copy_is_in_sync() -> None:
    world = World()
    world.job("1", "move", moves=(j.Move("t", "b", "d"),))
    for action in world.look():
        world.act(action)
    end = j.EndJob(
        request_id="end", job_uuid="1", state=j.CANCELLED, detail="", ended_ms=world.now_ms
    )
    world.do(end)
    assert kinds(world.look()) == ["MoveAbort", "MoveAbort"]
    world.settle()
    assert world.nodes_of() == {"a", "b", "c"}


def test_copies_of_a_dead_node_are_made_anew_after_a_while_and_not_before() -> None:
    world = World()
    world.kill("b", gone_s=599.0)
    world.settle()
    assert world.nodes_of() == {"a", "b", "c"}
    world.gone_s["b"] = 600.0
    world.settle()
    assert len(world.nodes_of() & {"d", "e"}) == 1
    assert "b" not in world.nodes_of()
    world.revive("b")
    world.settle()
    assert "b" not in world.nodes_of()


def test_a_dead_node_that_comes_back_keeps_its_copies_unless_the_new_one_is_complete() -> None:
    world = World()
    world.kill("b", gone_s=700.0)
    for action in world.look():
        world.act(action)
    assert all(shard.adding for shard in world.shards().values())
    world.revive("b")
    world.settle()
    assert world.nodes_of() == {"a", "b", "c"}


def test_a_target_that_dies_for_good_is_replaced_by_another() -> None:
    world = World()
    world.job("1", "drain", node_id="c")
    for action in world.look():
        world.act(action)
    target = next(str(shard.adding) for shard in world.shards().values())
    world.kill(target, gone_s=700.0)
    world.settle()
    assert world.nodes_of() == {"a", "b"} | ({"d", "e"} - {target})
    assert world.state.jobs["1"].state == j.DONE


def test_replicas_grow_before_the_minimum_and_shrink_after_it() -> None:
    world = World()
    world.job("1", "replicas", table_uuid="t", replicas=5)
    world.settle()
    assert len(world.nodes_of()) == 5
    assert {shard.min_isr for shard in world.shards().values()} == {3}
    world.job("2", "replicas", table_uuid="t", replicas=1)
    world.settle()
    assert {*world.nodes_of()} == world.primaries()
    assert {shard.min_isr for shard in world.shards().values()} == {1}
    assert world.state.tables["t"].table.replicas == 1
    assert [world.state.jobs[uuid].state for uuid in "12"] == [j.DONE, j.DONE]


def test_a_copy_that_is_not_in_sync_goes_before_one_that_the_minimum_needs() -> None:
    world = World()
    for shard in world.shards().values():
        world.leave(shard, "c")
    world.job("1", "replicas", table_uuid="t", replicas=2)
    for _ in range(4):
        for action in world.look():
            world.act(action)
    assert world.nodes_of() == {"a", "b"}
    assert world.state.jobs["1"].state == j.DONE


def test_a_failover_job_moves_all_primaries_of_a_table_together() -> None:
    world = World()
    world.job("1", "failover", leads=(j.Lead("t", "c"),))
    world.settle()
    assert world.primaries() == {"c"}
    assert world.state.jobs["1"].state == j.DONE


def test_a_primary_that_never_answers_is_replaced_without_its_consent() -> None:
    world = World()
    world.job("1", "failover", leads=(j.Lead("t", "c"),))
    world.failed = {"t0": 3, "t1": 2}
    assert kinds(world.look()) == ["Promote", "HandOver"]


def test_a_failover_to_a_copy_that_never_gets_in_sync_fails_in_the_end() -> None:
    world = World()
    world.kill("c")
    world.job("1", "failover", leads=(j.Lead("t", "c"),))
    assert kinds(world.look()) == ["NoteJob"]
    world.now_ms += 121_000
    actions = world.look()
    assert kinds(actions) == ["EndJob"]
    assert "in sync" in str(actions[0])


def test_primaries_that_a_failover_has_parted_come_together() -> None:
    world = World()
    world.promote(world.shards()["t1"], "b")
    assert world.primaries() == {"a", "b"}
    world.settle()
    assert len(world.primaries()) == 1


def test_shards_that_lie_apart_come_together() -> None:
    world = World()
    shard = world.shards()["t1"]
    world.do(
        sh.MoveStart(
            request_id="apart", shard_uuid="t1", expected_version=shard.version, adding="d",
            alloc_id="", removing="c",
        )
    )  # fmt: skip
    world.sync("t1")
    shard = world.shards()["t1"]
    world.do(sh.MoveCommit(request_id="x", shard_uuid="t1", expected_version=shard.version))
    world.settle()
    assert len(world.nodes_of()) == 3


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["move", "drain", "cancel", "replicas", "kill", "revive", "look", "look"]),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(1, 5),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(_EVENTS, st.randoms(use_true_random=False))
def test_whatever_happens_everything_asked_for_comes_about_once_all_nodes_are_back(
    events: list[tuple[str, str, str, int]], chance: random.Random
) -> None:
    world = World()
    world.create("u", ("b", "c", "d"))
    for what, name, other, count in events:
        table = "tu"[count % 2]
        if what == "move":
            world.job(world.request(), "move", moves=(j.Move(table, name, other),))
        elif what == "drain":
            world.job(world.request(), "drain", node_id=name)
        elif what == "replicas":
            world.job(world.request(), "replicas", table_uuid=table, replicas=min(count, 3))
        elif what == "kill" and len(world.dead) < 2 and name not in world.dead:
            world.kill(name, gone_s=chance.choice([0.0, 700.0]))
        elif what == "revive" and name in world.dead:
            world.revive(name)
        elif what == "cancel":
            running = [job for job in world.state.jobs.values() if job.state == j.RUNNING]
            if running:
                world.do(
                    j.EndJob(
                        request_id=world.request(), job_uuid=chance.choice(running).uuid,
                        state=j.CANCELLED, detail="", ended_ms=1,
                    )
                )  # fmt: skip
        else:  # some of what is due is done, by a leader that may die in the middle
            actions = world.look()
            for action in actions[: chance.randint(0, len(actions))]:
                world.act(action)
            for uuid in list(world.shards()):
                if chance.random() < 0.5:
                    world.sync(uuid)
            world.fail_over()
            if chance.random() < 0.3:
                world.proved.clear()  # another leader
        world.check_limits(Limits())
    for name in sorted(world.dead):
        world.revive(name)
    world.failed.clear()
    for uuid, node in list(world.state.nodes.items()):  # room for every drain
        if node.draining and len([m for m in world.state.nodes.values() if not m.draining]) < 4:
            world.do(n_register(world.request(), f"{uuid}-new"))
    world.settle(rounds=200)
    world.now_ms += 200_000
    world.settle(rounds=200)
    for job in world.state.jobs.values():
        assert job.state != j.RUNNING, job
        if job.state == j.DONE and job.kind == "drain" and world.state.nodes[job.node_id].draining:
            assert all(job.node_id not in shard.replicas for shard in world.shards().values())
    for row in world.state.tables.values():
        assert {len(shard.replicas) for shard in row.shards} == {row.table.replicas}
        assert len(world.primaries(row.table.uuid)) == 1
        world.nodes_of(row.table.uuid)


def test_moves_are_few_at_a_time() -> None:
    world = World()
    for number in range(6):
        world.create(f"u{number}", ("a", "b", "c"))
    world.job("1", "drain", node_id="a")
    world.settle(limits=replace(Limits(), moves=1), rounds=200)
    assert all("a" not in world.nodes_of(uuid) for uuid in world.state.tables)

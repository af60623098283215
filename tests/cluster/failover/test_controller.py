"""Heartbeats and the controller's loop, with three nodes whose messages pass by a dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import msgpack
import pytest

from nearql.cluster.cluster import Cluster, LeaderInfo
from nearql.cluster.controller import Controller
from nearql.cluster.heartbeats import BEAT, ECHO, ECHO_S, Beats, Ear, Hearing, Voice
from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata.local import LocalMetadata
from nearql.cluster.metadata.nodes import RaiseFeatureLevel
from nearql.engine.schema import Column, ColumnType, TableDef, TableSchema
from nearql.engine.storage.files import LocalFileSystem

NAMES = ("a", "b", "c")


def _fail(reason: str) -> NoReturn:
    pytest.fail(reason)


@dataclass
class Network:
    """Delivers at once; `cut` holds (sender, receiver) pairs that nothing passes."""

    now: float = 1000.0
    listeners: dict[tuple[str, str], Callable[[str, bytes], None]] = field(default_factory=dict)
    last: dict[tuple[str, str], float] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)

    def tell(self, sender: str, receiver: str, topic: str, payload: bytes) -> bool:
        if (sender, receiver) in self.cut:
            return False
        self.last[receiver, sender] = self.now
        self.listeners[receiver, topic](sender, payload)
        return True


class Wire:
    """One node's end; implements `Beats`."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name

    def tell(self, node_id: str, topic: str, payload: bytes) -> bool:
        return self.network.tell(self.name, node_id, topic, payload)

    def hear(self, topic: str, listener: Callable[[str, bytes], None]) -> None:
        self.network.listeners[self.name, topic] = listener

    def heard(self) -> Mapping[str, float]:
        seen = {n: self.network.last.get((self.name, n)) for n in NAMES}
        return {n: self.network.now - at for n, at in seen.items() if at is not None}


class World:
    """a leads; one table whose primary is b."""

    def __init__(self, folder: Path) -> None:
        self.network = Network()
        self.metadata = LocalMetadata.open(folder, LocalFileSystem(), _fail)
        self.leader: str | None = "a"
        self.decided: Counter[str] = Counter()
        for name in NAMES:
            self.register(name)
        columns = (Column(1, "id", ColumnType("BIGINT"), not_null=True),)
        table = TableDef("t", "t", TableSchema(columns, 1), shards=1)
        nodes = ("b", "c", "a")
        self.do(c.CreateTable(request_id="t", table=table, shard_uuids=("s",), nodes=nodes))
        self.do(c.TableReady(request_id="r", table_uuid="t", alloc_ids=dict.fromkeys(NAMES, "x")))
        self.beats: dict[str, Beats] = {name: Wire(self.network, name) for name in NAMES}
        self.voices = {name: Voice(self.cluster(name), self.beats[name]) for name in NAMES}
        self.ear = Ear(self.beats["a"], lambda: self.network.now)
        for name in ("b", "c"):
            Ear(self.beats[name], lambda: self.network.now)
        self.controller = Controller(self.cluster("a"), self.ear, clock=lambda: self.network.now)

    def do(self, command: c.Command) -> None:
        assert self.metadata.propose(command).ok

    def register(self, name: str, level: int = 0) -> None:
        request = f"{name}-{self.network.now}-{level}"
        self.do(c.RegisterNode(request_id=request, node_id=name, name=name, url="u", level=level))

    def cluster(self, name: str) -> Cluster:
        world = self

        class Node(SimpleNamespace):
            @property
            def leading(self) -> bool:
                return world.leader == name

            @property
            def incarnation(self) -> int:
                return world.metadata.state.nodes[name].incarnation

            def leader(self) -> LeaderInfo | None:
                return LeaderInfo(world.leader, world.leader, "u") if world.leader else None

        known = {"node_id": name, "metadata": self.metadata, "term": 1, "decided": self.decided}
        return cast("Cluster", Node(**known))

    def pass_s(self, seconds: float, silent: tuple[str, ...] = ()) -> list[Any]:
        """Time passes; everybody but the silent speaks twice a second, the controller looks."""
        proposed: list[Any] = []
        for _ in range(round(seconds / 0.5)):
            self.network.now += 0.5
            for name in NAMES:
                if name not in silent:
                    self.voices[name].speak()
                    self.network.last |= {(n, name): self.network.now for n in NAMES if n != name}
            proposed += self.controller.look()
        return proposed

    @property
    def primary(self) -> str | None:
        return self.metadata.state.tables["t"].shards[0].primary


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nobody_is_fenced_while_all_speak(world: World) -> None:
    assert world.pass_s(60) == []


def test_the_level_is_raised_once_every_node_knows_more(world: World) -> None:
    """The last step of a rolling upgrade; a node that is away may come back as it was."""
    for name in ("a", "b"):
        world.register(name, level=2)
    assert world.pass_s(5) == []
    world.register("c", level=1)
    (raised,) = world.pass_s(5)
    assert isinstance(raised, RaiseFeatureLevel)
    assert world.metadata.state.feature_level == 1
    world.register("c", level=2)
    assert len(world.pass_s(5)) == 1
    assert world.metadata.state.feature_level == 2


def test_a_silent_primary_is_fenced_and_replaced(world: World) -> None:
    world.pass_s(5)
    assert world.pass_s(2.5, silent=("b",)) == []
    kinds = [type(command).__name__ for command in world.pass_s(1.5, silent=("b",))]
    assert kinds == ["FenceNode", "Promote"]
    assert world.primary == "c" or world.primary == "a"
    assert world.decided == {"FenceNode": 1, "Promote": 1}


def test_who_speaks_and_does_not_hear_is_silent(world: World) -> None:
    world.pass_s(5)
    world.network.cut = {("a", "b")}
    proposed = world.pass_s(3)
    assert proposed == []
    fences = world.pass_s(ECHO_S + 0.5)
    assert [type(command).__name__ for command in fences][:1] == ["FenceNode"]
    assert world.metadata.state.nodes["b"].fenced


def test_a_fenced_node_that_registers_again_is_a_member_as_before(world: World) -> None:
    world.pass_s(5)
    world.pass_s(5, silent=("b",))
    world.register("b")
    assert world.pass_s(20) == []
    assert not world.metadata.state.nodes["b"].fenced


def test_an_echo_of_another_reign_proves_nothing(world: World) -> None:
    world.pass_s(5)
    old = msgpack.packb({"incarnation": 1, "hears": {}, "ends": {}, "echo": [b"other", 1e9]})
    for _ in range(10):
        world.network.now += 0.5
        world.voices["c"].speak()
        world.network.tell("b", "a", BEAT, old)
        world.controller.look()
    assert world.metadata.state.nodes["b"].fenced


def test_who_does_not_lead_decides_nothing_and_begins_anew(world: World) -> None:
    world.pass_s(5)
    world.leader = None
    world.network.now += 60
    assert world.controller.look() == []
    assert not world.ear.reigns
    world.leader = "a"
    assert world.pass_s(10) == []  # an hour of silence outside of a reign is nobody's fault


def test_what_is_no_heartbeat_is_ignored(world: World) -> None:
    world.pass_s(1)
    for payload in (b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"incarnation": 1})):
        world.network.tell("b", "a", BEAT, payload)
    world.network.tell("a", "b", ECHO, msgpack.packb("x"))
    assert world.pass_s(5) == []


def test_whom_nobody_hears_any_more_was_still_heard_before() -> None:
    network = Network()
    hearing = Hearing(Wire(network, "a"), lambda: network.now)
    network.last["a", "b"] = network.now
    assert hearing.heard() == {"b": 0.0}
    network.last.clear()  # the connection has ended
    network.now += 2
    assert hearing.heard() == {"b": 2.0}


def test_the_longer_log_is_told_once_it_matters(world: World) -> None:
    world.voices["c"] = Voice(world.cluster("c"), world.beats["c"], lambda: {"s": (1, 9)})
    world.pass_s(5)
    seen = world.ear.observations("a")
    assert seen is not None
    assert seen.nodes["c"].ends == {}
    world.pass_s(5, silent=("b",))
    assert world.primary == "c"

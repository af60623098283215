"""A cluster that a test scripts: who leads, where primaries are, what copies answer, who is called.

Several doubles over one `FakeMesh` reach each other's handlers directly, so that a statement goes
from the edge of one node to the session of another without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from nearql.cluster.metadata.nodes import NodeRow
from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.replication.link.serving import Cancelled
from nearql.engine.deadline import Deadline
from nearql.engine.errors import NearQLError, Unavailable
from nearql.engine.schema import TableDef
from nearql.server.cluster_ports import Serve, Watching


@dataclass(frozen=True)
class Member:
    """One node as the cluster shows it."""

    node_id: str
    name: str
    url: str
    role: str = "follower"
    alive: bool = True
    last_seen_ms: int | None = 0
    incarnation: int = 1
    fenced: bool = False
    draining: bool = False


class FakeMetadata:
    """A state that tests change."""

    def __init__(self, members: list[Member]) -> None:
        rows = {m.node_id: NodeRow(m.node_id, m.name, m.url, m.incarnation) for m in members}
        self.state = Metadata(cluster_id="c", nodes=rows)

    def put_table(self, table: TableDef, primaries: list[str | None], nodes: list[str]) -> None:
        """A ready table; each shard has a copy on every one of these nodes, all in sync."""
        shards = tuple(
            ShardRow(
                f"{table.uuid}/{number}", 1, primary, dict.fromkeys(nodes, "alloc"),
                tuple(sorted(nodes)), len(nodes) // 2 + 1,
            )
            for number, primary in enumerate(primaries)
        )  # fmt: skip
        table = replace(table, shards=len(primaries), replicas=len(nodes))
        tables = {**self.state.tables, table.uuid: TableRow(table, shards, ready=True)}
        self.state = replace(self.state, tables=tables, version=self.state.version + 1)

    def change_shard(self, table: TableDef, number: int, **changed: Any) -> None:
        """Replace fields of a shard's row."""
        row = self.state.tables[table.uuid]
        shards = list(row.shards)
        shards[number] = replace(shards[number], **changed)
        tables = {**self.state.tables, table.uuid: replace(row, shards=tuple(shards))}
        self.state = replace(self.state, tables=tables)


class FakeClusterState:
    """Implements `ClusterPort`."""

    def __init__(self, here: str, members: list[Member], leader: str | None) -> None:
        self.node_id = here
        self.members = members
        self.leader_id = leader
        self.ticking = True
        self.term = 7

    @property
    def leading(self) -> bool:
        return self.leader_id == self.node_id

    def leader(self) -> Member | None:
        return next((m for m in self.members if m.node_id == self.leader_id), None)

    def nodes(self) -> list[Member]:
        return [
            replace(m, role="leader" if m.node_id == self.leader_id else "follower")
            for m in self.members
        ]

    def counts(self) -> list[tuple[str, str, float, bool]]:
        return []


@dataclass(frozen=True)
class Progress:
    """How far a write is."""

    committed: bool = True
    acked: int = 3


@dataclass
class Grant:
    """A read's permission; fails at the end where the test says so."""

    error: NearQLError | None = None
    confirmed: int = 0

    def confirm(self) -> None:
        self.confirmed += 1
        if self.error is not None:
            raise self.error


@dataclass
class FakeCopy:
    """Implements `ShardPort`: remembers what it was asked."""

    readable: bool = True
    epoch: int = 4
    applied_lsn: int = 0
    refuses: NearQLError | None = None  # writes, before anything is logged
    refuses_times: int | None = None  # None = always
    loses: NearQLError | None = None  # the wait after it
    gate: NearQLError | None = None
    progress: Progress = Progress()
    grant: Grant = field(default_factory=Grant)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def check_writable(self, concern: str | int) -> int:
        self.asked.append(("check", concern))
        if self.refuses is not None and self.refuses_times != 0:
            if self.refuses_times is not None:
                self.refuses_times -= 1
            raise self.refuses
        return 1

    def committed(self, lsn: int, epoch: int, concern: str | int, deadline: Deadline) -> Progress:
        self.asked.append(("committed", lsn, epoch, concern))
        if self.loses is not None:
            raise self.loses
        return self.progress

    def wait(self, lsn: int, epoch: int, copies: int, deadline: Deadline) -> Progress:
        self.asked.append(("wait", lsn, epoch, copies))
        if self.loses is not None:
            raise self.loses
        return self.progress

    def read_gate(
        self, level: str, *, token: tuple[int, int] | None, max_staleness_ms: int | None,
        deadline: Deadline,
    ) -> Grant:  # fmt: skip
        self.asked.append(("read", level, token, max_staleness_ms))
        if self.gate is not None:
            raise self.gate
        return self.grant


@dataclass(frozen=True)
class FakeCall:
    """Implements `CallPort`."""

    node_id: str
    payload: bytes
    deadline: Deadline
    cancelled: Cancelled = field(default_factory=Cancelled)


class FakeMesh:
    """Who can be called: handlers by node and method. cut: nodes that nobody reaches."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, Serve]] = {}
        self.cut: set[str] = set()
        self.fail: NearQLError | None = None  # instead of the answer, which the handler has made
        self.calls: list[tuple[str, str, str]] = []  # (from, to, method)


class FakeCalls:
    """Implements `CallsPort` for one node of a mesh."""

    def __init__(self, mesh: FakeMesh, here: str) -> None:
        self._mesh = mesh
        self._here = here

    def serve(self, method: str, handler: Serve, *, long: bool = False) -> None:
        self._mesh.handlers.setdefault(self._here, {})[method] = handler

    def call(
        self, node_id: str, method: str, payload: bytes,
        *, timeout_ms: int, watching: Watching | None = None,
    ) -> bytes:  # fmt: skip
        mesh = self._mesh
        mesh.calls.append((self._here, node_id, method))
        if node_id in mesh.cut or node_id not in mesh.handlers:
            raise Unavailable(f"{node_id} can't be reached.", code="node_unreachable")
        call = FakeCall(self._here, payload, Deadline(timeout_ms))
        with watching(call.cancelled.set) if watching else nullcontext():
            answer = b"".join(bytes(part) for part in mesh.handlers[node_id][method](call))
        if mesh.fail is not None:
            raise mesh.fail
        return answer


@dataclass(frozen=True)
class PeerStatus:
    """What a primary knows of a replica."""

    durable_lsn: int
    lag_ms: int | None = 0


@dataclass(frozen=True)
class Sync:
    """A copy being brought up."""

    kind: str
    done: int
    total: int


@dataclass(frozen=True)
class CopyStatus:
    """A copy as its node knows it."""

    role: str = "isr"
    epoch: int = 1
    commit_lsn: int = 0
    applied_lsn: int = 0
    durable_lsn: int = 0
    end_lsn: int = 0
    fenced: int = 0
    peers: Mapping[str, PeerStatus] = field(default_factory=dict)
    sync: Sync | None = None


@dataclass
class Status:
    """What a node's replication tells."""

    shards: dict[str, CopyStatus] = field(default_factory=dict)
    counts: tuple[tuple[str, str, float, bool], ...] = ()


class FakeReplication:
    """Implements `ReplicationPort`."""

    def __init__(self, mesh: FakeMesh, here: str) -> None:
        self.calls = FakeCalls(mesh, here)
        self.copies: dict[str, FakeCopy] = {}
        self.told = Status()

    def shards(self) -> Mapping[str, FakeCopy]:
        return self.copies

    def status(self) -> Status:
        return self.told

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """As if the copies moved a few times, if there is time for it."""
        return any(is_so() for _ in range(10 if timeout_s > 0 else 1))

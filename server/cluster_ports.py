"""What the HTTP edge needs of a cluster: `cluster.cluster.Cluster` and `cluster.replication` behind
narrow Protocols, so that routing, forwarding and read levels are tested over doubles.

Ids of nodes are the uuids of their disks; names are what people call them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from nearql.cluster.metadata.state import Metadata
from nearql.engine.deadline import Deadline


class LeaderPort(Protocol):
    """The node that leads metadata."""

    @property
    def node_id(self) -> str:
        """Its disk."""

    @property
    def name(self) -> str:
        """As people call it."""

    @property
    def url(self) -> str:
        """Where clients reach it, as metadata knows it; never what a request says."""


class MemberPort(LeaderPort, Protocol):
    """One node of the cluster, seen from here."""

    @property
    def role(self) -> str:
        """leader, follower or member."""

    @property
    def alive(self) -> bool:
        """Heard of lately, and not fenced."""

    @property
    def last_seen_ms(self) -> int | None:
        """Since anything was heard of it; 0 for this node, None where nothing ever was."""

    @property
    def incarnation(self) -> int:
        """How many times its process has registered."""

    @property
    def fenced(self) -> bool:
        """Declared dead."""

    @property
    def draining(self) -> bool:
        """Gets no new copies, and gives away those it has."""


class ClusterPort(Protocol):
    """Who leads, who is there."""

    @property
    def node_id(self) -> str:
        """This node."""

    @property
    def leading(self) -> bool:
        """Whether this node leads: a hint to route by, never an authority over data."""

    @property
    def ticking(self) -> bool:
        """Whether metadata here is recent."""

    @property
    def term(self) -> int:
        """Of the metadata's leader."""

    def leader(self) -> LeaderPort | None:
        """Who leads; None where nobody is known to."""

    def nodes(self) -> Sequence[MemberPort]:
        """Every registered node."""

    def counts(self) -> Sequence[tuple[str, str, float, bool]]:
        """What `/metrics` shows of agreement: (name, help, value, is a total)."""


class MetadataPort(Protocol):
    """The part of `cluster.metadata.log.MetadataLog` that routing reads."""

    @property
    def state(self) -> Metadata:
        """The newest applied state."""


class ProgressPort(Protocol):
    """How far a write has come."""

    @property
    def committed(self) -> bool:
        """Durable on the whole in-sync set."""

    @property
    def acked(self) -> int:
        """Copies on which it is durable, the primary included."""


class GrantPort(Protocol):
    """Permission to read a shard here."""

    def confirm(self) -> None:
        """Raises Unavailable where a linearizable read may have missed something."""


class ShardPort(Protocol):
    """A shard's copy on this node."""

    @property
    def epoch(self) -> int:
        """That it is in."""

    @property
    def applied_lsn(self) -> int:
        """What its readers see."""

    @property
    def readable(self) -> bool:
        """Complete, and neither damaged nor stopped."""

    def check_writable(self, concern: str | int) -> int:
        """The epoch. Raises Unavailable: `not_primary`, `not_enough_replicas`; nothing is done."""

    def committed(
        self, lsn: int, epoch: int, concern: str | int, deadline: Deadline
    ) -> ProgressPort:
        """Wait until a write fulfils the concern. Raises WriteUnknown."""

    def wait(self, lsn: int, epoch: int, copies: int, deadline: Deadline) -> ProgressPort:
        """Wait for copies; returns with fewer when the time is up.

        Raises:
            WriteUnknown: it is not, or no longer, the primary of this epoch.
        """

    def read_gate(
        self, level: str, *, token: tuple[int, int] | None, max_staleness_ms: int | None,
        deadline: Deadline,
    ) -> GrantPort:  # fmt: skip
        """Wait until the copy may be read at this level; before its view is taken.

        Raises:
            Unavailable: not readable, or not as recent. StatementTimeout.
            Conflict: code `rolled_back`; the token's position was lost.
        """


class CancelledPort(Protocol):
    """Whether the caller of a request still waits."""

    def then(self, act: Callable[[], None]) -> None:
        """Have `act` called when it does no more; perhaps twice, and in a thread that must not
        wait.
        """


class CallPort(Protocol):
    """A request of another node. node_id is proved by its certificate."""

    @property
    def node_id(self) -> str:
        """Who calls."""

    @property
    def payload(self) -> bytes | bytearray:
        """What was sent."""

    @property
    def deadline(self) -> Deadline:
        """How long the caller waits."""

    @property
    def cancelled(self) -> CancelledPort:
        """Whether it still does."""


Watching = Callable[[Callable[[], None]], AbstractContextManager[None]]
Serve = Callable[[CallPort], Iterable[bytes]]


class CallsPort(Protocol):
    """Requests between nodes; blocking, from any thread but the loop's."""

    def serve(self, method: str, handler: Serve, *, long: bool = False) -> None:
        """Answer a method; a NearQLError is raised alike at the caller. long: it does what users
        ask for, and leaves threads to others.
        """

    def call(
        self, node_id: str, method: str, payload: bytes,
        *, timeout_ms: int, watching: Watching | None = None,
    ) -> bytes:  # fmt: skip
        """The answer, whole. watching: a block in which what it is given is called once nobody
        waits for the answer any more.

        Raises:
            StatementTimeout: that was so.
            Unavailable: code `node_unreachable`; it certainly was not received.
            WriteUnknown: code `call_lost`; it was sent, and no answer came.
            NearQLError: of the handler.
        """


class PeerStatusPort(Protocol):
    """What a primary knows of a replica."""

    @property
    def durable_lsn(self) -> int:
        """Acknowledged."""

    @property
    def lag_ms(self) -> int | None:
        """Since it last had everything; 0 where it has, None where that never was."""


class SyncPort(Protocol):
    """A copy being brought up."""

    @property
    def kind(self) -> str:
        """partial or full."""

    @property
    def done(self) -> int:
        """Bytes."""

    @property
    def total(self) -> int:
        """Bytes."""


class CopyStatusPort(Protocol):
    """A copy on this node. role: its state, in lower case."""

    @property
    def role(self) -> str:
        """primary_active, isr, catchup, ..."""

    @property
    def epoch(self) -> int:
        """That it is in."""

    @property
    def commit_lsn(self) -> int:
        """As it knows it."""

    @property
    def applied_lsn(self) -> int:
        """What its readers see."""

    @property
    def durable_lsn(self) -> int:
        """Synced here."""

    @property
    def end_lsn(self) -> int:
        """Of its log."""

    @property
    def fenced(self) -> int:
        """Messages refused because their epoch had ended."""

    @property
    def peers(self) -> Mapping[str, PeerStatusPort]:
        """By node; at the primary alone."""

    @property
    def sync(self) -> SyncPort | None:
        """While it is brought up."""


class StatusPort(Protocol):
    """The copies of a node and what its links count."""

    @property
    def shards(self) -> Mapping[str, CopyStatusPort]:
        """By the shard's uuid."""

    @property
    def counts(self) -> Iterable[tuple[str, str, float, bool]]:
        """(name, help, value, whether it only rises)."""


class ReplicationPort(Protocol):
    """The copies on this node, and the way to other nodes."""

    @property
    def calls(self) -> CallsPort:
        """Requests between nodes."""

    def shards(self) -> Mapping[str, ShardPort]:
        """The copies here, by the shard's uuid."""

    def status(self) -> StatusPort:
        """What metrics and /v1/cluster show."""

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something holds of the copies here, which is asked whenever one of them has
        moved; False when the time is up first. It must not wait itself; what it raises, this does.
        """

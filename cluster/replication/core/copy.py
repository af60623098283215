"""What both roles of a copy share: who it is, its log, its promise, and what metadata says."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from nearql.cluster.replication.core.effects import (
    Effect,
    Follow,
    Send,
    SetCommit,
)
from nearql.cluster.replication.core.lease import Promise
from nearql.cluster.replication.core.log import Log
from nearql.cluster.replication.core.messages import Message
from nearql.cluster.replication.core.timing import Timing

if TYPE_CHECKING:
    from nearql.cluster.metadata.shards import ShardRow


class Writes(Enum):
    """Whether clients' statements may be appended. CLOSING: the last one may be under way."""

    CLOSED = 0
    OPEN = 1
    CLOSING = 2


class Copy:
    """One copy of a shard. `out` collects the effects of the step under way."""

    def __init__(
        self, node_id: str, alloc_id: str, log: Log, promise: Promise, timing: Timing
    ) -> None:
        self.node_id = node_id
        self.alloc_id = alloc_id
        self.log = log
        self.promise = promise
        self.timing = timing
        self.incarnation = 0
        self.now_ms = 0
        self.row: ShardRow | None = None
        self.incarnations: Mapping[str, int] = {}
        self.fenced: frozenset[str] = frozenset()
        self.fetching = False  # a snapshot is on its way, and will replace the log
        self.writes = Writes.CLOSED
        self.writes_epoch = 0  # in which they were last opened
        self.out: list[Effect] = []

    @property
    def listed(self) -> bool:
        """Whether metadata names this very copy as one of the shard's."""
        return self.row is not None and self.row.replicas.get(self.node_id) == self.alloc_id

    @property
    def settled(self) -> bool:
        """Whether the log moves by our own effects only."""
        return self.writes is Writes.CLOSED and not self.fetching

    @property
    def in_sync(self) -> bool:
        """Whether this copy is a member of the in-sync set, as far as is known here."""
        return self.listed and self.row is not None and self.node_id in self.row.isr

    def send(self, node: str, message: Message) -> None:
        """Give a message to the link."""
        self.out.append(Send(node, message))

    def close_writes(self) -> None:
        """Admit no statements any more; harmless where none were."""
        if self.writes is Writes.OPEN:
            self.writes = Writes.CLOSING
            self.out.append(Follow())

    def commit(self, lsn: int) -> None:
        """Everything up to `lsn` is committed, as far as it is durable here."""
        if self.log.commit(lsn):
            self.out.append(SetCommit(self.log.commit_lsn))

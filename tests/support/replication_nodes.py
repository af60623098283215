"""Nodes of a cluster in one process: real links, real cores, real copies; metadata is one object.

Metadata is the production state machine, applied under a lock: a Raft that never fails. Nobody
decides who becomes primary but the test.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata.shards import Promote, ShardRow
from nearql.cluster.metadata.state import Metadata, apply
from nearql.cluster.replication.clock import boottime_ms
from nearql.cluster.replication.core.timing import Timing
from nearql.cluster.replication.handle import ShardHandle
from nearql.cluster.replication.node import Replication, ReplicationConfig
from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.errors import Unavailable
from nearql.engine.schema import TableDef
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.copy import ContentHashes, ShardCopy
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from nearql.engine.writes import Until
from support.replication_links import QUICK, tls
from support.tables import SCHEMA, SMALL, context, keys, rows_of
from support.waiting import wait_for

CLUSTER = "8d3f6a7e-0000-4000-8000-000000000001"
TABLE = TableDef("00000000-0000-4000-8000-0000000000aa", "docs", SCHEMA)
SHARD = "00000000-0000-4000-8000-0000000000bb"
# Long enough that a slow machine does not lose its lease, short enough that tests do not wait.
TIMING = Timing(
    tick_ms=10, heartbeat_ms=40, lease_ms=1500, silent_ms=2500, stable_ms=200, retry_ms=50,
    propose_ms=500, resend_ms=500,
)  # fmt: skip
WAIT_MS = 60_000


class Catalog:
    """Metadata for all nodes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listeners: dict[str, Callable[[Metadata], None]] = {}
        self._numbers = itertools.count(1)
        self.state = Metadata()
        self.do(c.Initialise, cluster_id=CLUSTER)

    def do(self, kind: type[c.Command], **members: Any) -> Any:
        """Make and propose a command; its value."""
        command = kind(request_id=f"test-{next(self._numbers)}", **members)
        result = self.propose(command)
        assert result.ok, result
        return result.value

    def propose(self, command: c.Command, *, timeout_ms: int = 0) -> c.Result:
        """As `MetadataLog.propose`."""
        with self._lock:
            self.state, result = apply(self.state, command)
            self.state.check_invariants()
            for listener in list(self._listeners.values()):
                listener(self.state)
        return result

    def watch(self, node_id: str, listener: Callable[[Metadata], None] | None) -> None:
        """Tell this node each new state, or (None) no more."""
        with self._lock:
            self._listeners.pop(node_id, None)
            if listener is not None:
                self._listeners[node_id] = listener
                listener(self.state)

    @property
    def row(self) -> ShardRow:
        """Of the one shard."""
        return self.state.tables[TABLE.uuid].shards[0]

    def promote(self, node_id: str) -> int:
        """Make this node's copy the primary; the epoch."""
        with self._lock:
            incarnation = self.state.nodes[node_id].incarnation
            return int(
                self.do(
                    Promote,
                    shard_uuid=SHARD,
                    expected_version=self.row.version,
                    node_id=node_id,
                    incarnation=incarnation,
                )
            )


class SkippingClock:
    """The machine's clock, and what a test skips of it so as not to wait."""

    def __init__(self) -> None:
        self._skipped_ms = 0

    def __call__(self) -> int:
        return boottime_ms() + self._skipped_ms

    def skip(self, ms: int) -> None:
        """So much time has passed."""
        self._skipped_ms += ms


class DataNode:
    """One node: a folder, a table with one shard, replication."""

    def __init__(
        self, name: str, folder: Path, certificates: Path, catalog: Catalog,
        settings: EngineSettings = SMALL, disk_slow_ms: int = 60_000, timing: Timing = TIMING,
    ) -> None:  # fmt: skip
        self.name, self.node_id = name, f"id-{name}"
        self.folder, self.catalog = folder, catalog
        self._certificates, self._settings = certificates, settings
        self._disk_slow_ms, self._timing = disk_slow_ms, timing
        self.given_up: list[str] = []  # why its process would have ended
        self.port = 0
        self.clock = SkippingClock()
        self.table: Table
        self.replication: Replication

    @property
    def copy(self) -> ShardCopy:
        """Of the one shard."""
        return self.table.copies[0]

    @property
    def handle(self) -> ShardHandle:
        """Of the one shard."""
        handle = self.replication.shard(SHARD)
        assert handle is not None
        return handle

    def start(self) -> DataNode:
        """Open or make the copy, register, and take part."""
        self.context = replace_context(context(self._settings))
        make = Table.open if self.folder.exists() else Table.create
        self.table = make(self.folder, TABLE, self.context)
        config = ReplicationConfig(
            self.name, self.node_id, ("127.0.0.1", self.port), tls(self._certificates, self.name),
            timing=self._timing, patience=QUICK, disk_slow_ms=self._disk_slow_ms,
            disk_stuck_ms=600_000,
        )  # fmt: skip
        self.replication = Replication(
            config,
            cluster_id=lambda: CLUSTER,
            incarnation=lambda: self.incarnation,
            propose=self.catalog.propose,
            renew=self.renew,
            clock=self.clock,
            give_up=self.given_up.append,
        )
        self.port = self.replication.port
        self.incarnation = self.catalog.do(
            c.RegisterNode, node_id=self.node_id, name=self.name, url=f"http://{self.name}",
            replication=f"127.0.0.1:{self.port}",
        )  # fmt: skip
        self.replication.start()
        self.catalog.watch(self.node_id, self.replication.push)
        return self

    def attach(self) -> None:
        """Let the copy take part."""
        self.replication.attach(TABLE.uuid, self.catalog.row, self.copy)

    def forget_promises(self) -> None:
        """Let what this copy has promised to others be over. Only where no other is primary."""
        self.clock.skip(self._timing.lease_ms)

    def renew(self, table_uuid: str, shard_uuid: str, alloc_id: str | None) -> ShardCopy:
        """An empty copy in the place of a damaged one."""
        old = self.table
        self.folder = self.folder.with_name(f"{self.folder.name}-new")
        self.table = Table.create(self.folder, TABLE, self.context)
        old.close()
        return self.copy

    def stop(self) -> None:
        """As kill -9 would, as far as other nodes can see: it just falls silent."""
        self.catalog.watch(self.node_id, None)
        self.replication.close()
        self.table.close()
        self.context.appliers.shutdown(wait=True)
        self.context.background.shutdown(wait=True)

    def wipe(self) -> None:
        """Lose the disk. Only while stopped."""
        shutil.rmtree(self.folder)

    # ---- Rows ----------------------------------------------------------------------------------

    def write(self, ids: Iterable[int], concern: str | int = "majority") -> tuple[int, int]:
        """Insert rows here; their epoch and LSN once they are as safe as asked for."""
        deadline = Deadline(WAIT_MS)
        self.handle.check_writable(concern)
        until: Until = "durable" if concern == "one" else "applied"
        self.table.insert(rows_of(ids), OnConflict.ERROR, timeout_ms=WAIT_MS, until=until)
        lsn = self.copy.end.lsn
        self.handle.committed(lsn, self.handle.epoch, concern, deadline)
        return self.handle.epoch, lsn

    def write_soon(self, ids: Iterable[int], concern: str | int = "majority") -> tuple[int, int]:
        """The same, as soon as this node is a primary that may write."""
        found: list[tuple[int, int]] = []
        wanted = list(ids)

        def tried() -> bool:
            try:
                found.append(self.write(wanted, concern))
            except Unavailable:
                return False
            return True

        wait_for(tried, f"{self.name} may write", timeout_s=60)
        return found[0]

    def ids(self) -> list[int]:
        """The keys of the rows that are visible here."""
        return sorted(keys(self.table))

    def hashes(self, lsn: int) -> ContentHashes | None:
        """Of all columns, at this LSN."""
        return self.copy.content_hashes(lsn, (1, 2, 3), Deadline(WAIT_MS))


def replace_context(plain: EngineContext) -> EngineContext:
    """The same for copies that replication drives."""
    return replace(plain, replicated=True)


class Trio:
    """Nodes a, b and c; a is the first primary."""

    def __init__(
        self, folder: Path, certificates: Path, settings: EngineSettings = SMALL,
        disk_slow_ms: int = 60_000, timing: Timing = TIMING, copies: str = "abc",
    ) -> None:  # fmt: skip
        """copies: the nodes that have one from the beginning."""
        self.catalog = Catalog()
        self.nodes = {
            name: DataNode(
                name, folder / name, certificates, self.catalog, settings, disk_slow_ms, timing
            )
            for name in "abc"
        }
        for node in self.nodes.values():
            node.start()
        self.catalog.do(
            c.CreateTable,
            table=TABLE,
            shard_uuids=(SHARD,),
            nodes=tuple(self.nodes[name].node_id for name in copies),
        )
        holders = [self.nodes[name] for name in copies]
        names = {node.node_id: node.copy.alloc_id.hex() for node in holders}
        self.catalog.do(c.TableReady, table_uuid=TABLE.uuid, alloc_ids=names)
        for node in holders:
            node.attach()
            node.forget_promises()
        self.running = set(self.nodes)

    def __iter__(self) -> Iterator[DataNode]:
        return iter(self.nodes[name] for name in sorted(self.running))

    def __getitem__(self, name: str) -> DataNode:
        return self.nodes[name]

    def stop(self, name: str) -> None:
        """A node falls silent."""
        self.nodes[name].stop()
        self.running.discard(name)

    def start(self, name: str) -> None:
        """A node comes back."""
        self.nodes[name].start().attach()
        self.running.add(name)

    def move(self, kind: type[c.Command], **members: Any) -> None:
        """A step of a move of the shard's copies."""
        self.catalog.do(
            kind, shard_uuid=SHARD, expected_version=self.catalog.row.version, **members
        )

    def fail_over(self, name: str) -> int:
        """After the primary was stopped: another one, without waiting; its epoch."""
        epoch = self.catalog.promote(self[name].node_id)
        self[name].forget_promises()
        return epoch

    def close(self) -> None:
        """Stop all."""
        for node in list(self):
            self.stop(node.name)

    def all_show(self, ids: Iterable[int]) -> None:
        """Wait until every running node shows these rows, and maybe others."""
        wanted = set(ids)
        for node in self:
            wait_for(lambda node=node: wanted <= set(node.ids()), f"{node.name} shows it", 60)  # type: ignore[misc]

    def are_alike(self) -> None:
        """Wait until all are in sync and have applied everything; their contents are the same."""
        members = {node.node_id for node in self}
        wait_for(lambda: set(self.catalog.row.isr) == members, "all are in sync", 60)
        lsn = max(node.copy.end.lsn for node in self)
        for node in self:
            wait_for(lambda node=node: node.copy.applied_lsn == lsn, f"{node.name} has it", 60)  # type: ignore[misc]
        found = [node.hashes(lsn) for node in self]
        assert found[0] is not None
        assert all(hashes == found[0] for hashes in found)
        assert len({node.copy.epochs for node in self}) == 1

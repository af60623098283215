"""What a node of a cluster has besides a node alone, and the order in which it comes to life.

begin    the sidecar runs, and the metadata here is recent
start    the tables on this disk are open -> registered: a new incarnation -> links to the
         others -> heartbeats -> the controller, should this node lead
close    the controller and the heartbeats end -> primaries are handed over -> links end; the
         caller closes the tables, then calls `end`
"""

from __future__ import annotations

import os
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import structlog

from nearql.cluster.cluster import Cluster
from nearql.cluster.controller import Controller
from nearql.cluster.heartbeats import Ear, Hearing, Voice
from nearql.cluster.metadata.commands import Command, CreateTable, DropTable, TableReady
from nearql.cluster.metadata.log import MetadataLog
from nearql.cluster.metadata.state import Metadata, Result, TableRow
from nearql.cluster.migration import Limits
from nearql.cluster.mover import Mover
from nearql.cluster.placement import place, placeable
from nearql.cluster.replication.link.serving import Request
from nearql.cluster.replication.node import Replication, ReplicationConfig
from nearql.engine.errors import InvalidRequest, NearQLError, Unavailable
from nearql.engine.schema import TableDef
from nearql.engine.shard.meta import new_meta
from nearql.engine.storage.files import FileSystem
from nearql.server.checks import Checker, Checks
from nearql.server.cluster_settings import HAND_OVER_S, cluster_config
from nearql.server.config import Config
from nearql.server.copies import Copies
from nearql.server.keeper import Keeper
from nearql.server.steps import Steps

log = structlog.get_logger("nearql.node")

PREPARE_S = 5.0  # for placed nodes to prepare the copies of a new table
_HAND_OVER_TRY_S = 3.0
SETTLE_S = 2.0  # a change of metadata is answered when all living nodes have it, or after this
_APPLIED = "metadata_applied"
_LOOK_S = 0.02

Commit = Callable[[Command], Result]


class Settled:
    """Metadata whose changes every living node knows when they are answered; for `AccessStore`."""

    def __init__(self, metadata: MetadataLog, settle: Callable[[], None]) -> None:
        self._metadata, self._settle = metadata, settle

    @property
    def state(self) -> Metadata:
        """The newest applied state."""
        return self._metadata.state

    def propose(self, command: Command) -> Result:
        """Commit, apply, tell."""
        result = self._metadata.propose(command)
        self._settle()
        return result


class Member:
    """Thread-safe once started."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self._config = config
        self.cluster = cluster
        self.replication: Replication
        self.keeper: Keeper
        self.controller: Controller
        self.steps: Steps
        self.mover: Mover
        self.checks: Checks
        self._checker: Checker
        self._voice: Voice
        self._started = False
        self._settling = ThreadPoolExecutor(8, thread_name_prefix="settling")

    @classmethod
    def begin(cls, config: Config, directory: Path, fs: FileSystem) -> Member:
        """Start the sidecar and wait until the metadata here is recent, however long that takes.

        directory: of the metadata.

        Raises:
            InvalidRequest: code `not_of_a_cluster`: this disk belongs to a node alone.
            Unavailable: the sidecar can't start.
        """
        if fs.exists(directory / "journal"):
            raise InvalidRequest(
                f"{directory.parent} holds the data of a node alone, which can't become one of a "
                "cluster: choose an empty data directory, and copy the tables with `nearql load`.",
                code="not_of_a_cluster",
            )
        cluster = Cluster(cluster_config(config), directory, fs)
        try:
            cluster.open()
        except BaseException:
            cluster.close()
            raise
        return cls(config, cluster)

    @property
    def metadata(self) -> MetadataLog:
        """What all nodes agree on."""
        return self.cluster.metadata

    @property
    def settled(self) -> Settled:
        """Metadata for those whose changes are answered when all living nodes know them."""
        return Settled(self.metadata, self.settle)

    def start(self, copies: Copies, on_change: Callable[[], None]) -> None:
        """Open this disk's copies and take part.

        on_change: called when what can be read from the tables here has changed.
        """
        cluster, metadata = self.cluster, self.cluster.metadata
        self.replication = self._replicate()
        beats, ends = Hearing(self.replication.notices), self.replication.positions
        cluster.hears = beats.heard
        self.keeper = Keeper(cluster.node_id, copies, self.replication, metadata, on_change)
        self.controller = Controller(cluster, Ear(beats), ends)
        self.steps = Steps(cluster, self.replication, copies)
        section = self._config.cluster
        self.mover = Mover(
            cluster, self.steps, Limits(section.parallel_moves, section.replace_after_s)
        )
        self.checks = Checks(cluster, self.steps)
        self._checker = Checker(cluster, self.checks, section.compare_interval_hours * 3600)
        self._voice = Voice(cluster, beats, ends)
        self._started = True
        self.keeper.start()
        cluster.register()
        self.replication.start()
        metadata.watch(self.replication.push)
        metadata.watch(self.keeper.see)
        self.replication.push(metadata.state)
        self.keeper.see(metadata.state)
        self.replication.calls.serve(_APPLIED, self._tell_applied)
        self.steps.serve()
        self._voice.start()
        self.controller.start()
        self.mover.start()
        self._checker.start()

    def _replicate(self) -> Replication:
        """Listen for other nodes, on a port that may be taken."""
        cluster, config = self.cluster, self.cluster.config
        host, port = config.replication_listen
        try:
            return Replication(
                ReplicationConfig(
                    config.name, cluster.node_id, (host, port), config.tls,
                    config.sync_bytes_per_s, config.call_threads, config.disk_slow_ms,
                    config.disk_stuck_ms,
                ),
                cluster_id=lambda: cluster.metadata.state.cluster_id,
                incarnation=lambda: cluster.incarnation,
                propose=cluster.metadata.propose,
                renew=lambda table, shard, _alloc_id: self.keeper.renew(table, shard),
            )  # fmt: skip
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise Unavailable(
                f"Can't listen on {host}:{port} for other nodes: {reason}. Choose another address "
                "with replication.host and replication.port.",
                code="port_unavailable",
            ) from error

    def close(self) -> None:
        """Hand over what this node orders, and end its links; the tables stay open."""
        if self._started:
            self._checker.close()
            self.mover.close()
            self.steps.close()
            self._hand_over()
            self.controller.close()
            self._voice.close()
            self.keeper.close()
            self.replication.close()
            self._settling.shutdown(cancel_futures=True)

    def _hand_over(self) -> None:
        """Give the primaries away, as long as somebody is there who could agree on it: where
        several nodes stop at once, the last ones find nobody.
        """
        deadline, pause = time.monotonic() + HAND_OVER_S, threading.Event()
        while self.cluster.leader() is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            failed = self.replication.hand_over_all(min(_HAND_OVER_TRY_S, left_s))
            if not failed:
                return
            log.info("not_handed_over", shards=len(failed), reason=next(iter(failed.values())))
            pause.wait(_LOOK_S)

    # ---- what others know -----------------------------------------------------------------------

    def settle(self) -> None:
        """Return once every living node knows what this one knows, or after SETTLE_S: who asks
        another node next then finds what he was told here.
        """
        wanted = struct.pack("<Q", self.metadata.state.applied_index)
        others = self.cluster.alive() - {self.cluster.node_id}
        list(self._settling.map(lambda node_id: self._settled(node_id, wanted), others))

    def _settled(self, node_id: str, wanted: bytes) -> None:
        milliseconds = int(SETTLE_S * 1000)
        try:
            self.replication.calls.call(node_id, _APPLIED, wanted, timeout_ms=milliseconds)
        except NearQLError as error:
            log.info("node_not_settled", node=node_id, reason=error.detail)

    def _tell_applied(self, request: Request) -> Iterator[bytes]:
        (wanted,) = struct.unpack("<Q", request.payload)
        self._wait(lambda state: state.applied_index >= wanted, SETTLE_S)
        yield b""

    # ---- tables ---------------------------------------------------------------------------------

    def create_table(self, definition: TableDef, commit: Commit, restoring: str = "") -> None:
        """Create a table with copies on several nodes, which prepare them. restoring: see
        `TableRow`.

        Raises:
            Unavailable: code `not_enough_replicas`: too few nodes are alive, or prepared theirs.
        """
        nodes = self._placed(definition.replicas)
        commit(replace(self._creation(definition, nodes), restoring=restoring))
        try:
            self._wait(lambda state: _is_prepared(state, definition.uuid), PREPARE_S)
            commit(TableReady(request_id=_new_id(), table_uuid=definition.uuid, alloc_ids={}))
        except BaseException:
            commit(DropTable(request_id=_new_id(), table_uuid=definition.uuid))
            raise

        self.keeper.wait_done(lambda state: _is_ready(state, definition.uuid), PREPARE_S)
        self._wait(lambda state: self._is_writable(state.tables.get(definition.uuid)), PREPARE_S)

    def _is_writable(self, row: TableRow | None) -> bool:
        """Whether its primaries here take writes; those elsewhere are their nodes' affair."""
        own = [s.uuid for s in row.shards if s.primary == self.cluster.node_id] if row else []
        handles = [self.replication.shard(uuid) for uuid in own]
        try:
            for handle in handles:
                if handle is not None:
                    handle.check_writable("majority")
        except Unavailable:
            return False
        return None not in handles

    def _placed(self, copies: int) -> tuple[str, ...]:
        """Node ids for the copies. Nodes that started a moment ago are waited for."""
        found: list[tuple[str, ...]] = []

        def enough(state: Metadata) -> bool:
            found[:] = [place(state, self.cluster.alive(), copies, self.cluster.node_id)]
            return bool(found[0])

        if not self._wait(enough, PREPARE_S):
            there = len(placeable(self.metadata.state, self.cluster.alive()))
            raise Unavailable(
                f"{copies} copies of each shard are wanted, and {there} nodes can take one now; "
                "start more, or ask for fewer: WITH (replicas = ...).",
                code="not_enough_replicas",
            )
        return found[0]

    def dropped(self, table_uuid: str) -> None:
        """Return once a dropped table is no longer kept here, or soon."""
        self.keeper.wait_done(lambda state: table_uuid not in state.tables, PREPARE_S)

    def _creation(self, definition: TableDef, nodes: tuple[str, ...]) -> CreateTable:
        """With the shards' uuids that copies on disk have, so that both agree on names."""
        cluster_id = uuid.UUID(self.metadata.state.cluster_id).bytes
        metas = [
            new_meta(cluster_id, definition.uuid, number) for number in range(definition.shards)
        ]
        return CreateTable(
            request_id=_new_id(),
            table=definition,
            shard_uuids=tuple(str(uuid.UUID(bytes=meta.shard_uuid)) for meta in metas),
            nodes=nodes,
        )

    def _wait(self, is_so: Callable[[Metadata], bool], timeout_s: float) -> bool:
        """Wait for the metadata; whether it came to be so."""
        deadline, pause = time.monotonic() + timeout_s, threading.Event()
        while not is_so(self.metadata.state):
            if time.monotonic() > deadline:
                return False
            pause.wait(_LOOK_S)
        return True


def _is_prepared(state: Metadata, table_uuid: str) -> bool:
    row = state.tables.get(table_uuid)
    return row is not None and all(
        alloc_id for shard in row.shards for alloc_id in shard.replicas.values()
    )


def _is_ready(state: Metadata, table_uuid: str) -> bool:
    row = state.tables.get(table_uuid)
    return row is None or row.ready


def _new_id() -> str:
    return uuid.uuid4().hex

"""Makes this disk hold what the metadata says: the copies of a cluster's tables, by uuid.

    table in metadata, copies here    opened or made, told to metadata (CopyReady), replicated
    ... no longer placed here         given up by replication, closed, put into the trash for a day
    ... damaged or gone               put into the trash and made anew, if another node has it all:
                                      replication tells metadata (CopyLost) and fills it again

The state machine itself never touches a file: a restarted voter applies its log again, and must not
delete what a later entry made. Here only newest states count, and only after a barrier.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from nearql.cluster.metadata.log import MetadataLog
from nearql.cluster.metadata.shards import CopyReady, ShardRow
from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.engine.errors import NearQLError, StorageFull, Unavailable, WriteUnknown
from nearql.engine.shard.copy import ShardCopy
from nearql.server.copies import Copies

log = structlog.get_logger("nearql.node")

_AGAIN_S = 1.0  # after a failure
_TRASH_S = 60.0  # between looks into the trash


class Attachments(Protocol):
    """The part of `cluster.replication` that learns which copies there are."""

    def attach(self, table_uuid: str, shard: ShardRow, copy: ShardCopy) -> object:
        """Replicate a copy from now on."""

    def detach(self, shard_uuid: str) -> None:
        """Let a copy go; nothing uses it any more on return."""


class Keeper:
    """One thread that reconciles; `start` does so once before it returns."""

    def __init__(
        self,
        node_id: str,
        copies: Copies,
        attachments: Attachments,
        metadata: MetadataLog,
        on_change: Callable[[], None],
    ) -> None:
        """on_change: called when what can be read from the tables here has changed."""
        self._node_id, self._copies, self._attachments = node_id, copies, attachments
        self._metadata, self._on_change = metadata, on_change
        self._working = threading.RLock()  # held by whoever opens, makes or puts away
        self._attached: dict[str, str] = {}  # shard uuid -> table uuid
        self._declared: dict[str, TableRow] = {}
        self._not_before: dict[str, float] = {}  # table uuid -> when a failure is tried again
        self._news = threading.Condition()
        self._state: Metadata | None = None
        self._tried: Metadata | None = None
        self._done: Metadata | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Open what this disk should hold by what is committed now, then follow `see`."""
        self._copies.empty_trash()
        state = self._metadata.state
        self._reconcile(state)
        self._done = self._tried = state
        self._thread.start()

    def see(self, state: Metadata) -> None:
        """A newer state; returns at once."""
        with self._news:
            self._state = state
            self._news.notify_all()

    def wait_done(self, is_done: Callable[[Metadata], bool], timeout_s: float) -> bool:
        """Wait until this disk holds what a state says for which `is_done` holds."""
        with self._news:
            return self._news.wait_for(
                lambda: self._done is not None and is_done(self._done), timeout_s
            )

    def renew(self, table_uuid: str, shard_uuid: str) -> ShardCopy:
        """Put a damaged copy's files into the trash; an empty one in its place.

        The other shards of the table lie in the same folder: their copies are made anew, too.

        Raises:
            Unavailable: code `not_enough_replicas`: too few other nodes have the other shards.
        """
        with self._working:
            row = self._metadata.state.tables[table_uuid]
            if len(row.shards) > 1 and not self._is_elsewhere(row):
                raise Unavailable(
                    f"A copy of table {row.table.name!r} is damaged and is not made anew yet: too "
                    "few other nodes have its other shards in sync.",
                    code="not_enough_replicas",
                )
            others = [s for s in row.shards if s.uuid != shard_uuid and s.uuid in self._attached]
            for other in others:
                self._attachments.detach(other.uuid)
                del self._attached[other.uuid]
            self._copies.put_aside_one(table_uuid)
            table = self._copies.make(row.table)
            self._attach(row)
            self._on_change()
            number = next(i for i, shard in enumerate(row.shards) if shard.uuid == shard_uuid)
            return table.copies[number]

    def close(self) -> None:
        """Stop following; the copies stay open."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failed, swept = False, time.monotonic()
        while True:
            with self._news:
                self._news.wait_for(self._has_news, _AGAIN_S if failed else _TRASH_S)
                if self._closed:
                    return
                state = self._tried = self._state or self._done
            assert state is not None
            try:
                failed = not self._reconcile(state)
            except (NearQLError, OSError) as error:
                log.error("copies_not_kept", reason=str(error))
                failed = True
            with self._news:
                self._done = self._done if failed else state
                self._news.notify_all()
            if time.monotonic() - swept > _TRASH_S:
                swept = time.monotonic()
                self._empty_trash()

    def _empty_trash(self) -> None:
        """What can't be removed now is tried again; copies are kept all the same."""
        try:
            self._copies.empty_trash()
        except (NearQLError, OSError) as error:
            log.error("trash_not_emptied", reason=str(error))

    def _has_news(self) -> bool:
        return self._closed or (self._state is not None and self._state is not self._tried)

    def _reconcile(self, state: Metadata) -> bool:
        """Whether this disk holds what the state says."""
        placed = {uuid: row for uuid, row in state.tables.items() if self._is_placed(row)}
        with self._working:
            self._let_go(placed)
            kept = [self._keep(row) for row in placed.values()]
        return all(kept)

    def _is_placed(self, row: TableRow) -> bool:
        return any(self._node_id in shard.replicas for shard in row.shards)

    def _let_go(self, placed: Mapping[str, TableRow]) -> None:
        """Give up copies of tables that are not placed here any more."""
        for shard, table in list(self._attached.items()):
            if table not in placed:
                self._attachments.detach(shard)
                del self._attached[shard]
        for table in self._not_before.keys() - placed.keys():
            del self._not_before[table]
        for table in self._declared.keys() - placed.keys():
            del self._declared[table]
            self._on_change()
        self._copies.put_aside(placed)

    def _keep(self, row: TableRow) -> bool:
        """Have this table's copies open, replicated and told; whether that is so."""
        uuid = row.table.uuid
        if time.monotonic() < self._not_before.get(uuid, 0.0):
            return False  # news keep coming, and none of them need be about this table
        try:
            failed = uuid in self._copies.failed and not self._is_elsewhere(row)
            if uuid not in self._copies.tables and not failed:
                self._open_or_make(row)
            if uuid in self._copies.failed:
                return True  # the only good copy is damaged: served as an error by name
            self._attach(row)
            self._tell(row)
            self._follow_definition(row)
        except (Unavailable, WriteUnknown, StorageFull) as error:
            log.warning("copy_not_ready", table=row.table.name, reason=error.detail)
            self._not_before[uuid] = time.monotonic() + _AGAIN_S
            return False
        self._not_before.pop(uuid, None)
        return True

    def _open_or_make(self, row: TableRow) -> None:
        uuid, elsewhere = row.table.uuid, self._is_elsewhere(row)
        if self._is_told(row) and (self._copies.has(uuid) or not elsewhere):
            self._copies.open(row)
        else:
            self._copies.make(row.table)  # or complete what a crash broke off
        if uuid in self._copies.failed and elsewhere:
            log.error("copy_made_anew", table=row.table.name)
            self._copies.put_aside_one(uuid)
            self._copies.make(row.table)
        self._on_change()

    def _is_elsewhere(self, row: TableRow) -> bool:
        """Whether other nodes have every shard in sync, so that this one's copies may go.

        Copies of several shards lie in one folder and go together, the healthy ones too, before
        metadata knows: then enough others are needed of each.
        """
        needed = [1 if len(row.shards) == 1 else shard.min_isr for shard in row.shards]
        others = [len({*shard.isr} - {self._node_id}) for shard in row.shards]
        return row.ready and all(map(operator.ge, others, needed))

    def _is_told(self, row: TableRow) -> bool:
        return any(shard.replicas.get(self._node_id) for shard in row.shards)

    def _attach(self, row: TableRow) -> None:
        table = self._copies.tables[row.table.uuid]
        for shard, copy in zip(row.shards, table.copies, strict=True):
            if shard.uuid not in self._attached and self._node_id in shard.replicas:
                self._attachments.attach(row.table.uuid, shard, copy)
                self._attached[shard.uuid] = row.table.uuid

    def _tell(self, row: TableRow) -> None:
        """Name the copies that metadata has no name of."""
        table = self._copies.tables[row.table.uuid]
        names = {
            shard.uuid: copy.alloc_id.hex()
            for shard, copy in zip(row.shards, table.copies, strict=True)
            if shard.replicas.get(self._node_id) == ""
        }
        if names:
            first = min(names.values())
            self._metadata.propose(
                CopyReady(
                    request_id=f"copy/{row.table.uuid}/{self._node_id}/{first}",
                    table_uuid=row.table.uuid,
                    node_id=self._node_id,
                    alloc_ids=names,
                )
            )

    def _follow_definition(self, row: TableRow) -> None:
        """Indexes are built here; columns come with the log, in their place among the rows."""
        before = self._declared.get(row.table.uuid)
        if before is not None and before.table == row.table:
            return
        table = self._copies.tables[row.table.uuid]
        if before is None or before.table.indexes != row.table.indexes:
            table.declare_indexes(row.table.indexes)
        if before is not None and before.table.schema != row.table.schema:
            table.apply_schema(row.table)
        self._declared[row.table.uuid] = row
        self._on_change()

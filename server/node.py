"""One node: where metadata, tables and SQL are put together.

`Node` is the composition root. It implements `query.ports.Database` for the SQL session, keeps
the data directory in step with the catalog, and is what the HTTP edge and the embedded client
talk to.

A table comes to life in three steps, so that a crash between any two leaves nothing half-made:
CreateTable (name reserved, committed) -> directory prepared and fsynced -> TableReady (committed,
visible). At start, tables that never became ready are dropped, directories that no table owns go to
the trash, and a ready table without its directory is an error by name, never an empty table.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import structlog

from nearql.cluster.metadata import commands as c
from nearql.cluster.metadata.local import LocalMetadata
from nearql.cluster.metadata.log import MetadataLog
from nearql.cluster.metadata.restores import PublishRestored
from nearql.cluster.metadata.state import Result, TableRow
from nearql.cluster.metadata.views import CreateView, DropView, view_named
from nearql.engine.backends import probe_backends
from nearql.engine.batching import BatchStats
from nearql.engine.calibration import calibrated, remembered
from nearql.engine.context import EngineContext
from nearql.engine.costs import Machine
from nearql.engine.errors import (
    Conflict,
    Corruption,
    InternalError,
    InvalidRequest,
    NearQLError,
    NotFound,
    StorageFull,
    Unavailable,
)
from nearql.engine.memory import MemoryBudget
from nearql.engine.named_query import ViewDef
from nearql.engine.schema import IndexDef, TableDef, TableSchema
from nearql.engine.scrub import Scrubber
from nearql.engine.search import Searcher
from nearql.engine.storage.files import (
    DirectoryLock,
    FileSystem,
    LocalFileSystem,
    ensure_format,
)
from nearql.engine.table import Table
from nearql.query import duck
from nearql.query.ports import CatalogView
from nearql.query.session import Session
from nearql.query.sql_terms import SqlTerms
from nearql.server import system_tables
from nearql.server.access.store import AccessStore
from nearql.server.backup.service import Backups
from nearql.server.checks import check_alone
from nearql.server.config import Config
from nearql.server.copies import Copies, report_damage
from nearql.server.counts import Count, counts
from nearql.server.gateway.gateway import Gateway
from nearql.server.operations import set_replicas
from nearql.server.slow import log_slow

if TYPE_CHECKING:
    from nearql.server.member import Member

log = structlog.get_logger("nearql.node")

NUMBER_BLOCK = (
    10_000  # identity numbers taken from metadata at once; gaps after a restart are permitted
)
_FATAL_EXIT = 70  # 3-replication 2.3: a failed fsync ends the process

_STATUS_OF: dict[str, type[NearQLError]] = {
    "undefined_table": NotFound,
    "undefined_index": NotFound,
    "duplicate_table": Conflict,
    "duplicate_index": Conflict,
    "schema_changed": Conflict,
    "dependent_object": Conflict,
    "not_enough_replicas": Unavailable,
    "restore_broken": Conflict,
}


def _alone(directory: Path, fs: FileSystem) -> MetadataLog:
    """The metadata of a node that is its whole database.

    Raises:
        InvalidRequest: code `of_a_cluster`: this disk belongs to a node of a cluster.
    """
    if fs.exists(directory / "log"):
        raise InvalidRequest(
            f"{directory.parent} holds the data of a node of a cluster: start it with "
            "cluster.enabled and its cluster's settings.",
            code="of_a_cluster",
        )
    return LocalMetadata.open(directory, fs, _exit_at_once)


def _member(config: Config, directory: Path, fs: FileSystem) -> Member | None:
    """What makes a node one of a cluster, where the configuration says that it is one."""
    if not config.cluster.enabled:
        return None
    from nearql.server.member import Member  # loads Raft and the links: for clusters only

    return Member.begin(config, directory, fs)


OpenMetadata = Callable[[Path, FileSystem], MetadataLog]


def _exit_at_once(reason: str) -> NoReturn:
    """End the process without a further write: after a failed fsync nothing may be acknowledged."""
    log.critical("fatal", reason=reason)
    os._exit(_FATAL_EXIT)


class Node:
    """A running node. Thread-safe; `close` flushes and releases the data directory."""

    def __init__(
        self,
        config: Config,
        metadata: MetadataLog,
        lock: DirectoryLock,
        member: Member | None = None,
    ) -> None:
        """member: what a node of a cluster has besides; None for a node alone."""
        self.config = config
        self.metadata = metadata
        self.member = member
        self.started_at = time.time()
        self.system_sources: dict[str, Callable[[], pa.Table]] = {}  # in place of this node's own
        self._lock = lock
        self._ddl = threading.RLock()
        self._counting = threading.Lock()
        self._numbers: dict[
            str, tuple[int, int]
        ] = {}  # table uuid -> (next, end) of the block held
        self._catalog = CatalogView(-1, {})
        self._altered = 0  # schemas that data and metadata agree on; part of the catalog's version
        self._closed = False
        settings = config.engine_settings()
        self.backend, self.probe = probe_backends(settings)
        self._context = EngineContext(
            settings=settings,
            searcher=Searcher(self.backend, settings),
            fs=LocalFileSystem(),
            cluster_id=uuid.UUID(metadata.state.cluster_id).bytes,
            on_fatal=_exit_at_once,
            replicated=member is not None,
            index_terms=SqlTerms(),
        )
        retention_s = config.cluster.trash_hours * 3600
        self.copies = Copies(config.node.data_dir.absolute(), self._context, retention_s)
        self._session = Session(self, config.session_settings())
        self._session.statements.on_slow = log_slow
        self.scrubber = Scrubber(
            self.tables, report_damage,
            rate_bytes=settings.scrub_rate_bytes, interval_s=settings.scrub_interval_s,
        )  # fmt: skip
        self.backups = Backups(self)
        settled = member.settled if member else metadata
        self._access = AccessStore(settled, config.auth.max_keys)

    @classmethod
    def open(cls, config: Config, open_metadata: OpenMetadata = _alone) -> Node:
        """Lock the data directory, recover metadata and every table.

        Raises:
            Unavailable: the directory is in use by another process (code `data_dir_in_use`).
            Corruption: metadata is damaged, or written by a newer version (code `newer_format`).
            InvalidRequest: a backend or device was asked for that is not there.
        """
        directory, fs = config.node.data_dir.absolute(), LocalFileSystem()
        _make_directory(directory)
        lock = DirectoryLock(directory)
        try:
            ensure_format(fs, directory)
            member = _member(config, directory / "metadata", fs)
            metadata = member.metadata if member else open_metadata(directory / "metadata", fs)
            try:
                node = cls(config, metadata, lock, member)
                node._begin()
            except BaseException:
                metadata.close()
                raise
        except BaseException:
            lock.close()
            raise
        return node

    def _begin(self) -> None:
        if self.member is not None:
            self.member.start(self.copies, self._changed)
        else:
            self._register()
            self._reconcile()
        self.backups.start()
        self._warm_up()
        self.scrubber.start()

    @property
    def node_id(self) -> str:
        """This disk's identity, made at its first start."""
        return self.metadata.node_id

    @property
    def context(self) -> EngineContext:
        """What its tables share."""
        return self._context

    @property
    def access(self) -> AccessStore:
        """Users, grants and keys."""
        return self._access

    @property
    def memory(self) -> MemoryBudget:
        """What the node's work may take together."""
        return self._context.memory

    def has_room(self) -> bool:
        """Whether memory is not short, so that a search would begin at once."""
        return self.memory.used_bytes <= self.memory.limit_bytes

    def session(self) -> Session:
        """The SQL session; shared, thread-safe."""
        return self._session

    def catalog(self) -> CatalogView:
        """The visible tables now."""
        state = self.metadata.state
        version = state.version + self._altered
        if self._catalog.version != version:
            ready = {
                r.table.name.lower(): self._reached(r)
                for r in state.tables.values()
                if r.ready and not r.restoring
            }
            views = {view.name.lower(): view for view in state.views.values()}
            self._catalog = CatalogView(version, ready, views)
        return self._catalog

    def _reached(self, row: TableRow) -> TableDef:
        """The definition with the schema that the data has: metadata is ahead during an ALTER."""
        table = self.copies.tables.get(row.table.uuid)
        return row.table if table is None else replace(row.table, schema=table.definition.schema)

    def table(self, uuid: str) -> Table:
        """The data of a table; raises Corruption where it could not be opened at start, and
        Unavailable (code `no_copy_here`) where only other nodes have it.
        """
        known = self.member is not None and uuid in self.metadata.state.tables
        if known and uuid not in self.copies.tables and uuid not in self.copies.failed:
            raise Unavailable("Other nodes have this table.", code="no_copy_here")
        return self.copies.table(uuid)

    def tables(self) -> list[Table]:
        """Every open table, by name."""
        rows, opened = self.catalog().tables, self.copies.tables
        return [opened[t.uuid] for _, t in sorted(rows.items()) if t.uuid in opened]

    def failed_tables(self) -> Mapping[str, Corruption]:
        """Tables that could not be opened, by uuid, with the reason."""
        return self.copies.failed

    def system_table(self, name: str) -> pa.Table | None:
        """The rows of `nearql.<name>`, or None."""
        if name in self.system_sources:
            return self.system_sources[name]()
        build = system_tables.TABLES.get(name)
        return build(self) if build else None

    def batch_stats(self) -> BatchStats:
        """How many searches were answered together."""
        return self._context.batcher.stats()

    def counts(self) -> Iterable[Count]:
        """What it counts, for `/metrics`."""
        return counts(self)

    @property
    def machine(self) -> Machine:
        """What searches are reckoned to cost here."""
        return self._context.searcher.machine

    # ---- tables ---------------------------------------------------------------------------------

    def create_table(
        self, definition: TableDef, *, if_not_exists: bool, restoring: str = ""
    ) -> bool:
        """Durably create a table and its copies; whether it was new. restoring: see `TableRow`."""
        with self._ddl:
            self._check_open()
            if self._exists(definition.name, if_not_exists):
                return False
            limit = self.config.limits.max_tables
            if len(self.metadata.state.tables) >= limit:
                detail = f"This node has {limit} tables, its limit (limits.max_tables)."
                raise InvalidRequest(detail, code="too_many_tables", sqlstate="54000")
            self._create(definition, restoring)
            return True

    def _exists(self, name: str, tolerated: bool) -> bool:
        if self.metadata.state.table_named(name) is None:
            return False
        if tolerated:
            return True
        raise Conflict(
            f"A table named {name!r} exists already; use IF NOT EXISTS or another name.",
            code="duplicate_table",
            sqlstate="42P07",
        )

    def _create(self, definition: TableDef, restoring: str) -> None:
        if self.member is not None:
            self.member.create_table(definition, self._commit, restoring)
            return
        shard_uuids = tuple(str(uuid.uuid4()) for _ in range(definition.shards))
        self._commit(
            c.CreateTable(
                request_id=_new_id(),
                table=definition,
                shard_uuids=shard_uuids,
                nodes=(self.node_id,),
                restoring=restoring,
            )
        )
        try:
            self.copies.make(definition)
        except BaseException:
            self._commit(c.DropTable(request_id=_new_id(), table_uuid=definition.uuid))
            self.copies.discard(definition.uuid)
            raise
        alloc = {self.node_id: str(uuid.uuid4())}
        self._commit(
            c.TableReady(request_id=_new_id(), table_uuid=definition.uuid, alloc_ids=alloc)
        )

    def drop_table(self, name: str, *, if_exists: bool, cascade: bool = False) -> bool:
        """Durably drop a table and, with cascade, the views that read it; whether it existed."""
        with self._ddl:
            self._check_open()
            row = self.metadata.state.table_named(name)
            if row is None and if_exists:
                return False
            row = self._row(name)
            self._commit(
                c.DropTable(request_id=_new_id(), table_uuid=row.table.uuid, cascade=cascade)
            )
            self._numbers.pop(row.table.uuid, None)
            if self.member is not None:
                self.member.dropped(row.table.uuid)
            else:
                self.copies.discard(row.table.uuid)
            return True

    def publish_restored(self, command: PublishRestored) -> None:
        """Durably show tables that rows of a backup were written into, all in one step."""
        with self._ddl:
            self._check_open()
            self._commit(command)

    def create_view(self, view: ViewDef, *, or_replace: bool) -> None:
        """Durably define a view."""
        with self._ddl:
            self._check_open()
            views, limit = self.metadata.state.views, self.config.limits.max_views
            if len(views) >= limit and view_named(views, view.name) is None:
                detail = f"There are {limit} views, the limit (limits.max_views)."
                raise InvalidRequest(detail, code="too_many_views", sqlstate="54000")
            self._commit(CreateView(request_id=_new_id(), view=view, or_replace=or_replace))

    def drop_view(self, name: str, *, cascade: bool) -> None:
        """Durably drop a view and, with cascade, those that read it."""
        with self._ddl:
            self._check_open()
            view = view_named(self.metadata.state.views, name)
            if view is None:
                raise NotFound(f"There is no view {name!r}.", code="undefined_table")
            self._commit(DropView(request_id=_new_id(), view_uuid=view.uuid, cascade=cascade))

    def alter_table(self, name: str, schema: TableSchema, new_name: str | None = None) -> None:
        """Durably replace a table's schema and, with new_name, its name."""
        with self._ddl:
            self._check_open()
            row = self._row(name)
            table = self.table(row.table.uuid)
            command = c.ReplaceSchema(
                request_id=_new_id(),
                table_uuid=row.table.uuid,
                schema=schema,
                expected_version=schema.version - 1,
                new_name=new_name,
            )
            with table.altering(schema):
                self._commit(command)
                table.apply_schema(self._row(new_name or name).table)
                self._changed()

    def _changed(self) -> None:
        """What tables show has changed without a change of metadata."""
        with self._counting:
            self._altered += 1

    def create_index(self, table: str, index: IndexDef, *, if_not_exists: bool) -> bool:
        """Durably define an index; whether it was new."""
        with self._ddl:
            self._check_open()
            row = self._row(table)
            if self.metadata.state.index_named(index.name) is not None:
                if if_not_exists:
                    return False
                detail = f"An index named {index.name!r} exists already; use IF NOT EXISTS."
                raise Conflict(detail, code="duplicate_index", sqlstate="42P07")
            self._commit(
                c.CreateIndex(request_id=_new_id(), table_uuid=row.table.uuid, index=index)
            )
            self._declare_indexes(row.table.uuid)
            return True

    def drop_index(self, name: str, *, if_exists: bool) -> bool:
        """Durably drop an index; whether it existed."""
        with self._ddl:
            self._check_open()
            found = self.metadata.state.index_named(name)
            if found is None:
                if if_exists:
                    return False
                raise NotFound(
                    f"There is no index {name!r}.", code="undefined_index", sqlstate="42704"
                )
            self._commit(c.DropIndex(request_id=_new_id(), index_uuid=found[1]))
            self._declare_indexes(found[0].table.uuid)
            return True

    def rebuild_indexes(self, table: str, uuids: Sequence[str]) -> None:
        """Build these indexes anew, in the background."""
        with self._ddl:
            self._check_open()
            self.table(self._row(table).table.uuid).rebuild_indexes(uuids)

    def check_table(self, table: str) -> pa.Table:
        """Verify a table's files and compare its copies; a row per copy."""
        self._check_open()
        row = self._row(table)
        if self.member is not None:
            return self.member.checks.check(row)
        return check_alone(self.table(row.table.uuid), self.config.node.name)

    def set_replicas(self, table: str, replicas: int) -> str:
        """Have as many copies of a table; what is to be said of it."""
        self._check_open()
        return set_replicas(self.gateway(), self._row(table), replicas)

    def _declare_indexes(self, table_uuid: str) -> None:
        """Let a table's data know of its indexes; one that can't be opened has none to build."""
        table = self.copies.tables.get(table_uuid)
        if table is not None:
            table.declare_indexes(self.metadata.state.tables[table_uuid].table.indexes)

    def allocate(self, table_uuid: str, count: int) -> int:
        """The first of `count` fresh identity numbers, from a block held in memory."""
        with self._ddl:
            first, end = self._numbers.get(table_uuid, (0, 0))
            if end - first < count:
                size = max(count, NUMBER_BLOCK)
                result = self._commit(
                    c.AllocateNumbers(request_id=_new_id(), table_uuid=table_uuid, count=size)
                )
                first, end = result.value, result.value + size
            self._numbers[table_uuid] = (first + count, end)
            return first

    def gateway(self) -> Gateway | None:
        """The way of requests to other nodes; None for a node alone."""
        if self.member is None:
            return None
        routing = self.config.cluster.write_routing
        member = self.member
        return Gateway(self.metadata, member.cluster, member.replication, routing, member.steps)

    def describe_settings(self) -> Mapping[str, Any]:
        """Effective settings by `section.key`; there are no secrets among their values."""
        return system_tables.effective_settings(self.config)

    def notice(self, text: str) -> None:
        """Log something an operator should know."""
        log.info("notice", text=text)

    # ---- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Checkpoint what is cheap to checkpoint, close files, release the directory."""
        self.backups.close()  # before the lock: a restore that ends drops its tables
        with self._ddl:
            if self._closed:
                return
            self._closed = True
            self.scrubber.close()
            if self.member is not None:
                self.member.close()
            self.copies.close()
            self._session.close()
            self._context.index_builder.close()
            self._context.index_tuner.close()
            self._context.background.shutdown()
            self._context.searcher.close()
            self.metadata.close()
            self._lock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("The node is shutting down.", code="shutting_down")

    def _commit(self, command: c.Command) -> Result:
        result = self.metadata.propose(command)
        if not result.ok:
            raise _STATUS_OF.get(result.code, InternalError)(result.detail, code=result.code)
        if self.member is not None and not isinstance(command, c.AllocateNumbers | c.CreateTable):
            self.member.settle()
        return result

    def _row(self, name: str) -> TableRow:
        row = self.metadata.state.table_named(name)
        if row is None:
            raise NotFound(f"There is no table {name!r}.", code="undefined_table")
        return row

    def _register(self) -> None:
        node = self.config.node
        self._commit(
            c.RegisterNode(
                request_id=_new_id(),
                node_id=self.node_id,
                name=node.name,
                url=self.config.advertise_url,
            )
        )

    def _reconcile(self) -> None:
        """Make the disk match the catalog: finish drops, undo unfinished creates, open the rest."""
        for row in list(self.metadata.state.tables.values()):
            if not row.ready or row.restoring:  # a restore ends with its process
                self._commit(c.DropTable(request_id=_new_id(), table_uuid=row.table.uuid))
        self.copies.empty_trash()
        owned = self.metadata.state.tables
        self.copies.put_aside(owned)
        for row in owned.values():
            self.copies.open(row)

    def _warm_up(self) -> None:
        """Start DuckDB beside the first requests rather than inside one of them; then measure what
        searches cost here, which until then are planned by defaults.
        """
        self._context.background.submit(duck.shared)
        self._context.background.submit(self._calibrate)

    def _calibrate(self) -> None:
        searcher, directory = self._context.searcher, self.config.node.data_dir.absolute()
        try:
            searcher.machine = remembered(
                self._context.fs, directory, self.backend.name, partial(calibrated, self.backend)
            )
        except StorageFull as error:
            log.warning("not_calibrated", reason=error.detail)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"The data directory {directory} can't be made: {error.strerror}. "
            "Choose another with --data-dir, or change the owner of its parent.",
            code="data_dir_unusable",
        ) from error


def _new_id() -> str:
    return uuid.uuid4().hex

"""Bring tables of a backup back, beside whatever is there.

    choose    which tables, under which names; refuse names that are taken, before anything is made
    make      new tables with new uuids, hidden (`cluster.metadata.restores`)
    fill      each shard is rebuilt, its rows go the way of all writes: logged, replicated, applied
    compare   hashes of what was rebuilt and of what the new table holds
    publish   all tables and their views, in one step

Until the last step nobody sees anything of it; if it fails, or its node dies, the hidden tables are
dropped. The backup's own tables, should they be there still, are not touched: a restore never
overwrites.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from nearql.cluster.metadata.access import UserRow
from nearql.cluster.metadata.restores import PublishRestored, restoring_by
from nearql.cluster.metadata.views import view_named
from nearql.cluster.placement import placeable
from nearql.engine.errors import (
    Conflict,
    Corruption,
    NearQLError,
    NotFound,
    Unavailable,
    WriteUnknown,
)
from nearql.engine.named_query import ViewDef
from nearql.engine.schema import IndexDef, TableDef
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from nearql.server.backup.catalog import Catalog, CatalogTable, unpack_catalog
from nearql.server.backup.manifest import BackupManifest, ShardBackup
from nearql.server.backup.rebuild import (
    Rebuilt,
    Stop,
    check_reached,
    hashes_of,
    load,
    pieces_of,
    replay,
)
from nearql.server.backup.repository import Alive, Repository
from nearql.server.backup.take import Progress

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

SCRATCH = "restoring"  # folder of the data directory; emptied at start
_ASKS = 5  # for the outcome of the last step
_LEVEL = 1  # the feature level that brought what a restore writes into metadata


@dataclass(frozen=True, slots=True)
class Wish:
    """What to restore. tables: names, None = all with views and users. rename: old -> new name."""

    backup: str = "latest"
    tables: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)


class _Unsure(Exception):
    """Nobody knows whether the tables are shown, or will be: none of them may be dropped."""

    def __init__(self, cause: WriteUnknown) -> None:
        super().__init__(cause.detail)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _Plan:
    """One table on its way. old: in the backup; new: as it is made here."""

    old: CatalogTable
    new: TableDef
    shards: tuple[ShardBackup, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it, for people and programs. rows: by name."""

    backup: str
    rows: Mapping[str, int]
    views: tuple[str, ...]
    users: tuple[str, ...]


@dataclass
class Restore:
    """One restore. job: an id that no other has."""

    node: Node
    repository: Repository
    wish: Wish
    progress: Progress
    job: str

    def run(self) -> Restored:
        """Do it; blocks.

        Raises:
            NotFound: no such backup or table. Conflict: a name is taken, or the job was cancelled.
            Corruption: code `backup_damaged`. InvalidRequest: the archive does not reach there.
            Unavailable: code `older_nodes`: some node would not understand the steps.
        """
        self._check_level()
        with self.repository.working("a restore") as alive:
            self.progress.step("choosing")
            manifest, catalog = self._chosen()
            plans = list(self._plans(manifest, catalog))
            views = self._views(catalog, plans)
            made: list[TableDef] = []
            try:
                rows = {}
                for plan in plans:
                    made.append(plan.new)  # before: it may be there although making it failed
                    self._make(plan.new)
                    rows[plan.new.name] = self._fill(plan, alive)
                self._publish(plans, views)
            except _Unsure as error:  # all is shown, or will be dropped with this process
                raise error.cause from error
            except BaseException:
                self._drop(made)
                raise
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)
            users = self._users(catalog, plans) if self.wish.tables is None else ()
            names = tuple(view.name for view in views)
            return Restored(manifest.id, rows, names, users)

    def _check_level(self) -> None:
        """An older node would show tables at once, and its voter fail at the last step."""
        if self.node.member is not None and self.node.metadata.state.feature_level < _LEVEL:
            raise Unavailable(
                "Some node of the cluster runs a version that can't restore: upgrade it first. "
                "Right after a start, repeat this.",
                code="older_nodes",
            )

    # ---- Choosing -------------------------------------------------------------------------

    def _chosen(self) -> tuple[BackupManifest, Catalog]:
        manifest = self.repository.backup(self.wish.backup)
        where = f"{self.repository.location}, backup {manifest.id}"
        return manifest, unpack_catalog(self.repository.read_whole(manifest.catalog), where)

    def _plans(self, manifest: BackupManifest, catalog: Catalog) -> Iterator[_Plan]:
        chosen = self._tables(catalog, manifest.id)
        backed = {table.uuid: table.shards for table in manifest.tables}
        names = [self._new_name(one.table.name) for one in chosen]
        for one, name in zip(chosen, names, strict=True):
            self._check_free(name, names)
            yield _Plan(one, self._definition(one.table, name), backed[one.table.uuid])

    def _tables(self, catalog: Catalog, backup: str) -> Sequence[CatalogTable]:
        if self.wish.tables is None:
            return catalog.tables
        found = []
        for name in dict.fromkeys(self.wish.tables):
            table = catalog.named(name)
            if table is None:
                known = ", ".join(t.table.name for t in catalog.tables) or "none"
                raise NotFound(
                    f"Backup {backup} has no table {name[:200]!r}; it has: {known}.",
                    code="undefined_table",
                )
            found.append(table)
        return found

    def _new_name(self, name: str) -> str:
        wanted = {old.lower(): new for old, new in self.wish.rename.items()}
        return wanted.get(name.lower(), name)

    def _check_free(self, name: str, names: Sequence[str]) -> None:
        state = self.node.metadata.state
        twice = [n.lower() for n in names].count(name.lower()) > 1
        if twice or state.table_named(name) or view_named(state.views, name):
            raise Conflict(
                f"A table or view named {name!r} exists already, and a restore overwrites nothing: "
                "restore under another name, or drop or rename what is there.",
                code="duplicate_table", sqlstate="42P07",
            )  # fmt: skip

    def _definition(self, old: TableDef, name: str) -> TableDef:
        indexes = tuple(self._index(index) for index in old.indexes)
        replicas = max(1, min(old.replicas, self._most_copies()))
        return replace(old, uuid=str(uuid.uuid4()), name=name, indexes=indexes, replicas=replicas)

    def _most_copies(self) -> int:
        member = self.node.member
        if member is None:
            return 1
        return len(placeable(self.node.metadata.state, member.cluster.alive()))

    def _index(self, old: IndexDef) -> IndexDef:
        """Names of indexes are one for all tables: one that is taken gets a number."""
        name, number = old.name, 1
        while self.node.metadata.state.index_named(name) is not None:
            number += 1
            name = f"{old.name}_{number}"
        return replace(old, uuid=str(uuid.uuid4()), name=name)

    def _views(self, catalog: Catalog, plans: Sequence[_Plan]) -> tuple[ViewDef, ...]:
        """Views of a whole restore, each after what it reads, with the new uuids."""
        if self.wish.tables is not None or self.wish.rename:
            return ()
        uuids = {plan.old.table.uuid: plan.new.uuid for plan in plans}
        made: list[ViewDef] = []
        left = list(catalog.views)
        while left:
            ready = [view for view in left if all(read in uuids for read in view.reads)]
            if not ready:
                raise Corruption("The backup is damaged: a view reads what is not in it.")
            for view in ready:
                left.remove(view)
                self._check_free(view.name, [])
                uuids[view.uuid] = str(uuid.uuid4())
                reads = tuple(sorted(uuids[read] for read in view.reads))
                made.append(replace(view, uuid=uuids[view.uuid], reads=reads))
        return tuple(made)

    # ---- Making and filling ---------------------------------------------------------------

    @property
    def _by(self) -> str:
        state, me = self.node.metadata.state, self.node.node_id
        return restoring_by(me, state.nodes[me].incarnation, self.job)

    @property
    def _scratch(self) -> Path:
        return self.node.config.node.data_dir.absolute() / SCRATCH / self.job

    def _make(self, definition: TableDef) -> None:
        self.progress.step(f"making {definition.name}")
        self.node.create_table(definition, if_not_exists=False, restoring=self._by)
        row = self.node.metadata.state.tables[definition.uuid]
        if any(shard.primary != self.node.node_id for shard in row.shards):
            self._drop([definition])
            raise Unavailable(
                "This node gets no new tables now: it is on its way out. Ask another node.",
                code="node_draining",
            )

    def _fill(self, plan: _Plan, alive: Alive) -> int:
        self.progress.step(f"rebuilding {plan.new.name}")
        folder = self._scratch / plan.new.uuid
        try:
            rebuilt = self._rebuilt(plan, folder, alive)
            table = self.node.table(plan.new.uuid)
            self.progress.step(f"filling {plan.new.name}")
            self.progress.expect(rebuilt.nbytes)
            for batch in rebuilt.batches():
                table.insert(batch, OnConflict.ERROR)
                self.progress.advance(batch.nbytes)
                alive()
            self.progress.step(f"comparing {plan.new.name}")
            self._compare(plan, rebuilt, table)
            return rebuilt.rows
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _rebuilt(self, plan: _Plan, folder: Path, alive: Alive) -> Rebuilt:
        states, context = [], self.node.context

        def between() -> None:
            self.progress.advance(0)
            alive()

        for shard in plan.shards:
            directory = folder / str(shard.number)
            state, store = load(
                self.repository, shard, plan.new.schema, directory, context, between=between
            )
            replay(state, store, pieces_of(self.repository, shard, between), Stop())
            check_reached(state, shard)
            states.append(state)
        return Rebuilt(plan.new, states, context)

    def _compare(self, plan: _Plan, rebuilt: Rebuilt, table: Table) -> None:
        views = [shard.read_view() for shard in table.shards]
        if hashes_of(views, plan.new.schema) != rebuilt.hashes():
            raise Corruption(
                f"What was written into table {plan.new.name!r} is not what the backup holds; "
                "nothing was restored. This is a bug: please report it.",
                code="restore_differs",
            )

    def _publish(self, plans: Sequence[_Plan], views: tuple[ViewDef, ...]) -> None:
        self.progress.step("publishing")
        numbers = {plan.new.uuid: plan.old.next_number for plan in plans}
        command = PublishRestored(
            request_id=uuid.uuid4().hex, restoring=self._by, numbers=numbers, views=views
        )
        for left in reversed(range(_ASKS)):  # the same request: it is done once
            try:
                return self.node.publish_restored(command)
            except WriteUnknown as error:
                if not left:
                    raise _Unsure(error) from error

    def _drop(self, made: Sequence[TableDef]) -> None:
        for definition in made:
            row = self.node.metadata.state.tables.get(definition.uuid)
            if row is not None and row.restoring:
                with suppress(NearQLError):  # else it goes when this node is started again
                    self.node.drop_table(row.table.name, if_exists=True)

    def _users(self, catalog: Catalog, plans: Sequence[_Plan]) -> tuple[str, ...]:
        """Users that are not there, with their roles and grants; they have no keys.

        Raises:
            Conflict: one can't be made; it says so, and that the tables are there.
        """
        uuids = {plan.old.table.uuid: plan.new.uuid for plan in plans}
        missing = [u for u in catalog.users if u.name not in self.node.metadata.state.access.users]
        for user in missing:
            try:
                self._user(user, uuids)
            except NearQLError as error:  # too late to take anything back
                raise Conflict(
                    f"The tables are restored, and are shown. User {user.name!r}, and those behind "
                    f"it, are not: {error.detail} Make them by hand.",
                    code=error.code,
                ) from error
        return tuple(user.name for user in missing)

    def _user(self, user: UserRow, uuids: Mapping[str, str]) -> None:
        tables = None if user.tables is None else [uuids[t] for t in user.tables if t in uuids]
        self.node.access.create_user(user.name, user.role, tables)
        for table, actions in user.grants.items():
            if table in uuids:
                definition = self.node.metadata.state.tables[uuids[table]].table
                self.node.access.change_grants(user.name, definition, list(actions), revoke=False)

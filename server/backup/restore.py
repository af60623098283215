"""Bring tables of a backup back, beside whatever is there.

    choose    which tables, under which names, as of when (`moment`); refuse names that are taken,
              and moments that the archive has not all of, before anything is made
    rebuild   each shard, from its backup and the log behind it
    make      new tables with new uuids, hidden (`cluster.metadata.restores`)
    fill      the rows go the way of all writes: logged, replicated, applied
    compare   hashes of what was rebuilt and of what the new table holds
    publish   all tables and their views, in one step

Until the last step nobody sees anything of it; if it fails, or its node dies, the hidden tables are
dropped. The backup's own tables, should they be there still, are not touched: a restore never
overwrites.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    InvalidRequest,
    NearQLError,
    NotFound,
    Unavailable,
    WriteUnknown,
)
from nearql.engine.named_query import ViewDef, dependents
from nearql.engine.schema import IndexDef, TableDef
from nearql.engine.shard.state import ShardState
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.table import Table
from nearql.engine.types import OnConflict
from nearql.server.backup.catalog import Catalog, CatalogTable, unpack_catalog
from nearql.server.backup.moment import (
    Finder,
    Found,
    History,
    Moment,
    ShardSource,
    lsns,
    milliseconds,
    moment_text,
)
from nearql.server.backup.rebuild import (
    Rebuilt,
    Stop,
    check_reached,
    fresh,
    hashes_of,
    load,
    pieces_of,
    replay,
)
from nearql.server.backup.repository import Alive, Repository
from nearql.server.backup.shipping import now_ms
from nearql.server.backup.take import Progress

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

SCRATCH = "restoring"  # folder of the data directory; emptied at start
_LOOK_S = 0.2  # between two looks for what other nodes ship
_PAUSE = threading.Event()  # never set
_ASKS = 5  # for the outcome of the last step
_LEVEL = 1  # the feature level that brought what a restore writes into metadata


@dataclass(frozen=True, slots=True)
class Wish:
    """What to restore. tables: names, None = all with views and users. rename: old -> new name.

    to_ms: the moment, by the clock; newest: the last one that the archive reaches; to_lsns: of one
    table's shards, in order. One of them at most; none = the instant of the backup. cluster: whose
    archive is meant, where a repository has several.
    """

    backup: str = "latest"
    tables: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    to_ms: int | None = None
    newest: bool = False
    to_lsns: tuple[int, ...] = ()
    cluster: str = ""


def wish_to(wish: Wish, to_time: str, to_lsn: str) -> Wish:
    """The same as of a moment. to_time: ISO 8601, or `latest`. to_lsn: one for each shard of the
    one table. Both empty: as of the backup.

    Raises:
        InvalidRequest: they don't go together. InvalidValue: one can't be read.
    """
    if to_time and to_lsn:
        raise InvalidRequest("A restore goes to a time or to an LSN, not to both.")
    if to_lsn:
        if wish.tables is None or len(wish.tables) != 1:
            raise InvalidRequest("An LSN is a place in one table's log: name that table alone.")
        return replace(wish, to_lsns=lsns(to_lsn))
    if to_time.lower() == "latest":
        return replace(wish, newest=True)
    return replace(wish, to_ms=milliseconds(to_time)) if to_time else wish


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
    shards: tuple[ShardSource, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """How far behind the backup; None: not at all."""

    moment: Moment | None
    history: History | None

    def definition(self, plan: _Plan, states: Sequence[ShardState]) -> TableDef:
        """The table with the columns that its rows had at the moment.

        Raises:
            Conflict: code `altered_then`: some shards had it, others not yet.
        """
        if self.moment is None or self.history is None:
            return plan.new
        versions = sorted({state.schema_version for state in states})
        if len(versions) > 1:
            raise Conflict(
                f"At that moment the columns of table {plan.old.table.name!r} were being altered: "
                "some of its shards had the change, others not yet. Choose a moment a second "
                "earlier or later.",
                code="altered_then",
            )
        found = self.history.definition(plan.old.table, versions[0])
        kept = {index.name.lower() for index in found.indexes}
        named = zip(plan.old.table.indexes, plan.new.indexes, strict=True)
        indexes = tuple(new for old, new in named if old.name.lower() in kept)
        return replace(plan.new, schema=found.schema, indexes=indexes)

    def next_number(self, plan: _Plan) -> int:
        """At least what identity numbers had come to."""
        return self.history.next_number(plan.old.table.uuid) if self.history is not None else 1


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it, for people and programs. backup: empty where nothing came from one. rows: by
    name. to: the moment, where it was not the backup's own. left_out: views that read a table which
    got another name.
    """

    backup: str
    rows: Mapping[str, int]
    views: tuple[str, ...]
    users: tuple[str, ...]
    to: str = ""
    left_out: tuple[str, ...] = ()


@dataclass
class Restore:
    """One restore. job: an id that no other has."""

    node: Node
    repository: Repository
    wish: Wish
    progress: Progress
    job: str
    _numbers: dict[str, int] = field(default_factory=dict)  # next identity number, by uuid

    def run(self) -> Restored:
        """Do it; blocks.

        Raises:
            NotFound: no such backup or table; code `archive_gap`, `archive_ends` or `no_archive`:
                the archive has not all up to the moment.
            Conflict: a name is taken, or the job was cancelled. Corruption: code `backup_damaged`.
            Unavailable: code `older_nodes`: some node would not understand the steps.
        """
        self._check_level()
        with self.repository.working("a restore") as alive:
            self.progress.step("choosing")
            moment, found = self._chosen()
            catalog = found.catalog
            plans = [*self._plans(found)]
            views, left_out = self._views(catalog, plans)
            made: list[TableDef] = []
            try:
                rows = {}
                for plan in plans:
                    rows[plan.new.name] = self._fill(plan, _Way(moment, found.history), made, alive)
                self._publish(views)
            except _Unsure as error:  # all is shown, or will be dropped with this process
                raise error.cause from error
            except BaseException:
                self._drop(made)
                raise
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)
            users = self._users(catalog, plans) if self.wish.tables is None else ()
            names = tuple(view.name for view in views)
            backup = found.manifest.id if found.manifest is not None else ""
            return Restored(backup, rows, names, users, _told(moment), left_out)

    def _check_level(self) -> None:
        """An older node would show tables at once, and its voter fail at the last step."""
        if self.node.member is not None and self.node.metadata.state.feature_level < _LEVEL:
            raise Unavailable(
                "Some node of the cluster runs a version that can't restore: upgrade it first. "
                "Right after a start, repeat this.",
                code="older_nodes",
            )

    # ---- Choosing -------------------------------------------------------------------------

    def _chosen(self) -> tuple[Moment | None, Found]:
        wish = self.wish
        if wish.to_ms is None and not wish.newest and not wish.to_lsns:
            return None, self._of_backup()
        archiver = self.node.backups.archiver
        archiver.finish_round()  # what was written a moment ago may be what is wanted
        until = time.monotonic() + archiver.patience_s
        while True:
            try:
                return self._found()
            except NotFound as error:
                is_past = wish.to_ms is not None and wish.to_ms < now_ms()
                late = time.monotonic() > until
                if error.code != "archive_ends" or not is_past or late or not self._is_own():
                    raise
            self.progress.advance(0)
            _PAUSE.wait(_LOOK_S)  # other nodes ship, too

    def _found(self) -> tuple[Moment, Found]:
        wish, own = self.wish, self.node.metadata.state.cluster_id
        finder = Finder(self.repository, own, wish.backup, wish.cluster)
        if wish.to_lsns:
            assert wish.tables is not None, "LSNs are one table's"
            return finder.at_lsns(wish.to_lsns, wish.tables[0])
        return finder.at(wish.to_ms, wish.tables)

    def _is_own(self) -> bool:
        """Whether the archive may be that of this cluster, which lives."""
        return self.wish.cluster in ("", self.node.metadata.state.cluster_id)

    def _of_backup(self) -> Found:
        """A backup as it is."""
        manifest = self.repository.backup(self.wish.backup)
        where = f"{self.repository.location}, backup {manifest.id}"
        catalog = unpack_catalog(self.repository.read_whole(manifest.catalog), where)
        shards = {
            table.uuid: tuple(ShardSource(shard.number, shard) for shard in table.shards)
            for table in manifest.tables
        }
        tables = catalog.chosen(
            self.wish.tables, f"Backup {manifest.id} has no table {{name}}; it has: {{known}}."
        )
        return Found(manifest, replace(catalog, tables=tables), shards)

    def _plans(self, found: Found) -> Iterator[_Plan]:
        chosen = found.catalog.tables
        names = [self._new_name(one.table.name) for one in chosen]
        for one, name in zip(chosen, names, strict=True):
            self._check_free(name, names)
            yield _Plan(one, self._definition(one.table, name), found.shards[one.table.uuid])

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

    def _views(
        self, catalog: Catalog, plans: Sequence[_Plan]
    ) -> tuple[tuple[ViewDef, ...], tuple[str, ...]]:
        """Views of a whole restore, each after what it reads, with the new uuids; and the names of
        those that can't come: their text names a table that has another name now.
        """
        if self.wish.tables is not None:
            return (), ()
        renamed = [p.old.table.uuid for p in plans if p.old.table.name != p.new.name]
        broken = dependents(renamed, catalog.views)
        uuids = {plan.old.table.uuid: plan.new.uuid for plan in plans}
        made: list[ViewDef] = []
        left = [view for view in catalog.views if view not in broken]
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
        return tuple(made), tuple(view.name for view in broken)

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

    def _fill(self, plan: _Plan, way: _Way, made: list[TableDef], alive: Alive) -> int:
        """Rebuild, make and fill a table; its rows. made: gets its definition, for who must drop it
        if something fails.
        """
        self.progress.step(f"rebuilding {plan.new.name}")
        folder = self._scratch / plan.new.uuid
        try:
            rebuilt = self._rebuilt(plan, way, folder, alive)
            made.append(rebuilt.definition)  # before: it may be there although making it failed
            self._make(rebuilt.definition)
            self._numbers[plan.new.uuid] = max(
                plan.old.next_number, way.next_number(plan), rebuilt.highest_number() + 1
            )
            table = self.node.table(plan.new.uuid)
            self.progress.step(f"filling {plan.new.name}")
            self.progress.expect(rebuilt.nbytes)
            for batch in rebuilt.batches():
                table.insert(batch, OnConflict.ERROR)
                self.progress.advance(batch.nbytes)
                alive()
            self.progress.step(f"comparing {plan.new.name}")
            self._compare(rebuilt, table)
            return rebuilt.rows
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _rebuilt(self, plan: _Plan, way: _Way, folder: Path, alive: Alive) -> Rebuilt:
        def between() -> None:
            self.progress.advance(0)
            alive()

        states = [
            self._state(plan, source, way, folder / str(source.number), between)
            for source in plan.shards
        ]
        return Rebuilt(way.definition(plan, states), states, self.node.context)

    def _state(
        self, plan: _Plan, source: ShardSource, way: _Way, directory: Path,
        between: Callable[[], None],
    ) -> ShardState:  # fmt: skip
        """One shard: its backup, then the archive behind it up to the moment."""
        context, shard, schema = self.node.context, source.base, plan.new.schema
        if shard is None:
            state, store = fresh(source.number, schema, directory, context)
        else:
            state, store = load(self.repository, shard, schema, directory, context, between=between)
            replay(state, store, pieces_of(self.repository, shard, between), Stop())
            check_reached(state, shard)
        if way.moment is not None and way.history is not None:
            self.progress.expect(sum(part.piece.size for part in source.parts))
            link = bytes.fromhex(shard.link) if shard is not None else ZERO_LINK
            records = way.history.archive.records(
                source.parts, link, shard.epoch if shard is not None else 0, self._advance(between)
            )
            replay(state, store, records, way.moment.stop(source.number))
        return state

    def _advance(self, between: Callable[[], None]) -> Callable[[int], None]:
        def advance(nbytes: int) -> None:
            self.progress.advance(nbytes)
            between()

        return advance

    def _compare(self, rebuilt: Rebuilt, table: Table) -> None:
        views = [shard.read_view() for shard in table.shards]
        definition = rebuilt.definition
        if hashes_of(views, definition.schema) != rebuilt.hashes():
            raise Corruption(
                f"What was written into table {definition.name!r} is not what the backup holds; "
                "nothing was restored. This is a bug: please report it.",
                code="restore_differs",
            )

    def _publish(self, views: tuple[ViewDef, ...]) -> None:
        self.progress.step("publishing")
        command = PublishRestored(
            request_id=uuid.uuid4().hex, restoring=self._by, numbers=dict(self._numbers),
            views=views,
        )  # fmt: skip
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


def _told(moment: Moment | None) -> str:
    """The moment for people."""
    if moment is None:
        return ""
    if moment.at_ms is not None:
        return moment_text(moment.at_ms)
    return "LSN " + ", ".join(str(lsn) for lsn in moment.lsns)

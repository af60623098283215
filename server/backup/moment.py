"""A moment between two backups: which backup, which pieces of the archive, which definitions.

    newest backup of the cluster before it -> the archive behind it, up to the moment, by shard
    metadata as it was then                -> which tables there were, under which names

A table that was made after the backup begins with its first record. Which columns rows had is told
by the log itself: the change of a schema is a record among the rows.

Everything is looked up, by names of objects alone, before anything is read or made: an archive that
has a gap, or ends before, is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from nearql.engine.errors import Conflict, InvalidRequest, InvalidValue, NotFound
from nearql.engine.schema import IndexDef, TableDef
from nearql.server.backup.archive import (
    Archive,
    CatalogAt,
    Known,
    Part,
    Reached,
    clusters,
    path,
    reach_of,
    shard_key,
)
from nearql.server.backup.catalog import Catalog, CatalogTable, unpack_catalog
from nearql.server.backup.manifest import BackupManifest, ShardBackup
from nearql.server.backup.rebuild import Stop
from nearql.server.backup.repository import Repository

_LAST_MS = 253_370_764_800_000  # the year 9999: in any zone it can be written


@dataclass(frozen=True, slots=True)
class Moment:
    """at_ms: of the primaries' clocks. lsns: of one table's shards, in order. One of both."""

    at_ms: int | None = None
    lsns: tuple[int, ...] = ()

    def stop(self, shard: int) -> Stop:
        """Where to stop in this shard's log."""
        return Stop(lsn=self.lsns[shard]) if self.lsns else Stop(at_ms=self.at_ms)


@dataclass(frozen=True, slots=True)
class ShardSource:
    """Where a shard's state comes from. base: None = its log begins with its first record."""

    number: int
    base: ShardBackup | None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be restored. manifest: None where nothing comes from a backup."""

    manifest: BackupManifest | None
    catalog: Catalog
    shards: Mapping[str, tuple[ShardSource, ...]]  # by the table's uuid
    history: History | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Definitions of tables over time, the oldest first."""

    catalogs: Sequence[tuple[int, Catalog]]
    archive: Archive

    def definition(self, table: TableDef, version: int) -> TableDef:
        """The table with the columns that its rows had. version: of the schema; 0 = its first.

        Raises:
            NotFound: code `archive_gap`: nobody kept it.
        """
        known = [
            found.table
            for _, catalog in self.catalogs
            for found in catalog.tables
            if found.table.uuid == table.uuid
        ]
        wanted = version or min((one.schema.version for one in known), default=0)
        if table.schema.version == wanted:
            return table
        for one in reversed(known):
            if one.schema.version == wanted:
                return replace(one, name=table.name, indexes=_kept(table.indexes, one))
        raise NotFound(
            f"The archive has not kept version {version} of the columns of table {table.name!r}: "
            "it was altered twice while nobody archived. Choose a moment after that, or before.",
            code="archive_gap", sqlstate="58P01",
        )  # fmt: skip

    def next_number(self, table_uuid: str) -> int:
        """At least what was given out at the moment."""
        return max(
            (
                t.next_number
                for _, c in self.catalogs
                for t in c.tables
                if t.table.uuid == table_uuid
            ),
            default=1,
        )


def _kept(indexes: Sequence[IndexDef], table: TableDef) -> tuple[IndexDef, ...]:
    """Those on columns that there are."""
    return tuple(index for index in indexes if index.column.lower() in table.schema.by_name)


class Finder:
    """Finds what to restore for a moment."""

    def __init__(
        self, repository: Repository, own_cluster: str, backup: str = "latest", cluster: str = ""
    ) -> None:
        """own_cluster: of the node that asks. backup: an id, or `latest`. cluster: the one that is
        meant, where that is not clear otherwise.
        """
        self._repository = repository
        self._named = None if backup == "latest" else repository.backup(backup)
        wanted = self._named.cluster_id if self._named else self._cluster(own_cluster, cluster)
        self._archive = Archive(repository, wanted)
        self._pieces = self._archive.all_pieces()
        notes = self._archive.notes()
        self._noted = self._archive.reached(notes)
        self._known = _joined([one for noted in notes for one in noted.known])
        self._catalogs = self._archive.catalogs()

    def _cluster(self, own: str, wanted: str) -> str:
        found = clusters(self._repository.store)
        if wanted in found or (own in found and not wanted):
            return wanted or own
        if len(found) == 1 and not wanted:
            return found[0]
        if not found:
            raise NotFound(
                f"{self._repository.location} has no archive of a log: a restore goes to the "
                "instant of a backup only. Set backup.archive of the nodes for the next time.",
                code="no_archive", sqlstate="58P01",
            )  # fmt: skip
        raise Conflict(
            f"{self._repository.location} has logs of {', '.join(found)}: name the cluster that "
            "is meant with --cluster, or one of its backups.",
            code="several_archives",
        )

    # ---- By time ---------------------------------------------------------------------------

    def at(self, at_ms: int | None, tables: Sequence[str] | None) -> tuple[Moment, Found]:
        """What was there at this moment. at_ms: None = the newest that the archive reaches.

        tables: names, None = all.

        Raises:
            NotFound: code `archive_gap` or `archive_ends`.
        """
        if at_ms is None:
            at_ms = self.newest(tables)
        base = self._base(at_ms)
        history = self._history(base)
        catalog = self._catalog_at(history, at_ms)
        if base is None or base.cut_ms != at_ms:
            self._check_known(at_ms)
        chosen = catalog.chosen(
            tables, f"At {moment_text(at_ms)} there was no table {{name}}; there were: {{known}}."
        )
        moment = Moment(at_ms)
        return moment, self._found(moment, base, replace(catalog, tables=chosen), history)

    def newest(self, tables: Sequence[str] | None) -> int:
        """The newest moment that all shards of these tables reach. Raises as `at`."""
        if not self._catalogs:
            raise _no_metadata(self._repository)
        newest = self._archive.catalog(self._catalogs[-1])
        now = max((until for _, until in self._known), default=self._catalogs[-1].at_ms)
        base = self._base(None)
        reaches = []
        for table in newest.chosen(
            tables, "In the newest metadata there was no table {name}; there were: {known}."
        ):
            for number in range(table.table.shards):
                source = self._source(table.table, number, base, None)
                reaches.append(self._reach(table.table, source, base) or now)
        return min([now, *reaches])

    def _base(self, at_ms: int | None) -> BackupManifest | None:
        """The newest backup of this cluster up to a moment; the one that was named."""
        if self._named is not None:
            if at_ms is not None and self._named.cut_ms > at_ms:
                raise InvalidRequest(
                    f"Backup {self._named.id} is of {moment_text(self._named.cut_ms)}, which is "
                    f"after {moment_text(at_ms)}: leave --backup out, or name an earlier one.",
                    code="backup_too_late",
                )
            return self._named
        for name in reversed(self._repository.ids()):
            if at_ms is None or _time_of(name) <= at_ms:
                found = self._repository.backup(name)
                if found.cluster_id == self._archive.cluster_id:
                    return found
        return None

    def _history(self, base: BackupManifest | None) -> History:
        catalogs = [(one.at_ms, self._archive.catalog(one)) for one in self._needed(base)]
        if base is not None:
            where = f"{self._repository.location}, backup {base.id}"
            mine = unpack_catalog(self._repository.read_whole(base.catalog), where)
            place = sum(at_ms <= base.cut_ms for at_ms, _ in catalogs)
            catalogs.insert(place, (base.cut_ms, mine))
        if not catalogs:
            raise _no_metadata(self._repository)
        return History(catalogs, self._archive)

    def _needed(self, base: BackupManifest | None) -> Sequence[CatalogAt]:
        """Those from the backup on, and the one before: rows may lag behind it."""
        if base is None:
            return self._catalogs
        before = sum(one.at_ms <= base.cut_ms for one in self._catalogs)
        return self._catalogs[max(0, before - 1) :]

    def _catalog_at(self, history: History, at_ms: int) -> Catalog:
        """As it was."""
        past = [catalog for since, catalog in history.catalogs if since <= at_ms]
        if not past:
            raise NotFound(
                f"The archive begins at {moment_text(history.catalogs[0][0])}; nothing is known of "
                f"{moment_text(at_ms)}. Choose a later moment.",
                code="archive_gap", sqlstate="58P01",
            )  # fmt: skip
        return past[-1]

    def _check_known(self, at_ms: int) -> None:
        """Refuse a moment that nobody vouches for: which tables there were is not known."""
        if any(since <= at_ms <= until for since, until in self._known):
            return
        before = max((until for _, until in self._known if until < at_ms), default=None)
        after = min((since for since, _ in self._known if since > at_ms), default=None)
        if after is None:
            until = f" at {moment_text(before)}" if before is not None else " before that"
            raise NotFound(
                f"The archive of metadata ends{until}: tables that were made since are not known. "
                "Restore to a moment up to that, or to `latest`; nodes that run may ship more "
                "soon.",
                code="archive_ends", sqlstate="58P01",
            )  # fmt: skip
        told = f"between {moment_text(before)} and" if before is not None else "before"
        raise NotFound(
            f"The archive lacks what became of metadata {told} {moment_text(after)}: no node that "
            "led it could ship it. Which tables there were then is not known. Restore to another "
            "moment, to the instant of a backup, or one table to an LSN.",
            code="archive_gap", sqlstate="58P01",
        )  # fmt: skip

    # ---- By LSN ----------------------------------------------------------------------------

    def at_lsns(self, lsns: tuple[int, ...], table: str) -> tuple[Moment, Found]:
        """One table, with its shards at these LSNs.

        Raises:
            NotFound: code `archive_gap` or `archive_ends`; no such table.
            InvalidRequest: another number of shards.
        """
        found = self._last_named(table)
        if len(lsns) != found.table.shards:
            raise InvalidRequest(
                f"Table {found.table.name!r} has {found.table.shards} shards: give an LSN for "
                f"each, in order; {len(lsns)} were given."
            )
        base = self._base_for(found.table, lsns)
        moment, history = Moment(lsns=lsns), self._history(base)
        return moment, self._found(moment, base, Catalog((found,)), history)

    def _last_named(self, name: str) -> CatalogTable:
        """The newest table of this name."""
        catalogs: Iterator[Catalog] = (self._archive.catalog(one) for one in self._catalogs[::-1])
        for catalog in catalogs:
            if (found := catalog.named(name)) is not None:
                return found
        raise NotFound(
            f"The archive in {self._repository.location} never had a table {name[:200]!r}.",
            code="undefined_table",
        )

    def _base_for(self, table: TableDef, lsns: tuple[int, ...]) -> BackupManifest | None:
        """The newest backup that has this table, and none of its shards beyond these LSNs."""
        ids = [self._named.id] if self._named else self._repository.ids()[::-1]
        for name in ids:
            backup = self._repository.backup(name)
            of_it = backup.cluster_id == self._archive.cluster_id
            shards = next((t.shards for t in backup.tables if t.uuid == table.uuid), None)
            if of_it and shards and all(s.lsn <= lsns[s.number] for s in shards):
                return backup
        return None

    # ---- Both ------------------------------------------------------------------------------

    def _found(
        self, moment: Moment, base: BackupManifest | None, catalog: Catalog, history: History
    ) -> Found:
        shards: dict[str, tuple[ShardSource, ...]] = {}
        for table in catalog.tables:
            definition, sources = table.table, []
            for number in range(definition.shards):
                source = self._source(definition, number, base, moment.stop(number))
                self._check(definition, source, base, moment.stop(number))
                sources.append(source)
            shards[definition.uuid] = tuple(sources)
        return Found(base, catalog, shards, history)

    def _source(
        self, table: TableDef, number: int, base: BackupManifest | None, stop: Stop | None
    ) -> ShardSource:
        backed = None
        if base is not None:
            shards = next((t.shards for t in base.tables if t.uuid == table.uuid), ())
            backed = next((shard for shard in shards if shard.number == number), None)
        pieces = self._pieces.get((table.uuid, number), [])
        parts = path(pieces, backed.lsn if backed else 0, backed.epoch if backed else 0)
        return ShardSource(number, backed, tuple(_up_to(parts, stop)))

    def _reach(
        self, table: TableDef, source: ShardSource, base: BackupManifest | None
    ) -> int | None:
        noted = self._noted.get(shard_key(table.uuid, source.number), [])
        return reach_of(source.parts, _place(source.base, base), noted)

    def _check(
        self, table: TableDef, source: ShardSource, base: BackupManifest | None, stop: Stop
    ) -> None:
        """Refuse what is not there to its end."""
        end = source.parts[-1].last if source.parts else (source.base.lsn if source.base else 0)
        if stop.lsn is not None:
            reached = end >= stop.lsn
        else:
            assert stop.at_ms is not None
            is_past = bool(source.parts) and _is_past(source.parts[-1], stop.at_ms)
            reached = is_past or (self._reach(table, source, base) or -1) >= stop.at_ms
        if not reached:
            pieces = self._pieces.get((table.uuid, source.number), [])
            later = min((piece.first for piece in pieces if piece.first > end + 1), default=None)
            if later is not None:
                raise self._gap(table, source, end, later)
            raise self._ends(table, source, base, end)

    def _gap(self, table: TableDef, source: ShardSource, end: int, later: int) -> NotFound:
        return NotFound(
            f"The archive of table {table.name!r}, shard {source.number}, lacks the records "
            f"between LSN {end} and {later}{_until(source)}. Restore to a moment before that, or "
            "to one after the first backup behind it.",
            code="archive_gap", sqlstate="58P01", shard=source.number, lsn=end,
        )  # fmt: skip

    def _ends(
        self, table: TableDef, source: ShardSource, base: BackupManifest | None, end: int
    ) -> NotFound:
        reach = self._reach(table, source, base)
        until = f", at {moment_text(reach)}" if reach is not None else ""
        return NotFound(
            f"The archive of table {table.name!r}, shard {source.number}, ends with LSN {end}"
            f"{until}: restore to a moment up to that, or to `latest`; nodes that run may ship "
            "more soon.",
            code="archive_ends", sqlstate="58P01", shard=source.number, lsn=end,
        )  # fmt: skip


def _joined(known: Sequence[Known]) -> list[tuple[int, int]]:
    """Stretches of time, none of which touches another, the oldest first."""
    found: list[tuple[int, int]] = []
    for one in sorted(known, key=lambda one: one.since_ms):
        if found and one.since_ms <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], one.until_ms)
        else:
            found.append((one.since_ms, one.until_ms))
    return found


def _up_to(parts: Sequence[Part], stop: Stop | None) -> Iterator[Part]:
    """What must be read to see that the stop is there."""
    for part in parts:
        if stop is not None and stop.lsn is not None and part.first > stop.lsn:
            return
        yield part
        if stop is not None and stop.at_ms is not None and _is_past(part, stop.at_ms):
            return


def _is_past(part: Part, at_ms: int) -> bool:
    """Whether a record of it is later: then all up to the moment is there."""
    return part.last == part.piece.last and part.piece.newest_ms > at_ms


def _place(shard: ShardBackup | None, base: BackupManifest | None) -> Reached | None:
    if shard is None or base is None:
        return None
    return Reached(shard.lsn, shard.epoch, "", base.cut_ms)


def _until(source: ShardSource) -> str:
    if not source.parts:
        return ""
    return f", after {moment_text(source.parts[-1].piece.newest_ms)}"


def _no_metadata(repository: Repository) -> NotFound:
    return NotFound(
        f"The archive in {repository.location} has no metadata, and there is no backup before the "
        "moment: what tables there were is not known.",
        code="archive_gap", sqlstate="58P01",
    )  # fmt: skip


def _time_of(backup_id: str) -> int:
    """When a backup was cut, in ms, from its id."""
    at = datetime.strptime(backup_id.rpartition("-")[0], "%Y%m%dt%H%M%S.%fz").replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)


def moment_text(at_ms: int) -> str:
    """For people, and for --to-time."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(text: str) -> int:
    """A time in ISO 8601 as milliseconds since 1970; without a zone it is in UTC.

    Raises:
        InvalidValue: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidValue(f"{text[:80]!r} is no time such as 2026-11-23T10:30:00Z.") from None
    found = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if not 0 <= found < _LAST_MS:
        raise InvalidValue(f"{text[:80]!r} is no time between the years 1970 and 9998.")
    return found


def lsns(text: str) -> tuple[int, ...]:
    """Places in logs, of each shard one, with commas between.

    Raises:
        InvalidValue: they are none.
    """
    found = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in found):
        raise InvalidValue(f"{text[:80]!r} is no LSN, nor one for each shard, such as 1200,1187.")
    return tuple(int(part) for part in found)

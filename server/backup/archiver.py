"""The archiver of a node: a thread that ships the log of every shard that it orders, all the time.

A round, each `backup.archive_interval_ms`: metadata that changed (the leader) -> each shard's
committed records (its primary) -> a note of how far that is. Nodes that merely have copies keep
their logs as far back as the notes of others say is not shipped yet: they may be the next primary.

It never stands in the way: where the repository is away, writes go on and the log grows, up to
`backup.archive_keep` a shard; behind that a gap is made, and told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.replication.transfer.pace import Pace
from nearql.engine.errors import NearQLError, NotFound
from nearql.engine.table import Table
from nearql.server.backup.archive import Archive, Reached
from nearql.server.backup.catalogs import CatalogShipper
from nearql.server.backup.orphans import lost_tails
from nearql.server.backup.places import repository_for
from nearql.server.backup.repository import Repository, not_a_repository
from nearql.server.backup.shipping import GivenUp, Shipper, is_of_the_repository, now_ms
from nearql.server.backup.sources import Pins
from nearql.server.copies import TRASH

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

_HUNG = "The repository does not answer; what was not shipped is left behind."
ABSENT_MS = 60_000  # that a node which lives may have nothing in the archive
SHRINK_S = 3600.0  # between two looks for notes that nobody needs any more


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What a node tells of its archive. behind: records and seconds, of the shards it orders."""

    on: bool = False
    records: int = 0
    bytes: int = 0
    behind: int = 0
    behind_s: float = 0.0
    gaps: int = 0
    failures: int = 0
    stopped: int = 0
    elsewhere: int = 0
    unkept: int = 0


class Archiver:
    """Of one node. Thread-safe. Without `backup.archive` it does nothing."""

    def __init__(self, node: Node, pins: Pins) -> None:
        self._node, self._pins = node, pins
        self._on = node.config.backup.archive
        rate = node.config.backup.archive_rate
        self._pace = Pace(rate) if rate else None
        self._shippers: dict[int, tuple[Table, list[Shipper]]] = {}  # by identity of the table
        self._working = threading.Lock()  # one round at a time
        self._closed, self._wake = threading.Event(), threading.Event()
        self._until = 0.0  # of the last round
        self._late = False  # somebody waited in vain, and no work has ended since
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)
        self._catalogs = CatalogShipper(node)
        self._known_until = self._shrunk_at = 0.0
        self._until_by_key: dict[str, int] = {}  # as noted in the archive
        self._seen: Metadata | None = None
        self._archive: Archive | None = None
        self._noted: dict[str, Reached] = {}
        self._gaps: dict[int, int] = {}  # by identity of the shipper: as many are noted
        self._absent: dict[str, int] = {}  # nodes that live and have no notes -> since when, ms
        self._elsewhere: list[str] = []  # those for too long
        self._dropped: dict[str, set[int]] = {}  # tables -> shards that this node ordered
        self._told = ""  # the last reason for waiting that was logged
        self._failures = 0
        self._gone = [0, 0, 0]  # records, bytes, gaps of shards that are closed
        self._looking = threading.Lock()  # around `_shippers`
        self._looked_for_orphans = False
        self._unkept: set[int] = set()  # by identity: shippers whose log is not kept any more

    # ---- Life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, where the configuration says so."""
        if self._on:
            self._node.metadata.watch(self._saw)
            self._saw(self._node.metadata.state)
            self._node.copies.on_leaving = self.finish
            self._look_for_tables()  # their logs are kept from now on
            self._node.copies.on_entering = self._look_for_tables
            self._thread.start()

    def close(self) -> None:
        """Ship what is left, for `backup.archive_wait_ms` at most, and end. A repository that never
        answers keeps the thread: it is left alone, and ends with the process.
        """
        self._until = time.monotonic() + self._wait_s
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self._wait_s)
            if self._thread.is_alive():
                log.error("archive_left", reason=_HUNG, behind=self.status().behind)

    @property
    def _wait_s(self) -> float:
        return self._node.config.backup.archive_wait_ms / 1000

    def round_soon(self) -> None:
        """Don't wait for the next round's time."""
        self._wake.set()

    def finish_round(self) -> None:
        """Do a round now, with its failure told as ever; wait for it as long as one may."""
        if self._on:
            until = time.monotonic() + self._wait_s
            self._within(lambda: self._try(lambda: time.monotonic() > until))

    def _within(self, work: Callable[[], None]) -> bool:
        """Do it in a thread of its own, for `backup.archive_wait_ms` at most; whether it ended. Who
        comes after somebody who waited in vain does not wait: many tables may be dropped.
        """
        if self._late:
            return False
        thread = threading.Thread(target=work, name="archiver-once", daemon=True)
        thread.start()
        thread.join(self._wait_s)
        self._late = self._late or thread.is_alive()
        return not thread.is_alive()

    @property
    def patience_s(self) -> float:
        """How long it takes at most until what is written now is shipped, if nothing fails."""
        interval_s = self._node.config.backup.archive_interval_ms / 1000
        return min(5.0, self._wait_s) + 2 * interval_s if self._on else 0.0

    def _run(self) -> None:
        interval_s = self._node.config.backup.archive_interval_ms / 1000
        while not self._closed.is_set():
            self._try(self._closed.is_set)
            self._wake.wait(interval_s)
            self._wake.clear()
        self._try(lambda: time.monotonic() > self._until)

    def _try(self, given_up: GivenUp) -> None:
        """A round whose failure is told; none where another one takes too long."""
        if not self._working.acquire(timeout=self._wait_s):
            self._late = True
            return
        try:
            self._round(given_up)
            self._told = ""
        except NearQLError as error:
            self._failed(error)
        except Exception:  # a fault of ours must not end archiving for good
            self._failures += 1
            log.exception("archive_broke")
        finally:
            self._late = False
            self._working.release()

    def _failed(self, error: NearQLError) -> None:
        self._failures += 1
        if error.detail != self._told:
            self._told = error.detail
            log.warning("archive_waits", code=error.code, reason=error.detail)

    def finish(self, table_uuid: str) -> None:
        """A table's data here is about to be closed for good: ship what is left of it, if that can
        be done soon; else what is lost is counted, and told.
        """
        mine = self._ordered(table_uuid)
        if not mine:
            return
        self._look_for_tables()
        ending = [one for one in self._of(table_uuid) if one.number in mine]
        if not self._within(lambda: self._finish(ending)):
            log.warning("archive_waits", reason=_HUNG, table=table_uuid)
        for shipper in ending:
            shipper.lose()

    def _finish(self, ending: list[Shipper]) -> None:
        until = time.monotonic() + self._wait_s
        if not self._working.acquire(timeout=self._wait_s):
            self._late = True
            return
        try:
            archive = self._opened()
            for shipper in ending:
                shipper.finish(archive, lambda: time.monotonic() > until)
                if (reached := shipper.reached) is not None:
                    self._noted[shipper.key] = reached
            self._put_noted(archive)
        except NearQLError as error:
            self._failed(error)
        except Exception:  # as in a round
            self._failures += 1
            log.exception("archive_broke")
        finally:
            self._late = False
            self._working.release()

    def _ordered(self, table_uuid: str) -> set[int]:
        """Shards of a dropped table whose primary this node was; none while it is there."""
        found, seen = self._dropped.pop(table_uuid, None), self._seen
        if (
            found is None
            and seen is not None
            and table_uuid not in self._node.metadata.state.tables
        ):
            row = seen.tables.get(table_uuid)
            return self._mine(row) if row is not None and not row.restoring else set()
        return found or set()

    def _mine(self, row: TableRow) -> set[int]:
        me = self._node.node_id
        return {number for number, shard in enumerate(row.shards) if shard.primary == me}

    # ---- A round ---------------------------------------------------------------------------

    def _round(self, given_up: GivenUp) -> None:
        self._look_for_tables()  # before anything can fail: their logs are kept from now on
        self._catalogs.confirm()
        archive = self._opened()
        self._count_lost_tails(archive)
        try:
            self._ship_all(archive, given_up)
        finally:
            self._check_place(archive)

    def _count_lost_tails(self, archive: Archive) -> None:
        """Once in a life: of tables that were dropped just before the last one was killed."""
        if self._looked_for_orphans:
            return
        node = self._node
        trash = node.config.node.data_dir.absolute() / TRASH
        for tail in lost_tails(trash, archive, node.context.fs, node.metadata.state.tables):
            self._gone[2] += 1
            log.error(
                "archive_gap", table=tail.table, shard=tail.shard, after_lsn=tail.archived_lsn,
                next_lsn=None, last_lsn=tail.last_lsn,
            )  # fmt: skip
        self._looked_for_orphans = True

    def _ship_all(self, archive: Archive, given_up: GivenUp) -> None:
        known = self._catalogs.version
        self._catalogs.ship(archive)
        if self._catalogs.version != known:
            self._put_noted(archive)  # at once: who is killed now lets no time be lost
        failed: NearQLError | None = None
        for shipper in self._all():
            if given_up():
                break
            try:
                shipper.round(archive, given_up)
            except NearQLError as error:
                if is_of_the_repository(error):
                    raise
                failed = error  # of this shard; the others go on
            self._note(shipper)
            if shipper.leads and not shipper.behind:
                self._unkept.discard(id(shipper))
        self._put_noted(archive)
        self._learn(archive)
        if failed is not None:
            raise failed

    def _opened(self) -> Archive:
        """The archive; found, and its notes read, at the first use."""
        if self._archive is None:
            repository = repository_for("", self._node.config.backup)
            archive = Archive(repository, self._node.metadata.state.cluster_id)
            noted = archive.noted_by(self._node.node_id)
            self._noted = {**noted.shards, **self._noted}
            self._catalogs.begin(noted.known)
            self._archive, self._shrunk_at = archive, -SHRINK_S
        self._check_place(self._archive)
        return self._archive

    def _check_place(self, archive: Archive) -> None:
        """What is mounted, or reached, must still be the same repository: an empty folder in its
        place takes everything, and keeps nothing.

        Raises:
            NotFound: code `not_a_repository`; shippers begin with looking what is there.
        """
        repository = archive.repository
        try:
            if Repository.open(repository.store).id != repository.id:
                raise not_a_repository(repository.location)
        except NotFound:
            self._catalogs.look_again()
            for shipper in self._all():
                shipper.forget()
            raise

    def _look_for_tables(self) -> None:
        """Shippers for every table that is open here; those of others go."""
        with self._looking:
            tables = list(self._node.copies.tables.values())
            self._pins.keep(tables)
            living = {id(table) for table in tables}
            for key in [key for key in self._shippers if key not in living]:
                _, shippers = self._shippers.pop(key)
                for shipper in shippers:
                    self._gaps.pop(id(shipper), None)
                    self._unkept.discard(id(shipper))
                    self._gone[0] += shipper.records
                    self._gone[1] += shipper.bytes
                    self._gone[2] += shipper.gaps
            for table in tables:
                if id(table) not in self._shippers:
                    self._shippers[id(table)] = table, list(self._made(table))

    def _made(self, table: Table) -> Iterator[Shipper]:
        limit = self._node.config.backup.archive_keep
        fs = self._node.context.fs if self._node.member is None else None
        for number, shard in enumerate(table.shards):
            copy = table.copies[number] if table.copies else None
            shipper = Shipper(table.definition.uuid, shard, copy, self._pace)
            if (known := self._noted.get(shipper.key)) is not None:
                shipper.learn(known)
            pins, _ = self._pins.of(shard, fs)
            pins.add(lambda shipper=shipper: self._keeps(shipper, limit))  # type: ignore[misc]
            yield shipper

    def _keeps(self, shipper: Shipper, limit: int) -> int | None:
        """Writes come first: a full disk keeps no log for the archive."""
        context, directory = self._node.context, self._node.config.node.data_dir.absolute()
        reason = ""
        if context.fs.free_bytes(directory) < 2 * context.settings.disk_reserve_bytes:
            reason = "the disk is nearly full"
        elif shipper.log_bytes > limit:
            reason = f"the log has more than backup.archive_keep, {limit} bytes"
        wanted = shipper.keeps()
        if reason and wanted is not None and wanted <= shipper.written:
            self._give_up(shipper, reason)
        return None if reason else wanted

    def _give_up(self, shipper: Shipper, reason: str) -> None:
        """A gap is made now, and is counted when shipping goes on; it is told at once."""
        if id(shipper) not in self._unkept:
            self._unkept.add(id(shipper))
            log.error(
                "archive_gives_up", table=shipper.table, shard=shipper.number, reason=reason,
                after_lsn=max(0, shipper.lsn),
            )  # fmt: skip

    def _all(self) -> list[Shipper]:
        return [shipper for _, shippers in list(self._shippers.values()) for shipper in shippers]

    def _of(self, table_uuid: str) -> list[Shipper]:
        return [shipper for shipper in self._all() if shipper.table == table_uuid]

    # ---- Notes -----------------------------------------------------------------------------

    def _note(self, shipper: Shipper) -> None:
        """What is known of a shard now; what was known at a gap stays beside it."""
        last = self._noted.get(shipper.key)
        if shipper.gaps > self._gaps.get(id(shipper), 0):
            self._gaps[id(shipper)] = shipper.gaps
            if last is not None:
                self._noted[f"{shipper.key}@{last.lsn}"] = last
        if shipper.leads and (reached := shipper.reached) is not None:
            self._noted[shipper.key] = reached

    def _put_noted(self, archive: Archive) -> None:
        self._shrink(archive)
        known = self._catalogs.known
        if self._noted or known or self._node.member is not None:
            archive.put_reached(self._node.node_id, now_ms(), self._noted, known)
            self._known_until = max((one.until_ms for one in known), default=0)
            self._until_by_key = {key: one.until_ms for key, one in self._noted.items()}

    def _shrink(self, archive: Archive) -> None:
        """Now and then, forget notes that are older than what the archive still reaches."""
        if time.monotonic() - self._shrunk_at < SHRINK_S:
            return
        living, oldest = self._node.metadata.state.tables, archive.catalogs()[:1]
        since_ms = oldest[0].at_ms if oldest else 0
        self._noted = {
            key: reached for key, reached in self._noted.items()
            if key.partition("/")[0] in living or reached.until_ms >= since_ms
        }  # fmt: skip
        self._catalogs.shrink(since_ms)
        self._shrunk_at = time.monotonic()

    def _look_for_nodes(self, archive: Archive) -> None:
        """Every node that lives must write its notes here, too: else it archives elsewhere, or not
        at all, and what it would ship as a primary is missing.
        """
        member = self._node.member
        if member is None:
            return
        alive, now = member.cluster.alive(), now_ms()
        absent = alive - archive.nodes()
        self._absent = {node: self._absent.get(node, now) for node in absent}
        elsewhere = sorted(n for n, since in self._absent.items() if now - since > ABSENT_MS)
        if elsewhere and elsewhere != self._elsewhere:
            names = [self._node.metadata.state.nodes[node].name for node in elsewhere]
            log.error("archive_elsewhere", nodes=names, place=archive.repository.location)
        self._elsewhere = elsewhere

    def _learn(self, archive: Archive) -> None:
        """What other nodes have shipped of shards that this one has copies of."""
        self._look_for_nodes(archive)
        following = [shipper for shipper in self._all() if not shipper.leads]
        if not following:
            return
        noted = archive.reached()
        for shipper in following:
            for reached in noted.get(shipper.key, ()):
                shipper.learn(reached)

    # ---- Metadata --------------------------------------------------------------------------

    def _saw(self, state: Metadata) -> None:
        """Called with each new state, by the thread that applies it: it must be quick."""
        seen, self._seen = self._seen, state
        if seen is not None:
            for uuid, row in seen.tables.items():
                if uuid not in state.tables and not row.restoring and (mine := self._mine(row)):
                    self._dropped[uuid] = mine
        if self._catalogs.saw(state):
            self._wake.set()

    # ---- What it tells ---------------------------------------------------------------------

    def reaches(self, at_ms: int) -> bool:
        """Whether the archive has everything up to this time of all that this node orders."""
        tables = self._node.copies.tables.values()
        led = [shipper for shipper in self._all() if shipper.leads]
        shards = sum(len(table.shards) for table in tables)
        complete = self._node.member is not None or len(led) == shards
        known = not self._catalogs.leads or self._known_until >= at_ms
        return complete and known and all(self._until_by_key.get(s.key, 0) >= at_ms for s in led)

    def status(self) -> ArchiveStatus:
        """Now."""
        if not self._on:
            return ArchiveStatus()
        found = self._all()
        led = [shipper for shipper in found if shipper.leads]
        return ArchiveStatus(
            True,
            records=self._gone[0] + sum(shipper.records for shipper in found),
            bytes=self._gone[1] + sum(shipper.bytes for shipper in found),
            behind=sum(shipper.behind for shipper in led),
            behind_s=max((shipper.behind_ms for shipper in led), default=0) / 1000,
            gaps=self._gone[2] + sum(shipper.gaps for shipper in found) + self._catalogs.gaps,
            failures=self._failures,
            stopped=sum(bool(shipper.stopped) for shipper in led),
            elsewhere=len(self._elsewhere),
            unkept=len(self._unkept),
        )

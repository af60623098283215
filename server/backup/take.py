"""Take a backup, writes going on.

    pin      every shard's last checkpoint, and the log behind it
    cut      one instant: where each log ends (`cut`)
    copy     checkpoint files, then the log up to the cut; what the repository has is not sent again
    publish  the manifest, when everything that it names is there

A checkpoint's file is immutable and has a name of its own in the repository, its hash, so that the
next backup sends only files of checkpoints made meanwhile. Pieces of the log begin behind the
checkpoint and end after so many bytes, at the same places each time: they are shared while it
stands.

Killed anywhere, it leaves objects that no manifest names: the next backup finds and uses them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from nearql.cluster.metadata.state import TableRow
from nearql.engine.errors import Conflict, NotFound, Unavailable
from nearql.engine.shard.snapshot import SnapshotFile
from nearql.engine.storage.wal_raw import LogEnd, RawRecord, pack_records
from nearql.server.backup.catalog import catalog_of
from nearql.server.backup.cut import Cut, cut, visible
from nearql.server.backup.manifest import (
    BackupManifest,
    Blob,
    LogPiece,
    NamedBlob,
    ShardBackup,
    TableBackup,
)
from nearql.server.backup.repository import Alive, Repository
from nearql.server.backup.sources import CutLost, Pinned, Pins, pin

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

PIECE_BYTES = 8 << 20  # of a log, in one object
_TRIES = 4  # whole backups, where a failover or a DROP came between
_CUTS = 6  # where tables were made between pinning and the cut


class Progress(Protocol):
    """Whoever wants to know how far it is, and may end it."""

    def step(self, name: str) -> None:
        """This begins now."""
        ...

    def expect(self, nbytes: int) -> None:
        """So many bytes are to be worked on, too."""
        ...

    def advance(self, nbytes: int) -> None:
        """So many bytes more are done; may wait, to keep to a pace.

        Raises:
            Conflict: code `job_cancelled`.
        """
        ...


@dataclass
class _Work:
    """One try."""

    node: Node
    repository: Repository
    progress: Progress
    pins: Pins
    stack: ExitStack
    pinned: dict[str, list[Pinned]] = field(default_factory=dict)  # by table's uuid
    new_bytes: int = 0


def take(
    node: Node, repository: Repository, progress: Progress, pins: Pins, version: str
) -> BackupManifest:
    """Take one; blocks.

    Raises:
        Corruption: a table is damaged here; it is named. Unavailable: it can't be read now.
        StorageFull: the repository's. Conflict: code `repository_busy` or `job_cancelled`.
    """
    with repository.working("a backup") as alive:
        for attempt in range(_TRIES):
            try:
                with ExitStack() as stack:
                    work = _Work(node, repository, Living(progress, alive), pins, stack)
                    return _take(work, version, alive)
            except (CutLost, _Changed) as error:
                log.info("backup_begins_again", reason=str(error), attempt=attempt + 1)
    raise Unavailable("Tables or primaries changed again and again; take the backup later.")


class _Changed(Exception):
    """A table went while it was read."""


@dataclass(frozen=True, slots=True)
class Living:
    """Progress that also renews the repository's lock; see `Progress`."""

    inner: Progress
    alive: Alive

    def step(self, name: str) -> None:
        """See `Progress.step`."""
        self.inner.step(name)
        self.alive()

    def expect(self, nbytes: int) -> None:
        """See `Progress.expect`."""
        self.inner.expect(nbytes)

    def advance(self, nbytes: int) -> None:
        """See `Progress.advance`."""
        for first in range(0, max(1, nbytes), PIECE_BYTES):  # keeping to a pace takes its time
            self.inner.advance(min(PIECE_BYTES, nbytes - first))
            self.alive()


def _take(work: _Work, version: str, alive: Alive) -> BackupManifest:
    node, repository = work.node, work.repository
    found = _pinned_cut(work)
    rows = visible(found.state)
    work.progress.step("copying")
    work.progress.expect(sum(p.manifest.nbytes for r in rows for p in work.pinned[r.table.uuid]))
    tables = tuple(_table(work, row, found) for row in rows)
    catalog, new = repository.put(catalog_of(found.state).pack())
    manifest = BackupManifest(
        id=repository.new_id(found.at_ms), repository=repository.id,
        cluster_id=found.state.cluster_id, node=node.config.node.name, nearql=version,
        cut_ms=found.at_ms, ended_ms=time.time_ns() // 1_000_000, catalog=catalog, tables=tables,
        new_bytes=work.new_bytes + new,
    )  # fmt: skip
    work.progress.step("publishing")
    repository.publish(manifest, alive)
    return manifest


def _pinned_cut(work: _Work) -> Cut:
    """A cut all of whose tables are pinned, from before it."""
    for _ in range(_CUTS):
        work.progress.step("pinning")
        for row in visible(work.node.metadata.state):
            if row.table.uuid not in work.pinned:
                work.pinned[row.table.uuid] = _pin(work, row)
        work.progress.step("cutting")
        found = cut(work.node, lambda: work.progress.advance(0))
        if all(row.table.uuid in work.pinned for row in visible(found.state)):
            return found
    raise Unavailable("Tables are made all the time; take the backup when that has ended.")


def _pin(work: _Work, row: TableRow) -> list[Pinned]:
    found: list[Pinned] = []
    for number in range(row.table.shards):
        work.progress.advance(0)
        try:
            one = pin(work.node, work.pins, row, number)
        except NotFound as error:
            raise _gone(work, row, error) from error
        work.stack.callback(one.close)
        found.append(one)
    return found


def _table(work: _Work, row: TableRow, found: Cut) -> TableBackup:
    uuid = row.table.uuid
    try:
        shards = tuple(
            _shard(work, number, one, found.ends[uuid, number])
            for number, one in enumerate(work.pinned[uuid])
        )
    except (NotFound, FileNotFoundError) as error:
        raise _gone(work, row, error) from error
    return TableBackup(uuid, row.table.name, shards)


def _gone(work: _Work, row: TableRow, error: Exception) -> Exception:
    """What it means that something of a table is not there."""
    now = work.node.metadata.state.tables.get(row.table.uuid)
    return _Changed(f"table {row.table.name} was dropped") if now is None else error


def _shard(work: _Work, number: int, pinned: Pinned, end: LogEnd) -> ShardBackup:
    manifest, repository = pinned.manifest, work.repository
    files = tuple(_file(work, pinned, at, file) for at, file in enumerate(manifest.files))
    state, new = repository.put(manifest.state)
    pieces = []
    for records in _pieces(pinned.log(end)):
        data = b"".join(bytes(part) for part in pack_records(records))
        blob, added = repository.put(data)
        new += added
        work.progress.expect(len(data))
        work.progress.advance(len(data))
        pieces.append(LogPiece(records[0].lsn, records[-1].lsn, blob.sha256, blob.size))
    work.new_bytes += new
    return ShardBackup(
        number, end.lsn, end.epoch, end.link.hex(), manifest.end.lsn, state, files, tuple(pieces)
    )


def _file(work: _Work, pinned: Pinned, at: int, file: SnapshotFile) -> NamedBlob:
    blob = Blob(file.sha256.hex(), file.size)

    def parts() -> Iterator[bytes]:
        for part in pinned.file(at):
            work.progress.advance(len(part))
            yield part

    added = work.repository.put_stream(blob, parts)
    if not added:
        work.progress.advance(file.size)
    work.new_bytes += added
    return NamedBlob(file.name, blob.sha256, blob.size)


def _pieces(records: Iterator[RawRecord]) -> Iterator[list[RawRecord]]:
    """Runs of records, each but the last one just above PIECE_BYTES."""
    held: list[RawRecord] = []
    nbytes = 0
    for record in records:
        held.append(record)
        nbytes += record.nbytes
        if nbytes >= PIECE_BYTES:
            yield held
            held, nbytes = [], 0
    if held:
        yield held


def summary(manifest: BackupManifest) -> Mapping[str, object]:
    """A backup for people and programs."""
    return {
        "backup": manifest.id,
        "cut_at": manifest.cut_ms,
        "tables": [table.name for table in manifest.tables],
        "bytes": manifest.nbytes,
        "new_bytes": manifest.new_bytes,
        "cluster_id": manifest.cluster_id,
        "node": manifest.node,
        "nearql": manifest.nearql,
    }


def cancelled() -> Conflict:
    """The error of work that somebody ended."""
    return Conflict("The job was cancelled.", code="job_cancelled", sqlstate="57014")

"""Looking after the log's archive: what no backup needs goes, what is there is whole, how far it
reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nearql.engine.errors import Corruption, NearQLError
from nearql.server.backup.archive import Archive, Piece, clusters, path
from nearql.server.backup.manifest import BackupManifest
from nearql.server.backup.moment import Finder
from nearql.server.backup.repository import Repository
from nearql.server.backup.take import Progress

_MARGIN_MS = 3_600_000  # a table that no metadata knows may be one that was made a moment ago


@dataclass(frozen=True, slots=True)
class Reach:
    """A cluster's archive. since_ms: of the oldest backup, None without one: then from the first
    record of each table. until_ms: what all tables reach, None where that is not known. gaps:
    places that lack records, which no restore crosses.
    """

    cluster_id: str
    since_ms: int | None
    until_ms: int | None
    pieces: int
    bytes: int
    gaps: int


def reaches(repository: Repository) -> list[Reach]:
    """Of every cluster whose log is here."""
    found = []
    for cluster_id in clusters(repository.store):
        pieces = Archive(repository, cluster_id).all_pieces()
        backups = [b.cut_ms for b in repository.backups() if b.cluster_id == cluster_id]
        each = [piece for shard in pieces.values() for piece in shard]
        found.append(
            Reach(
                cluster_id, min(backups, default=None), _until(repository, cluster_id), len(each),
                sum(piece.size for piece in each), sum(map(_gaps, pieces.values())),
            )
        )  # fmt: skip
    return found


def _until(repository: Repository, cluster_id: str) -> int | None:
    try:
        return Finder(repository, cluster_id, cluster=cluster_id).newest(None)
    except NearQLError:  # nothing can be said, and whoever restores is told why
        return None


def _gaps(pieces: Sequence[Piece]) -> int:
    """Places between two pieces at which records are missing."""
    found, at, epoch = 0, pieces[0].first - 1, 0
    while parts := path(pieces, at, epoch):
        at, epoch = parts[-1].last, parts[-1].piece.epoch
        pieces = [piece for piece in pieces if piece.first > at and piece.epoch >= epoch]
        if pieces and pieces[0].first > at + 1:
            found, at = found + 1, pieces[0].first - 1
    return found


def check_pieces(repository: Repository, progress: Progress) -> Iterator[tuple[str, int, int, str]]:
    """(cluster, pieces, bytes, what is wrong) of each archive, every byte read."""
    for cluster_id in clusters(repository.store):
        archive = Archive(repository, cluster_id)
        pieces = [piece for shard in archive.all_pieces().values() for piece in shard]
        progress.step(f"verifying the log of {cluster_id}")
        progress.expect(sum(piece.size for piece in pieces))
        problems = []
        for piece in pieces:
            try:
                archive.read(piece)
            except Corruption as error:
                problems.append(error.detail)
            progress.advance(piece.size)
        for one in archive.catalogs():
            try:
                archive.catalog(one)
            except Corruption as error:
                problems.append(error.detail)
        told = " ".join(problems[:3])
        yield cluster_id, len(pieces), sum(piece.size for piece in pieces), told


def superfluous(
    repository: Repository, kept: Sequence[BackupManifest]
) -> Iterator[tuple[str, int]]:
    """(name, bytes) of what no restore can need: all before the oldest backup of its cluster.

    The newest piece of a shard stays: whoever ships goes on behind it.
    """
    for cluster_id in clusters(repository.store):
        mine = [backup for backup in kept if backup.cluster_id == cluster_id]
        if not mine:
            continue  # who takes no backups restores from the first record on
        archive, oldest = Archive(repository, cluster_id), min(mine, key=lambda b: b.cut_ms)
        catalogs = archive.catalogs()
        first = max(0, sum(one.at_ms <= oldest.cut_ms for one in catalogs) - 1)
        yield from ((one.name, 0) for one in catalogs[:first])
        known = {t.table.uuid for one in catalogs[first:] for t in archive.catalog(one).tables}
        backed = {t.uuid for t in oldest.tables}
        for (table, number), pieces in archive.all_pieces().items():
            if table in known or table in backed:
                lsn = _needed_from(table, number, mine) if table in backed else 0
                newest = max(piece.last for piece in pieces)
                doomed = [p for p in pieces if p.last <= lsn and p.last < newest]
            else:
                young = any(p.newest_ms > oldest.cut_ms - _MARGIN_MS for p in pieces)
                doomed = [] if young else pieces
            yield from ((piece.name, piece.size) for piece in doomed)


def _needed_from(table: str, number: int, backups: Sequence[BackupManifest]) -> int:
    """The lowest LSN at which one of these has the shard: where histories parted between them, a
    later backup may have a lower one.
    """
    return min(
        shard.lsn
        for backup in backups
        for one in backup.tables
        if one.uuid == table
        for shard in one.shards
        if shard.number == number
    )

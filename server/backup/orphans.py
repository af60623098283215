"""Logs that a kill left behind: metadata dropped their table, and the process died before it had
shipped them. They lie in the trash, and what the archive lacks of them is lost to it: that is
counted, as what a drop loses is (`Shipper.lose`).

Each folder is looked at once. Only tables that the archive's metadata has shown count: one that a
broken-off restore was making is at no moment, and misses nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from nearql.engine.errors import NearQLError
from nearql.engine.shard.checkpoint import WAL_DIRECTORIES
from nearql.engine.shard.meta import read_meta
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.wal_recovery import inspect_log
from nearql.server.backup.archive import Archive, Reached, shard_key

log = structlog.get_logger("nearql.backup")

_PREFIX, _UUID_LENGTH = "orphan-", 36
_LOOKED = "archive-looked"  # an empty file: of a folder that was looked at


@dataclass(frozen=True, slots=True)
class LostTail:
    """Records of a shard that the archive will never have. last_lsn: None = can't be read."""

    table: str
    shard: int
    archived_lsn: int
    last_lsn: int | None


def lost_tails(
    trash: Path, archive: Archive, fs: FileSystem, living: Container[str]
) -> Iterator[LostTail]:
    """Of the folders in the trash that nobody looked at yet. living: tables that are there."""
    folders = [folder for folder in sorted(trash.glob(f"{_PREFIX}*")) if _is_new(folder, living)]
    if not folders:
        return
    noted, shown = archive.reached(), _tables_shown(archive)
    for folder in folders:
        if _table_of(folder) in shown:
            yield from _of_folder(folder, archive, fs, noted)
        (folder / _LOOKED).touch()


def _table_of(folder: Path) -> str:
    return folder.name.removeprefix(_PREFIX)[:_UUID_LENGTH]


def _is_new(folder: Path, living: Container[str]) -> bool:
    return _table_of(folder) not in living and not (folder / _LOOKED).exists()


def _tables_shown(archive: Archive) -> set[str]:
    """Tables that were there at any moment that the archive still reaches."""
    return {one.table.uuid for at in archive.catalogs() for one in archive.catalog(at).tables}


def _of_folder(
    folder: Path, archive: Archive, fs: FileSystem, noted: dict[str, list[Reached]]
) -> Iterator[LostTail]:
    table = _table_of(folder)
    for shard in sorted(folder.glob("shard-*")):
        number = int(shard.name.rpartition("-")[2])
        ends = [piece.last for piece in archive.pieces(table, number)]
        ends += [reached.lsn for reached in noted.get(shard_key(table, number), ())]
        archived = max(ends, default=0)
        last = _last_lsn(shard, fs)
        if last is None or last > archived:
            yield LostTail(table, number, archived, last)


def _last_lsn(shard: Path, fs: FileSystem) -> int | None:
    """Of the log that lies there."""
    try:
        meta = read_meta(fs, shard)
        if meta is None:  # it was being made, and never had a record
            return 0
        logs = [shard / name for name in WAL_DIRECTORIES if (shard / name).is_dir()]
        found = [inspect_log(fs, directory, meta.identity) for directory in logs]
    except (NearQLError, OSError) as error:
        log.error("archive_orphan_unreadable", directory=str(shard), reason=str(error))
        return None
    return max((one.end.lsn - 1 for one in found if one is not None), default=0)

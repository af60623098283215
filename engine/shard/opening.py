"""How a shard's folder on disk is made, and what must be true of it before it is opened."""

from __future__ import annotations

from pathlib import Path

from nearql.engine.context import EngineContext
from nearql.engine.errors import Corruption
from nearql.engine.shard.checkpoint import WAL_DIRECTORIES
from nearql.engine.shard.meta import ShardMeta, new_meta, read_meta, write_meta
from nearql.engine.storage.manifest import Manifest
from nearql.engine.storage.wal import Wal
from nearql.engine.storage.wal_shared import SharedWal


def wal_of(context: EngineContext) -> type[Wal]:
    """The kind of log that copies of this node have."""
    return SharedWal if context.replicated else Wal


def make_copy(
    directory: Path, table_uuid: str, number: int, context: EngineContext, alloc_id: bytes | None
) -> None:
    """Make a new, empty copy; one that is complete already stays as it is."""
    fs = context.fs
    fs.make_directory(directory)
    if read_meta(fs, directory) is not None:
        return
    log = directory / WAL_DIRECTORIES[0]
    for name in fs.names(log):  # of a making that was broken off
        fs.unlink(log / name)
    meta = new_meta(context.cluster_id, table_uuid, number, alloc_id)
    wal_of(context).open(
        log, meta.identity, context.settings,
        fs=fs, flusher=context.flusher, on_fatal=context.on_fatal,
    ).close()  # fmt: skip
    write_meta(fs, directory, meta)  # last: with it the copy is complete


def find_copy(directory: Path, table_uuid: str, number: int, context: EngineContext) -> ShardMeta:
    """The identity of the copy of this shard that is there.

    Raises:
        Corruption: there is none, or another shard's.
    """
    meta = read_meta(context.fs, directory)
    if meta is None:
        raise Corruption(
            f"{directory} holds no copy of shard {number}: the file shard.meta is missing; "
            "restore this copy from a backup or another node.",
            file=str(directory),
        )
    if meta.shard_uuid != new_meta(context.cluster_id, table_uuid, number).shard_uuid:
        raise Corruption(
            f"{directory} holds a copy of another table's shard; it was put there by mistake.",
            file=str(directory),
        )
    return meta


def check_log_exists(log: Path, context: EngineContext) -> None:
    """A copy has a log from its making on: a missing one is never replaced by an empty one."""
    if not context.fs.names(log):
        raise Corruption(
            f"The log in {log} is missing; restore this copy from a backup or another node.",
            file=str(log),
        )


def check_log_joins(log: Path, wal: Wal, flushed: int) -> None:
    """The log must begin where the checkpoint ends, or before, and not end earlier."""
    if wal.first_lsn > flushed + 1 or wal.last_lsn < flushed:
        raise Corruption(
            f"The log in {log} holds LSN {wal.first_lsn} to {wal.last_lsn}, but the checkpoint "
            f"ends at {flushed}: files are missing. Restore this copy from a backup or another "
            "node.",
            file=str(log),
        )


def epochs_of(manifest: Manifest | None) -> tuple[tuple[int, int], ...]:
    """(epoch, first LSN) of what a checkpoint holds; one that a node made alone has one epoch."""
    if manifest is None or not manifest.flushed_lsn:
        return ()
    known = manifest.extra.get("epochs", [[manifest.epoch, 1]])
    return tuple((int(epoch), int(lsn)) for epoch, lsn in known)

"""A checkpoint's files, given away to another node: `ShardCopy.export`.

The files of the last checkpoint are immutable, so that they are a snapshot already. While one is
read, its files stay although the next checkpoint may not need them, and so does the log behind it:
whoever installs it goes on with that. A file that went bad is never given away.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import msgpack
from crc32c import crc32c

from nearql.engine.errors import Unavailable
from nearql.engine.shard.checkpoint import FoundDamage
from nearql.engine.shard.opening import epochs_of
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot import PIECE_BYTES, SnapshotFile, SnapshotManifest
from nearql.engine.storage.blobs import open_blob
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.manifest import Manifest
from nearql.engine.storage.wal_raw import LogEnd
from nearql.engine.storage.wal_shared import SharedWal


class Exports:
    """Snapshots of one shard that are being read."""

    def __init__(self, shard: Shard, fs: FileSystem) -> None:
        self._shard = shard
        self._fs = fs
        self._kept: dict[str, int] = {}  # snapshot id -> first LSN of the log behind it
        self._sums: dict[str, SnapshotFile] = {}  # of immutable files, by name

    @property
    def oldest_lsn(self) -> int | None:
        """The log is needed from here on."""
        return min(self._kept.copy().values(), default=None)

    def open(self) -> Export:
        """See `ShardCopy.export`.

        Raises:
            Corruption: a file is bad by now; it is set aside.
            StorageFull: there is no room for the checkpoint that it needs.
        """
        snapshot_id = uuid.uuid4().hex
        manifest, end = self._pinned(snapshot_id) or self._checkpointed(snapshot_id)
        try:
            self._check(manifest)
            files = tuple(self._file(name) for name in manifest.files())
        except BaseException:
            self.release(snapshot_id)
            raise
        self._sums = {file.name: file for file in files}
        shipped = replace(manifest, extra={**manifest.extra, "log": None})
        described = SnapshotManifest(
            snapshot_id, manifest.shard_uuid, end, epochs_of(manifest), files,
            bytes(msgpack.packb(asdict(shipped))),
        )  # fmt: skip
        return Export(described, self._shard.directory, self._fs, self)

    def _checkpointed(self, snapshot_id: str) -> tuple[Manifest, LogEnd]:
        self._shard.checkpoint()
        found = self._pinned(snapshot_id)
        if found is None:
            if (lost := self._shard.lost) is not None:
                raise lost.error()
            raise Unavailable(f"The copy in {self._shard.directory} has no snapshot to give now.")
        return found

    def _pinned(self, snapshot_id: str) -> tuple[Manifest, LogEnd] | None:
        """The last checkpoint, pinned, if the log behind it is kept in a form that others take."""
        shard = self._shard
        with shard.checkpoint_lock:
            manifest = shard.store.read_manifest()
            assert isinstance(shard.wal, SharedWal)
            end = None if manifest is None else shard.wal.end_at(manifest.flushed_lsn)
            if manifest is None or end is None or "epochs" not in manifest.extra:
                return None
            shard.store.pinned[snapshot_id] = frozenset(manifest.files())
            self._kept[snapshot_id] = manifest.flushed_lsn + 1
            return manifest, end

    def release(self, snapshot_id: str) -> None:
        """Let it go. The next checkpoint removes what is not needed."""
        self._shard.store.pinned.pop(snapshot_id, None)
        self._kept.pop(snapshot_id, None)

    def _check(self, manifest: Manifest) -> None:
        """Refuse to give away what is damaged."""
        for data, entry in self._shard.store.segments():
            if entry.file in manifest.files():
                damage = self._shard.store.inspect(entry)
                if damage is not None:
                    self._shard.found(FoundDamage(data, damage))
                    raise damage.error()
        segments = {segment.file for segment in manifest.segments}
        for name in manifest.files():
            if name not in segments:
                open_blob(self._shard.directory / name, fs=self._fs)

    def _file(self, name: str) -> SnapshotFile:
        known = self._sums.get(name)
        if known is not None:
            return known
        path = self._shard.directory / name
        whole, crcs = hashlib.sha256(), []
        for piece in pieces(self._fs, path):
            whole.update(piece)
            crcs.append(crc32c(piece))
        return SnapshotFile(name, self._fs.size(path), whole.digest(), tuple(crcs))


class Export:
    """One snapshot being read; see `SnapshotExport`."""

    def __init__(
        self, manifest: SnapshotManifest, directory: Path, fs: FileSystem, exports: Exports
    ) -> None:
        self.manifest = manifest
        self._directory = directory
        self._fs = fs
        self._exports = exports

    def read(self, file: int, offset: int, size: int) -> bytes:
        """See `SnapshotExport.read`."""
        handle = self._fs.open(self._directory / self.manifest.files[file].name)
        try:
            return self._fs.pread(handle, size, offset)
        finally:
            self._fs.close(handle)

    def close(self) -> None:
        """See `SnapshotExport.close`."""
        self._exports.release(self.manifest.snapshot_id)


def pieces(fs: FileSystem, path: Path) -> Iterator[bytes]:
    """A file's bytes, `PIECE_BYTES` at a time."""
    size = fs.size(path)
    handle = fs.open(path)
    try:
        for offset in range(0, size, PIECE_BYTES):
            yield fs.pread(handle, min(PIECE_BYTES, size - offset), offset)
    finally:
        fs.close(handle)

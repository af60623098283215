"""A snapshot of another node taken in: `ShardCopy.receive`.

Pieces arrive in any order into files of the folder `incoming`, beside its manifest in `SNAPSHOT`.
Which of them are there is not noted anywhere: a piece is there if it fits its checksum, so that one
that was broken off goes on where it was. `install`, each step safe to be killed after:

    1. verify every file against its hash, sync files and folder
    2. move the files beside those of the last checkpoint, under their generated names: nobody
       knows them yet, the next opening would remove them
    3. begin a log that goes on behind the snapshot, in the one of the two log folders not in use
    4. load the state from the files
    5. switch the manifest to files and log                     (from here on the copy is the new)
    6. let readers see it; remove the old log, the old files and `incoming`
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
from crc32c import crc32c

from nearql.engine.context import EngineContext
from nearql.engine.errors import Corruption, Unavailable
from nearql.engine.segment.damage import damage_of
from nearql.engine.shard.checkpoint import INCOMING_DIRECTORY, WAL_DIRECTORIES, CheckpointStore
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot import PIECE_BYTES, SnapshotFile, SnapshotManifest
from nearql.engine.shard.snapshot_export import pieces
from nearql.engine.shard.state import ShardState
from nearql.engine.storage.files import disk_error, write_atomic
from nearql.engine.storage.manifest import Manifest, unpack_manifest, write_manifest
from nearql.engine.storage.wal_shared import SharedWal

_MANIFEST = "SNAPSHOT"


class Import:
    """See the module and `SnapshotImport`.

    switched: called under the shard's locks when the copy holds the snapshot.
    """

    def __init__(
        self,
        shard: Shard,
        manifest: SnapshotManifest,
        context: EngineContext,
        switched: Callable[[SnapshotManifest], None],
    ) -> None:
        if manifest.shard_uuid != shard.meta.shard_uuid:
            raise Corruption("The snapshot is of another shard; it was not taken.")
        self._shard = shard
        self._manifest = manifest
        self._context = context
        self._fs = context.fs
        self._switched = switched
        self._directory = shard.directory / INCOMING_DIRECTORY
        self._missing: set[tuple[int, int]] = set()  # (file, piece)
        self._begin()

    def _begin(self) -> None:
        fs, packed = self._fs, self._manifest.pack()
        fs.make_directory(self._directory)
        path = self._directory / _MANIFEST
        if not fs.exists(path) or bytes(fs.map(path)) != packed:
            self.abandon()
            write_atomic(fs, path, packed)
        for number, file in enumerate(self._manifest.files):
            assert Path(file.name).name == file.name, "a file outside the directory"
            if fs.exists(self._directory / file.name):
                self._look(number, file)
            else:
                fs.close(fs.open(self._directory / file.name, create=True))
                self._missing |= {(number, piece) for piece in range(len(file.crcs))}

    def _look(self, number: int, file: SnapshotFile) -> None:
        """Find out which of a file's pieces are there."""
        found = [crc32c(piece) for piece in pieces(self._fs, self._directory / file.name)]
        for piece, crc in enumerate(file.crcs):
            if piece >= len(found) or found[piece] != crc:
                self._missing.add((number, piece))
            else:
                self._missing.discard((number, piece))

    def missing(self) -> list[tuple[int, int, int]]:
        """See `SnapshotImport.missing`."""
        return list(self._runs())

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        for number, file in enumerate(self._manifest.files):
            start: int | None = None
            for piece in range(len(file.crcs) + 1):
                if (number, piece) in self._missing:
                    start = piece if start is None else start
                elif start is not None:
                    end = min(piece * PIECE_BYTES, file.size)
                    yield number, start * PIECE_BYTES, end - start * PIECE_BYTES
                    start = None

    def write(self, file: int, offset: int, data: bytes | memoryview) -> None:
        """See `SnapshotImport.write`."""
        described, view = self._manifest.files[file], memoryview(data)
        assert not offset % PIECE_BYTES
        whole = not len(view) % PIECE_BYTES or offset + len(view) == described.size
        assert whole, "not whole pieces"
        first = offset // PIECE_BYTES
        for start in range(0, len(view), PIECE_BYTES):
            piece = first + start // PIECE_BYTES
            if crc32c(view[start : start + PIECE_BYTES]) != described.crcs[piece]:
                raise Corruption(
                    f"A piece of file {described.name} of a snapshot came damaged, at offset "
                    f"{offset + start}; it was not taken.",
                    offset=offset + start,
                )
        self._put(described, offset, view)
        self._missing -= {(file, first + n) for n in range(-(-len(view) // PIECE_BYTES))}

    def _put(self, file: SnapshotFile, offset: int, data: memoryview) -> None:
        path = self._directory / file.name
        try:
            handle = self._fs.open(path)
            try:
                self._fs.pwritev(handle, [data], offset)
            finally:
                self._fs.close(handle)
        except OSError as error:
            raise disk_error(path, error, "a piece of a snapshot") from error

    # ---- Installing --------------------------------------------------------------------

    def install(self) -> None:
        """See `SnapshotImport.install`."""
        assert not self._missing, "pieces are missing"
        shard = self._shard
        try:
            self._verify()
            with shard.checkpoint_lock:
                self._switch()
        except OSError as error:
            raise disk_error(shard.directory, error, "a snapshot") from error
        self.abandon()
        if shard.watcher is not None:
            shard.watcher.refresh()

    def _switch(self) -> None:
        shard = self._shard
        manifest, name = self._manifest_here()
        self._move()
        wal = self._new_log(name)
        try:
            store, state = self._load(manifest)
            with shard.lock:
                self._check_newer()
                write_manifest(self._fs, shard.directory, manifest)
                old, old_name = shard.wal, shard.log_name
                shard.log_name = name
                shard.adopt(state, store, wal)
                self._switched(self._manifest)
        except BaseException:
            wal.close()
            shard.store.remove_orphans()
            raise
        old.close()
        self._remove_log(old_name)
        shard.store.remove_orphans()

    def _check_newer(self) -> None:
        """What readers have seen is never taken back."""
        applied, given = self._shard.read_view().lsn, self._manifest.end.lsn
        assert self._shard.gate.epoch is None, "a leading copy takes no snapshot"
        if given < applied:
            raise Unavailable(
                f"The snapshot is of LSN {given}, but the copy has applied {applied} by now; it "
                "was not taken."
            )

    def _verify(self) -> None:
        for number, file in enumerate(self._manifest.files):
            path = self._directory / file.name
            whole = hashlib.sha256()
            for piece in pieces(self._fs, path):
                whole.update(piece)
            if self._fs.size(path) != file.size or whole.digest() != file.sha256:
                self._look(number, file)
                if not any(missing[0] == number for missing in self._missing):
                    self._missing |= {(number, piece) for piece in range(len(file.crcs))}
                raise Corruption(
                    f"{path} does not fit the hash in its snapshot; it is fetched again.",
                    file=str(path),
                )
            handle = self._fs.open(path)
            try:
                self._fs.fdatasync(handle)
            finally:
                self._fs.close(handle)
        self._fs.sync_directory(self._directory)

    def _manifest_here(self) -> tuple[Manifest, str]:
        """The manifest that this copy will have, and the folder of its log."""
        name = next(name for name in WAL_DIRECTORIES if name != self._shard.log_name)
        manifest = unpack_manifest(msgpack.unpackb(self._manifest.state, strict_map_key=False))
        epochs = [list(pair) for pair in self._manifest.epochs]
        return replace(manifest, extra={**manifest.extra, "log": name, "epochs": epochs}), name

    def _move(self) -> None:
        for file in self._manifest.files:
            self._fs.rename(self._directory / file.name, self._shard.directory / file.name)
        self._fs.sync_directory(self._shard.directory)
        self._fs.sync_directory(self._directory)

    def _new_log(self, name: str) -> SharedWal:
        self._remove_log(name)
        end, context = self._manifest.end, self._context
        wal = SharedWal.open(
            self._shard.directory / name, self._shard.meta.identity, context.settings,
            fs=context.fs, start_lsn=end.lsn + 1, base=(end.epoch, end.link),
            flusher=context.flusher, on_fatal=context.on_fatal,
        )  # fmt: skip
        wal.learn_epochs(self._manifest.epochs, end.lsn)
        return wal

    def _remove_log(self, name: str) -> None:
        directory = self._shard.directory / name
        for file in reversed(self._fs.names(directory)):
            self._fs.unlink(directory / file)

    def _load(self, manifest: Manifest) -> tuple[CheckpointStore, ShardState]:
        shard = self._shard
        store = CheckpointStore(self._fs, shard.directory, self._context.settings)
        store.pinned = shard.store.pinned
        state = shard.new_state()
        store.load(manifest, state)
        for segment in state.closed:
            damage = damage_of(segment.data)
            if damage is not None:
                raise damage.error()
        return store, state

    def abandon(self) -> None:
        """See `SnapshotImport.abandon`."""
        for name in self._fs.names(self._directory):
            self._fs.unlink(self._directory / name)

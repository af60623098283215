"""A checkpoint's files and the log behind them, kept while a backup reads them, on a node alone.

As `snapshot_export` does for a replicated copy, whose log has links that other copies know. Here
nobody else has the log: the record of an LSN is known by that and its epoch.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from nearql.engine.shard.shard import Shard
from nearql.engine.shard.snapshot_export import Exports
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.manifest import Manifest
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.storage.wal_raw import LogEnd
from nearql.engine.storage.wal_shared import SharedWal


class OwnExports(Exports):
    """Snapshots of one shard of a node alone that are being read."""

    def __init__(self, shard: Shard, fs: FileSystem) -> None:
        assert not isinstance(shard.wal, SharedWal), "a copy has exports of its own"
        super().__init__(shard, fs)

    def _pinned(self, snapshot_id: str) -> tuple[Manifest, LogEnd] | None:
        shard = self._shard
        with shard.checkpoint_lock:
            manifest = shard.store.read_manifest()
            if manifest is None or shard.wal.first_lsn > manifest.flushed_lsn + 1:
                return None
            shard.store.pinned[snapshot_id] = frozenset(manifest.files())
            self._kept[snapshot_id] = manifest.flushed_lsn + 1
            return manifest, LogEnd(manifest.flushed_lsn, manifest.epoch, ZERO_LINK)


class LogPins:
    """Who needs a shard's log from where on, besides the shard itself: a hook into its trimming."""

    def __init__(self, shard: Shard) -> None:
        self._wishes: dict[str, Callable[[], int | None]] = {}
        self._before = shard.trims
        shard.trims = self._trims

    def _trims(self, below_lsn: int) -> int:
        found = [wish() for wish in list(self._wishes.values())]
        return min([self._before(below_lsn), *(lsn for lsn in found if lsn is not None)])

    def add(self, wish: Callable[[], int | None]) -> str:
        """Ask this before each trimming: the first LSN that is needed, None for none; its name."""
        name = uuid.uuid4().hex
        self._wishes[name] = wish
        return name

    def remove(self, name: str) -> None:
        """Ask it no more."""
        self._wishes.pop(name, None)

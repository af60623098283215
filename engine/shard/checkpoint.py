"""A shard's state as files, so that the log behind it may go, and back.

Steps of a checkpoint at LSN S, each safe to crash after:

    1. under the lock: close the growing segment, compact; note segments, tombstones,
       dedup and S                                                    (`Image.of`)
    2. write each unflushed segment, changed tombstones and dedup to
       new, generated names                                           (`write`)
    3. switch the manifest to them                                    (the checkpoint exists now)
    4. under the lock: read views from now on use the files           (`Flushed.into`)
    5. drop log and files that the manifest no longer needs

Writers run on during 2, 3 and 5: rows and tombstones newer than S are in the log. Small neighbours
are joined on the way, so that many small checkpoints don't leave many small segments.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nearql.engine.errors import StorageFull
from nearql.engine.segment.sealed import join, joinable, open_segment, write_segment
from nearql.engine.segment.view import SegmentView
from nearql.engine.shard.dedup import Dedup
from nearql.engine.shard.meta import META_FILE
from nearql.engine.shard.records import fills_from_bytes, fills_to_bytes
from nearql.engine.shard.state import ShardState
from nearql.engine.storage.blobs import open_blob, write_blob
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.manifest import (
    MANIFEST_FILE,
    Manifest,
    SegmentEntry,
    read_manifest,
    write_manifest,
)

WAL_DIRECTORY = "wal"


@dataclass(frozen=True)
class Image:
    """A shard's state at one LSN, immutable."""

    segments: tuple[SegmentView, ...]
    dedup: Dedup
    manifest: Manifest  # without files

    @classmethod
    def of(cls, state: ShardState, shard_uuid: bytes) -> Image:
        """Close the growing segment and note everything; the caller holds the shard's lock."""
        state.freeze()
        state.compact()
        manifest = Manifest(
            shard_uuid, flushed_lsn=state.applied_lsn, epoch=state.epoch,
            next_row=state.next_position, schema_version=state.schema_version,
            extra={"fills": fills_to_bytes(state.fills), "version": state.version},
        )  # fmt: skip
        return cls(tuple(state.closed), state.dedup.copy(), manifest)


@dataclass
class Flushed:
    """What a checkpoint wrote: groups of segments in memory, each now one file."""

    replaced: list[tuple[list[SegmentView], SegmentView]] = field(default_factory=list)

    def into(self, state: ShardState) -> None:
        """Let the state use the files; the caller holds the shard's lock."""
        for old, new in self.replaced:
            state.swap(old, new)


class CheckpointStore:
    """The files of one shard's checkpoints. One checkpoint at a time: its caller sees to that."""

    def __init__(self, fs: FileSystem, directory: Path, seal_rows: int) -> None:
        self._fs = fs
        self._directory = directory
        self._seal_rows = seal_rows
        # What the manifest lists, by identity of the data (rows) and of the live mask (tombstones).
        self._entries: dict[int, tuple[Any, SegmentEntry]] = {}
        self._masks: dict[str, Any] = {}
        self.bytes = 0  # of segment files

    def write(self, image: Image) -> Flushed:
        """Steps 2 and 3.

        Raises:
            StorageFull: the last checkpoint still stands, the log keeps everything.
        """
        try:
            return self._write(image)
        except StorageFull:
            self.remove_orphans()
            raise

    def _write(self, image: Image) -> Flushed:
        flushed = Flushed()
        entries: list[SegmentEntry] = []
        known: dict[int, tuple[Any, SegmentEntry]] = {}
        for group in self._groups(image.segments):
            view, entry = self._segment(group, flushed)
            entry = self._with_tombstones(view, entry)
            entries.append(entry)
            known[id(view.data)] = (view.data, entry)
        dedup = self._write_dedup(image.dedup)
        manifest = replace(image.manifest, segments=tuple(entries), dedup=dedup)
        write_manifest(self._fs, self._directory, manifest)
        self._entries = known
        self._note(manifest)
        return flushed

    def load(self, manifest: Manifest, state: ShardState) -> None:
        """Fill a new state from the files that the manifest names.

        Raises:
            Corruption: names file and place.
        """
        views = [self._open(entry) for entry in manifest.segments]
        state.load(views, manifest.next_row)
        state.fills = fills_from_bytes(manifest.extra["fills"])
        state.applied_lsn, state.epoch = manifest.flushed_lsn, manifest.epoch
        state.version = manifest.extra["version"]
        state.schema_version = manifest.schema_version
        if manifest.dedup is not None:
            blob = open_blob(self._directory / manifest.dedup, fs=self._fs)
            state.dedup = Dedup.unpack(blob["dedup"], state.settings.dedup_entries)
        self._note(manifest)

    def read_manifest(self) -> Manifest | None:
        """The manifest, None before the first checkpoint."""
        return read_manifest(self._fs, self._directory)

    def remove_orphans(self) -> None:
        """Step 5: drop files that the manifest doesn't name, such as a crash leaves."""
        manifest = self.read_manifest()
        keep = {MANIFEST_FILE, META_FILE, WAL_DIRECTORY}
        keep |= set(manifest.files()) if manifest is not None else set()
        for name in self._fs.names(self._directory):
            if name not in keep:
                self._fs.unlink(self._directory / name)

    def _note(self, manifest: Manifest) -> None:
        self.bytes = sum(entry.size for entry in manifest.segments)
        named = {entry.tombstones for entry in manifest.segments}
        self._masks = {name: mask for name, mask in self._masks.items() if name in named}

    def _groups(self, segments: tuple[SegmentView, ...]) -> Iterator[list[SegmentView]]:
        """Segments as they'll be files: small neighbours together, the rest alone."""
        group: list[SegmentView] = []
        for segment in segments:
            if group and not self._fits(group, segment):
                yield group
                group = []
            group.append(segment)
        if group:
            yield group

    def _fits(self, group: list[SegmentView], segment: SegmentView) -> bool:
        """Whether joining pays: the whole stays near the size at which segments are sealed.

        A sealed one is copied again only for at least half as many rows as it has, so that each row
        is written O(log n) times. One that isn't a file yet takes a short tail along.
        """
        before = sum(view.data.rows for view in group)
        rows = before + segment.data.rows
        if group[0].sealed:
            worth = rows <= self._seal_rows and segment.data.rows * 2 >= before
        else:
            worth = rows <= self._seal_rows * 3 // 2
        return worth and joinable(group[-1].data, segment.data)

    def _segment(
        self, group: list[SegmentView], flushed: Flushed
    ) -> tuple[SegmentView, SegmentEntry]:
        """The group as one file, written unless it is one already."""
        if len(group) == 1 and id(group[0].data) in self._entries:
            return group[0], self._entries[id(group[0].data)][1]
        name = f"segment-{uuid.uuid4().hex}"
        data = join([view.data for view in group])
        info = write_segment(self._fs, self._directory / name, data)
        opened, _ = open_segment(self._fs, self._directory / name, verify=False)
        new = SegmentView(opened, _joined_live(group), sum(v.dead for v in group), sealed=True)
        flushed.replaced.append((group, new))
        return new, SegmentEntry(name, data.base, data.rows, info.size, info.crc)

    def _with_tombstones(self, view: SegmentView, entry: SegmentEntry) -> SegmentEntry:
        """The entry with a file of the view's tombstones, written if they changed."""
        if view.live is None:
            return replace(entry, tombstones=None)
        if entry.tombstones is not None and self._masks.get(entry.tombstones) is view.live:
            return entry
        name = f"tombstones-{uuid.uuid4().hex}"
        dead = np.packbits(~view.live, bitorder="little")
        write_blob(self._fs, self._directory / name, {"dead": dead})
        self._masks[name] = view.live
        return replace(entry, tombstones=name)

    def _write_dedup(self, dedup: Dedup) -> str | None:
        if not len(dedup):
            return None
        name = f"dedup-{uuid.uuid4().hex}"
        write_blob(self._fs, self._directory / name, {"dedup": dedup.pack()})
        return name

    def _open(self, entry: SegmentEntry) -> SegmentView:
        data, _ = open_segment(self._fs, self._directory / entry.file, verify=True)
        live, dead = self._open_tombstones(entry)
        self._entries[id(data)] = (data, entry)
        return SegmentView(data, live, dead, sealed=True)

    def _open_tombstones(self, entry: SegmentEntry) -> tuple[Any, int]:
        if entry.tombstones is None:
            return None, 0
        blob: Mapping[str, memoryview] = open_blob(self._directory / entry.tombstones, fs=self._fs)
        bits = np.frombuffer(blob["dead"], np.uint8)
        live = np.unpackbits(bits, count=entry.rows, bitorder="little") == 0
        self._masks[entry.tombstones] = live
        return live, entry.rows - int(np.count_nonzero(live))


def _joined_live(group: list[SegmentView]) -> Any:
    if not any(view.dead for view in group):
        return None
    return np.concatenate(
        [np.ones(v.data.rows, np.bool_) if v.live is None else v.live for v in group]
    )

"""A shard's state as files, so that the log behind it may go, and back.

Steps of a checkpoint at LSN S, each safe to crash after:

    1. under the lock: close the growing segment; note segments, tombstones,
       dedup and S                                                    (`Image.of`)
    2. write each unflushed segment, changed tombstones and dedup to
       new, generated names                                           (`write`)
    3. switch the manifest to them                                    (the checkpoint exists now)
    4. under the lock: read views from now on use the files           (`Flushed.into`)
    5. drop log and files that the manifest no longer needs

Writers run on during 2, 3 and 5: rows and tombstones newer than S are in the log. Small neighbours
are joined on the way, so that many small checkpoints don't leave many small segments; those that
are about to get an index, larger ones too. Segments with many dead rows are written anew without
them. That moves rows to lower positions within the
range of their segments, which is this copy's own affair: the log knows keys, not positions.

    positions    0 ...... 99 | 100 ..... 199 |        0 .... 69 |     | 100 ..... 199 |
                 30 dead     | 3 dead        |   ->   none dead | gap | 3 dead        |
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.errors import Corruption, StorageFull
from nearql.engine.index.carried import CarriedIndex
from nearql.engine.index.files import INDEX_DIRECTORY
from nearql.engine.segment.damage import Damage, SetAside, damage_of
from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.sealed import (
    Piece,
    joinable,
    lost_segment,
    open_checked,
    open_segment,
    write_segment,
)
from nearql.engine.segment.view import SegmentView
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.dedup import Dedup
from nearql.engine.shard.meta import META_FILE
from nearql.engine.shard.records import fills_from_bytes, fills_to_bytes
from nearql.engine.shard.state import ShardState, is_sparse, live_mask
from nearql.engine.shard.watcher import Watcher
from nearql.engine.storage.blobs import open_blob, write_blob
from nearql.engine.storage.files import TEMPORARY_SUFFIX, FileSystem
from nearql.engine.storage.manifest import (
    MANIFEST_FILE,
    Manifest,
    SegmentEntry,
    read_manifest,
    write_manifest,
)

WAL_DIRECTORIES = ("wal", "wal-b")  # taking a snapshot begins a new log in the other one
INCOMING_DIRECTORY = "incoming"  # a snapshot that is being taken
_WORTH_JOINING = 8  # times as many rows as the next brings are copied once more before a build
_OPENERS = 4  # threads that verify files at open: two keep the processor busy, four a disk


@dataclass(frozen=True)
class Image:
    """A shard's state at one LSN, immutable."""

    segments: tuple[SegmentView, ...]
    dedup: Dedup
    manifest: Manifest  # without files

    @classmethod
    def of(cls, state: ShardState, shard_uuid: bytes, extra: Mapping[str, Any]) -> Image:
        """Close the growing segment and note everything; the caller holds the shard's lock.

        extra: further members of the manifest.
        """
        state.freeze()
        manifest = Manifest(
            shard_uuid, flushed_lsn=state.applied_lsn, epoch=state.epoch,
            next_row=state.next_position, schema_version=state.schema_version,
            extra={"fills": fills_to_bytes(state.fills), "version": state.version, **extra},
        )  # fmt: skip
        return cls(tuple(state.closed), state.dedup.copy(), manifest)


@dataclass(frozen=True)
class Replaced:
    """Adjacent segments that are one file now, or none where all their rows were dead.

    kept: their rows that the file has, bool over all of them one after the other; None = all, at
    the positions that they had.
    """

    old: list[SegmentView]
    new: SegmentView | None
    kept: NDArray[np.bool_] | None


@dataclass
class Flushed:
    """What a checkpoint wrote."""

    replaced: list[Replaced] = field(default_factory=list)

    def into(self, state: ShardState, watcher: Watcher | None) -> None:
        """Let the state use the files; the caller holds the shard's lock."""
        for one in self.replaced:
            if watcher is not None and one.new is not None:
                watcher.moved(one.old, one.new, one.kept)
            state.swap(one.old, one.new, one.kept)


class FoundDamage(Exception):
    """A file that was to be copied has gone bad: it must be set aside first."""

    def __init__(self, data: SegmentData, damage: Damage) -> None:
        super().__init__(damage.place)
        self.data = data
        self.damage = damage


class CheckpointStore:
    """The files of one shard's checkpoints. One checkpoint at a time: its caller sees to that."""

    def __init__(self, fs: FileSystem, directory: Path, settings: EngineSettings) -> None:
        self._fs = fs
        self._directory = directory
        self._settings = settings
        # What the manifest lists, by identity of the data (rows) and of the live mask (tombstones).
        self._entries: dict[int, tuple[SegmentData, SegmentEntry]] = {}
        self._masks: dict[str, Any] = {}
        self.bytes = 0  # of segment files
        self.pinned: dict[str, frozenset[str]] = {}  # files that a snapshot keeps, by its id

    def write(self, image: Image, *, join: bool = False) -> Flushed:
        """Steps 2 and 3. join: see `groups`.

        Raises:
            StorageFull: the last checkpoint still stands, the log keeps everything.
            FoundDamage: likewise.
        """
        try:
            return self._write(image, join)
        except (StorageFull, FoundDamage):
            self.remove_orphans()
            raise

    def _write(self, image: Image, join: bool) -> Flushed:
        flushed = Flushed()
        entries: list[SegmentEntry] = []
        known: dict[int, tuple[SegmentData, SegmentEntry]] = {}
        for group in self.groups(image.segments, join=join):
            written = self._segment(group, flushed)
            if written is None:
                continue
            view, entry = written[0], self._with_tombstones(*written)
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
        views = list(ThreadPoolExecutor(_OPENERS).map(self._open, manifest.segments))
        state.load(views, manifest.next_row)
        state.fills = fills_from_bytes(manifest.extra["fills"])
        state.applied_lsn, state.epoch = manifest.flushed_lsn, manifest.epoch
        state.version = manifest.extra["version"]
        state.schema_version = manifest.schema_version
        if manifest.dedup is not None:
            blob = open_blob(self._directory / manifest.dedup, fs=self._fs)
            state.dedup = Dedup.unpack(blob["dedup"], state.settings)
        self._note(manifest)

    def read_manifest(self) -> Manifest | None:
        """The manifest, None before the first checkpoint."""
        return read_manifest(self._fs, self._directory)

    def segments(self) -> list[tuple[SegmentData, SegmentEntry]]:
        """The files of the last checkpoint, with the data that is read from them."""
        return list(self._entries.values())

    def inspect(
        self, entry: SegmentEntry, paced: Callable[[int], None] | None = None
    ) -> Damage | None:
        """What is wrong with a file by now; None also where it is not needed any more."""
        found = damage_of(open_checked(self._fs, self._directory / entry.file, entry, paced=paced))
        manifest = self.read_manifest()
        named = manifest is not None and entry.file in manifest.files()
        return found if named else None

    def set_aside(self, data: SegmentData, left: SegmentData) -> None:
        """Know the file by what is left of its data. Its caller holds off checkpoints."""
        _, entry = self._entries.pop(id(data))
        self._entries[id(left)] = (left, entry)

    def remove_orphans(self) -> None:
        """Step 5: drop files that the manifest doesn't name, such as a crash leaves."""
        manifest = self.read_manifest()
        keep = {MANIFEST_FILE, META_FILE, *WAL_DIRECTORIES, INCOMING_DIRECTORY, INDEX_DIRECTORY}
        keep.add(META_FILE + TEMPORARY_SUFFIX)  # a promise, which waits for no checkpoint
        keep |= set(manifest.files()) if manifest is not None else set()
        keep = keep.union(*self.pinned.copy().values())
        for name in self._fs.names(self._directory):
            if name not in keep:
                self._fs.unlink(self._directory / name)

    def _note(self, manifest: Manifest) -> None:
        self.bytes = sum(entry.size for entry in manifest.segments)
        named = {entry.tombstones for entry in manifest.segments}
        self._masks = {name: mask for name, mask in self._masks.items() if name in named}

    def groups(
        self, segments: tuple[SegmentView, ...], *, join: bool
    ) -> Iterator[list[SegmentView]]:
        """Segments as they'll be files: small neighbours together, the rest alone.

        join: those that wait for an index together as far as it pays, to be one graph.
        """
        group: list[SegmentView] = []
        for segment in segments:
            if group and not (self._fits(group, segment) or join and self._waits(group, segment)):
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
        if any(not _kept_rows(view) or damage_of(view.data) for view in (*group, segment)):
            return False
        before, more = sum(map(_kept_rows, group)), _kept_rows(segment)
        limit = self._settings.seal_rows
        if group[0].sealed:
            worth = before + more <= limit and more * 2 >= before
        else:
            worth = before + more <= limit * 3 // 2
        size = sum(map(_kept_bytes, (*group, segment)))
        fits = worth and size <= self._settings.seal_bytes * 3 // 2
        return fits and joinable(group[-1].data, segment.data)

    def _waits(self, group: list[SegmentView], segment: SegmentView) -> bool:
        """Whether all of them will get an index anyway, and one for all of them is better.

        So a row is copied a few times at most for each time that the rows before it double.
        """
        views = (*group, segment)
        if any(not _kept_rows(v) or damage_of(v.data) or _is_indexed(v.data) for v in views):
            return False
        before, more = sum(map(_kept_rows, group)), _kept_rows(segment)
        fits = before + more <= self._settings.join_rows and more * _WORTH_JOINING >= before
        size = sum(map(_kept_bytes, views))
        return fits and size <= self._settings.join_bytes and joinable(group[-1].data, segment.data)

    def _segment(
        self, group: list[SegmentView], flushed: Flushed
    ) -> tuple[SegmentView, SegmentEntry] | None:
        """The group as one file, written unless it is one already; None where no row is left."""
        if not any(view.data.rows - view.dead for view in group):
            flushed.replaced.append(Replaced(group, None, None))
            return None
        known = self._entries.get(id(group[0].data))
        if len(group) == 1 and known is not None and not is_sparse(group[0]):
            return group[0], known[1]
        self._check_sources(group)
        kept = _kept(group)
        pieces = list(_pieces(group, kept))
        name = f"segment-{uuid.uuid4().hex}"
        info = write_segment(self._fs, self._directory / name, pieces)
        data, _ = open_segment(self._fs, self._directory / name, verify=False)
        live = _joined_live(group, kept)
        dead = 0 if live is None else len(live) - int(np.count_nonzero(live))
        new = SegmentView(data, live if dead else None, dead, sealed=True)
        flushed.replaced.append(Replaced(group, new, kept))
        return new, SegmentEntry(name, data.base, data.rows, info.size, info.crc)

    def _check_sources(self, group: list[SegmentView]) -> None:
        """Copying a file whose bytes went bad would give them good checksums."""
        for view in group:
            known = self._entries.get(id(view.data))
            if known is None or damage_of(view.data) is not None:
                continue
            damage = self.inspect(known[1])
            if damage is not None:
                raise FoundDamage(view.data, damage)

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
        data = open_checked(self._fs, self._directory / entry.file, entry)
        try:
            live, dead = self._open_tombstones(entry)
        except (Corruption, FileNotFoundError) as error:
            # Without them dead rows would come back.
            data = lost_segment(entry, str(self._directory / str(entry.tombstones)), str(error))
            live, dead = None, 0
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


def _is_indexed(data: SegmentData) -> bool:
    """Whether an index was built over these very rows."""
    return any(not isinstance(index, CarriedIndex) for index in data.indexes.values())


def _kept_rows(view: SegmentView) -> int:
    """Rows that a new file takes of the segment, if it is written."""
    return view.data.rows - (view.dead if is_sparse(view) else 0)


def _kept_bytes(view: SegmentView) -> int:
    return view.data.nbytes * _kept_rows(view) // view.data.rows


def _kept(group: list[SegmentView]) -> NDArray[np.bool_] | None:
    """Rows of the group that its file takes; None where all stay at their positions."""
    ends = [view.end for view in group[:-1]]
    together = ends == [view.data.base for view in group[1:]]
    if together and not any(map(is_sparse, group)):
        return None
    return np.concatenate([live_mask(view) for view in group])


def _pieces(group: list[SegmentView], kept: NDArray[np.bool_] | None) -> Iterator[Piece]:
    start = 0
    for view in group:
        mine = None if kept is None else kept[start : start + view.data.rows]
        start += view.data.rows
        data = view.data.good_rows() if isinstance(view.data, SetAside) else view.data
        if mine is None or mine.all():
            yield Piece(data)
        elif mine.any():
            yield Piece(data, np.flatnonzero(mine))


def _joined_live(group: list[SegmentView], kept: NDArray[np.bool_] | None) -> Any:
    """Which of the file's rows were live when the checkpoint began; None where all were."""
    if kept is not None or not any(view.dead for view in group):
        return None  # a file that leaves rows out leaves all dead ones out
    return np.concatenate([live_mask(view) for view in group])

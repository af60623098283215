"""The index files of one shard: a folder beside its segments, a file per index and segment.

    shard-0000/indexes/<index uuid>.<segment file>

Nothing lists them: a file belongs to the segment and the definition in its name, and goes when
either is gone. An index can always be built again, so that a file that is cut short, damaged or of
another format costs time, never an answer: it is set aside (`.damaged`) and built anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from nearql.engine.errors import Corruption
from nearql.engine.index.base import IndexKind, Source, VectorIndex
from nearql.engine.storage.blobs import open_blob, write_blob
from nearql.engine.storage.files import FileSystem, write_atomic
from nearql.engine.types import Metric

INDEX_DIRECTORY = "indexes"
DAMAGED_SUFFIX = ".damaged"
PROFILE_SUFFIX = ".profile"
_FORMAT = 1
_ABOUT, _COVERED = "about", "covered"


class IndexFiles:
    """One shard's index files."""

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        self._fs = fs
        self._directory = directory / INDEX_DIRECTORY

    def write(self, name: str, kind: IndexKind, index: VectorIndex, source: Source) -> None:
        """Write an index to a durable file of its own.

        Raises:
            StorageFull: no room; no file is left behind.
        """
        self._fs.make_directory(self._directory)
        self._fs.unlink(self._directory / (name + PROFILE_SUFFIX))  # of the index before
        parts: dict[str, Any] = {_ABOUT: msgpack.packb(_about(kind, index.metric, source))}
        if index.covered is not None:
            parts[_COVERED] = np.packbits(index.covered, bitorder="little")
        write_blob(self._fs, self._directory / name, parts | dict(kind.dump(index)))
        self._fs.unlink(self._directory / (name + DAMAGED_SUFFIX))

    def open(
        self, name: str, kind: IndexKind, metric: Metric, source: Source, *, verify: bool
    ) -> VectorIndex | None:
        """The index of this file, read where it is mapped; None where there is no file.

        Raises:
            Corruption: a checksum doesn't fit, or it was built over other rows.
        """
        path = self._directory / name
        if not self._fs.exists(path):
            return None
        blob = open_blob(path, fs=self._fs, verify=verify)
        found = msgpack.unpackb(blob[_ABOUT])
        if found != _about(kind, metric, source):
            raise Corruption(f"{path} is an index of other rows ({found}).", file=str(path))
        covered = _unpacked(blob, len(source.vectors))
        return kind.load(blob, replace(source, covered=covered), metric)

    def write_profile(self, name: str, packed: bytes) -> None:
        """Keep what was measured of an index beside its file.

        Raises:
            StorageFull: the one before stays.
        """
        write_atomic(self._fs, self._directory / (name + PROFILE_SUFFIX), packed)

    def profile(self, name: str) -> bytes | None:
        """What `write_profile` kept; None where there is nothing."""
        path = self._directory / (name + PROFILE_SUFFIX)
        if not self._fs.exists(path):
            return None
        return bytes(self._fs.map(path))

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        path = self._directory / name
        return self._fs.size(path) if self._fs.exists(path) else 0

    def set_aside(self, name: str) -> None:
        """Keep a damaged file from being opened again, until its index is built anew."""
        path = self._directory / name
        self._fs.rename(path, path.with_name(name + DAMAGED_SUFFIX))
        self._fs.sync_directory(self._directory)

    def remove(self, name: str) -> None:
        """Drop a file, and what was measured of it."""
        self._fs.unlink(self._directory / (name + PROFILE_SUFFIX))
        self._fs.unlink(self._directory / name)

    def keep_only(self, names: Iterable[str]) -> None:
        """Drop every file but these, and what a crash left half-written."""
        kinds = ("", DAMAGED_SUFFIX, PROFILE_SUFFIX)
        keep = {name + kind for name in names for kind in kinds}
        for name in self._fs.names(self._directory):
            if name not in keep:
                self._fs.unlink(self._directory / name)


def file_name(index_uuid: str, segment_file: str) -> str:
    """The file of an index over a segment."""
    return f"{index_uuid}.{segment_file}"


def _about(kind: IndexKind, metric: Metric, source: Source) -> dict[str, Any]:
    rows, dimensions = source.vectors.shape
    return {
        "format": _FORMAT, "kind": kind.name, "metric": str(metric), "rows": rows,
        "dimensions": dimensions, "element": source.vectors.dtype.name,
    }  # fmt: skip


def _unpacked(blob: Mapping[str, memoryview], rows: int) -> NDArray[np.bool_] | None:
    if _COVERED not in blob:
        return None
    bits = np.frombuffer(blob[_COVERED], np.uint8)
    return np.unpackbits(bits, count=rows, bitorder="little").view(np.bool_)

"""A closed segment as one immutable, checksummed file, opened zero-copy.

Its parts:

    "meta"       msgpack {base, rows, vectors: [[number, dtype, dimensions, has_null], ...]}
    "scalars"    Arrow IPC stream, columns named by number
    "v<n>"       raw vectors of column n, row after row; with it "v<n>.norms", and "v<n>.valid"
                 where some are NULL

One file takes the rows of several segments, one after the other, and may leave dead ones out. Rows
pass through memory in pieces, so that writing a segment takes a few megabytes, not another segment.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.errors import Corruption
from nearql.engine.segment.damage import Damage, SetAside, words
from nearql.engine.segment.data import SegmentData, VectorBlock
from nearql.engine.storage.blobs import BadBlock, Blob, BlobInfo, open_blob, write_blob
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.manifest import SegmentEntry

_CHUNK_BYTES = 1 << 30  # scalars are joined up to this: Arrow's text offsets end at 2 GiB
_PIECE_BYTES = 8 << 20  # of vectors that are gathered at once


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a segment that a new file takes. keep: offsets, int64, ascending; None = all."""

    data: SegmentData
    keep: NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return self.data.rows if self.keep is None else len(self.keep)

    def chunks(self) -> Iterator[pa.RecordBatch]:
        """Their scalar columns."""
        if self.keep is None:
            yield from self.data.chunks
            return
        ends = np.searchsorted(self.keep, np.append(self.data.starts[1:], self.data.rows))
        start = 0
        for chunk, first, end in zip(self.data.chunks, self.data.starts, ends, strict=True):
            if end > start:
                yield chunk.take(pa.array(self.keep[start:end] - first))
            start = end

    def vectors(self, number: int) -> Iterator[NDArray[Any]]:
        """Their vectors: the segment's own memory, or copies of a few megabytes."""
        data = self.data.vectors[number].data
        if self.keep is None:
            yield data
            return
        step = max(1, _PIECE_BYTES // data.strides[0])
        for start in range(0, len(self.keep), step):
            yield data[self.keep[start : start + step]]

    def norms(self, number: int) -> NDArray[np.float32]:
        """Their vectors' norms."""
        norms = self.data.vectors[number].norms
        return norms if self.keep is None else norms[self.keep]

    def valid(self, number: int) -> NDArray[np.bool_]:
        """Which of their vectors are not NULL."""
        valid = self.data.vectors[number].valid
        if valid is None:
            return np.ones(self.rows, np.bool_)
        return valid if self.keep is None else valid[self.keep]


def write_segment(fs: FileSystem, path: Path, pieces: Sequence[Piece]) -> BlobInfo:
    """Write rows of segments with the same columns to a new durable file.

    Its first row has the position of the first segment's first; the others follow without gaps.

    Raises:
        StorageFull: no room; no file is left behind.
    """
    first = pieces[0].data
    vectors = [
        [number, block.data.dtype.name, block.data.shape[1], _has_nulls(pieces, number)]
        for number, block in first.vectors.items()
    ]
    rows = sum(piece.rows for piece in pieces)
    meta = msgpack.packb({"base": first.base, "rows": rows, "vectors": vectors})
    parts: dict[str, Any] = {"meta": meta, "scalars": _scalars(pieces)}
    for number, _, _, has_nulls in vectors:
        parts[f"v{number}"] = _vectors(pieces, number)
        parts[f"v{number}.norms"] = _joined([piece.norms(number) for piece in pieces])
        if has_nulls:
            valid = _joined([piece.valid(number) for piece in pieces])
            parts[f"v{number}.valid"] = valid.view(np.uint8)
    return write_blob(fs, path, parts)


def joinable(left: SegmentData, right: SegmentData) -> bool:
    """Whether one file may take both: same columns of the same types."""
    return left.chunks[0].schema == right.chunks[0].schema and _vector_types(left) == _vector_types(
        right
    )


def _vector_types(data: SegmentData) -> Mapping[int, tuple[str, int]]:
    return {n: (b.data.dtype.name, b.data.shape[1]) for n, b in data.vectors.items()}


def _has_nulls(pieces: Sequence[Piece], number: int) -> bool:
    return any(piece.data.vectors[number].valid is not None for piece in pieces)


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _vectors(pieces: Sequence[Piece], number: int) -> Iterator[NDArray[np.uint8]]:
    for piece in pieces:
        for rows in piece.vectors(number):
            yield rows.view(np.uint8).reshape(-1)


class _Sink(io.RawIOBase):
    """Takes what Arrow writes, until somebody takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(self._written[-1])

    def taken(self) -> list[bytes]:
        written, self._written = self._written, []
        return written


def _scalars(pieces: Sequence[Piece]) -> Iterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, pieces[0].data.chunks[0].schema) as writer:
        for group in _groups(chunk for piece in pieces for chunk in piece.chunks()):
            writer.write_batch(group[0] if len(group) == 1 else pa.concat_batches(group))
            yield from sink.taken()
    yield from sink.taken()


def _groups(chunks: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for chunk in chunks:
        if group and size + chunk.nbytes > _CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += chunk.nbytes
    if group:
        yield group


# ---- Opening ----------------------------------------------------------------------------


def open_segment(fs: FileSystem, path: Path, *, verify: bool) -> tuple[SegmentData, Blob]:
    """Map a segment's file; its arrays are views of the mapping.

    Raises:
        Corruption: names the file and the place. Without `verify`, bulk data is not looked at yet.
    """
    blob = open_blob(path, fs=fs, verify=verify)
    return _data(blob), blob


def open_checked(
    fs: FileSystem, path: Path, entry: SegmentEntry, *, paced: Callable[[int], None] | None = None
) -> SegmentData:
    """Map the file of a manifest's entry, every byte verified; `SetAside` where some are bad.

    paced: called with the bytes of each block before they are read; may wait.

    Raises:
        Unavailable: code `newer_format`.
    """
    try:
        blob = open_blob(path, fs=fs, verify=False)
        if (blob.info.size, blob.info.crc) != (entry.size, entry.crc):
            return lost_segment(entry, str(path), "it is not the file that the manifest names")
        bad = blob.bad_blocks(fs, paced=paced)
    except Corruption as error:
        return lost_segment(entry, str(path), error.extra.get("place", error.detail))
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ENOENT):
            raise
        return lost_segment(entry, str(path), f"it can't be read: {error.strerror}")
    if not bad:
        return _data(blob)
    damage = damage_in(blob, bad, entry)
    if damage.everything:
        return SetAside(entry.first_row, entry.rows, (), {}, damage=damage)
    return SetAside.of(_data(blob), damage)


def lost_segment(entry: SegmentEntry, file: str, place: str) -> SetAside:
    """A segment of which nothing can be used."""
    end = entry.first_row + entry.rows
    damage = Damage(file, place, frozenset(), entry.first_row, end)
    return SetAside(entry.first_row, entry.rows, (), {}, damage=damage)


def damage_in(blob: Blob, bad: Sequence[BadBlock], entry: SegmentEntry) -> Damage:
    """What bad blocks cost: vector columns and the rows hit, or everything."""
    place = words([block.place for block in bad])
    columns: set[int] = set()
    first, end = entry.rows, 0
    for block in bad:
        for name, low, high in _hit(blob, block):
            if not name.startswith("v"):
                return lost_segment(entry, str(blob.path), place).damage
            columns.add(int(name[1:].partition(".")[0]))
            row_bytes = len(blob[name]) // entry.rows
            first, end = min(first, low // row_bytes), max(end, -(-high // row_bytes))
    if not columns:
        return lost_segment(entry, str(blob.path), place).damage
    base = entry.first_row
    return Damage(str(blob.path), place, frozenset(columns), base + first, base + end)


def _hit(blob: Blob, block: BadBlock) -> Iterator[tuple[str, int, int]]:
    """Parts that a block overlaps, and from which of their bytes to which."""
    for name in blob:
        start, size = blob.place_of(name)
        low, high = max(block.start, start), min(block.end, start + size)
        if low < high:
            yield name, low - start, high - start


def _data(blob: Blob) -> SegmentData:
    meta = msgpack.unpackb(blob["meta"])
    reader = pa.ipc.open_stream(pa.py_buffer(blob["scalars"]))
    vectors = {entry[0]: _block(blob, *entry) for entry in meta["vectors"]}
    return SegmentData(meta["base"], meta["rows"], tuple(reader), vectors)


def _block(blob: Blob, number: int, dtype: str, dimensions: int, has_null: bool) -> VectorBlock:
    data = np.frombuffer(blob[f"v{number}"], dtype).reshape(-1, dimensions)
    norms = np.frombuffer(blob[f"v{number}.norms"], np.float32)
    valid = np.frombuffer(blob[f"v{number}.valid"], np.bool_) if has_null else None
    return VectorBlock(data, valid, norms)

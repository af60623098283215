"""A closed segment as one immutable, checksummed file, opened zero-copy.

Its parts:

    "meta"       msgpack {base, rows, vectors: [[number, dtype, dimensions, has_null], ...]}
    "scalars"    Arrow IPC stream, columns named by number
    "v<n>"       raw vectors of column n, row after row; with it "v<n>.norms", and "v<n>.valid"
                 where some are NULL
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from nearql.engine.segment.data import SegmentData, VectorBlock
from nearql.engine.storage.blobs import Blob, BlobInfo, open_blob, write_blob
from nearql.engine.storage.files import FileSystem

_CHUNK_BYTES = 1 << 30  # scalars are joined up to this: Arrow's text offsets end at 2 GiB


def write_segment(fs: FileSystem, path: Path, data: SegmentData) -> BlobInfo:
    """Write rows to a new durable file.

    Raises:
        StorageFull: no room; no file is left behind.
    """
    vectors = [
        [number, block.data.dtype.name, block.data.shape[1], block.valid is not None]
        for number, block in data.vectors.items()
    ]
    meta = msgpack.packb({"base": data.base, "rows": data.rows, "vectors": vectors})
    parts: dict[str, Any] = {"meta": meta, "scalars": _scalars(data)}
    for number, block in data.vectors.items():
        parts |= _vector_parts(number, block)
    return write_blob(fs, path, parts)


def open_segment(fs: FileSystem, path: Path, *, verify: bool) -> tuple[SegmentData, Blob]:
    """Map a segment's file; its arrays are views of the mapping.

    Raises:
        Corruption: names the file and the place. Without `verify`, bulk data is not looked at yet.
    """
    blob = open_blob(path, fs=fs, verify=verify)
    meta = msgpack.unpackb(blob["meta"])
    reader = pa.ipc.open_stream(pa.py_buffer(blob["scalars"]))
    vectors = {entry[0]: _block(blob, *entry) for entry in meta["vectors"]}
    return SegmentData(meta["base"], meta["rows"], tuple(reader), vectors), blob


def join(segments: Sequence[SegmentData]) -> SegmentData:
    """Adjacent segments of the same columns as one, copied; positions stay."""
    if len(segments) == 1:
        return segments[0]
    first = segments[0]
    vectors = {n: _join_blocks([s.vectors[n] for s in segments]) for n in first.vectors}
    chunks = tuple(chunk for segment in segments for chunk in segment.chunks)
    return SegmentData(first.base, sum(s.rows for s in segments), chunks, vectors)


def joinable(left: SegmentData, right: SegmentData) -> bool:
    """Whether `join` may put them together: adjacent, same columns of the same types."""
    return (
        left.base + left.rows == right.base
        and left.chunks[0].schema == right.chunks[0].schema
        and _vector_types(left) == _vector_types(right)
    )


def _vector_types(data: SegmentData) -> Mapping[int, tuple[str, int]]:
    return {n: (b.data.dtype.name, b.data.shape[1]) for n, b in data.vectors.items()}


def _join_blocks(blocks: Sequence[VectorBlock]) -> VectorBlock:
    valid = None
    if any(block.valid is not None for block in blocks):
        valid = np.concatenate(
            [np.ones(len(b.norms), np.bool_) if b.valid is None else b.valid for b in blocks]
        )
    data = np.concatenate([block.data for block in blocks])
    return VectorBlock(data, valid, np.concatenate([block.norms for block in blocks]))


def _scalars(data: SegmentData) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.chunks[0].schema) as writer:
        for group in _groups(data.chunks):
            writer.write_batch(pa.concat_batches(group))
    return sink.getvalue()


def _groups(chunks: Sequence[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for chunk in chunks:
        if group and size + chunk.nbytes > _CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(chunk)
        size += chunk.nbytes
    yield group


def _vector_parts(number: int, block: VectorBlock) -> dict[str, Any]:
    parts: dict[str, Any] = {f"v{number}": block.data.view(np.uint8).reshape(-1)}
    parts[f"v{number}.norms"] = block.norms
    if block.valid is not None:
        parts[f"v{number}.valid"] = block.valid.view(np.uint8)
    return parts


def _block(blob: Blob, number: int, dtype: str, dimensions: int, has_null: bool) -> VectorBlock:
    data = np.frombuffer(blob[f"v{number}"], dtype).reshape(-1, dimensions)
    norms = np.frombuffer(blob[f"v{number}.norms"], np.float32)
    valid = np.frombuffer(blob[f"v{number}.valid"], np.bool_) if has_null else None
    return VectorBlock(data, valid, norms)

"""Arrow IPC bodies, stream and file: read without a copy, after their frames were checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from nearql.server.decoding.batches import (
    Batch,
    Source,
    check_columns,
    check_row_claim,
    corrupt,
    merged,
    plain,
    too_many_bytes,
)
from nearql.server.decoding.frames import read_frames

_MAGIC = b"ARROW1"
_HEAD_BYTES = 8  # the magic and two bytes of padding
_TAIL_BYTES = 4 + len(_MAGIC)  # the footer's length and the magic


def decode_stream(source: Source) -> Iterator[Batch]:
    """The batches of an Arrow stream.

    Raises:
        InvalidRequest: it is damaged, cut, or lacks its end marker.
        TooLarge: its buffers say that they get larger than `source.limit`.
    """
    return _decode(source, source.body)


def decode_file(source: Source) -> Iterator[Batch]:
    """The batches of an Arrow file (Feather V2): a stream between a magic word and a footer."""
    body = source.body
    size = body.size
    if size < _HEAD_BYTES + _TAIL_BYTES or bytes(body[: len(_MAGIC)]) != _MAGIC:
        raise corrupt("This is no Arrow file: it does not start with ARROW1.")
    if bytes(body[size - len(_MAGIC) : size]) != _MAGIC:
        raise corrupt(f"The Arrow file is cut: its {size} bytes do not end with ARROW1.")
    (footer,) = struct.unpack_from("<i", body, size - _TAIL_BYTES)
    end = size - _TAIL_BYTES - footer
    if footer <= 0 or end < _HEAD_BYTES:
        raise corrupt(f"The Arrow file is damaged: its footer claims {footer} bytes.")
    return _decode(source, body.slice(_HEAD_BYTES, end - _HEAD_BYTES))


def _decode(source: Source, stream: pa.Buffer) -> Iterator[Batch]:
    frames = read_frames(stream)
    check_row_claim(frames.rows, frames.expanded)
    if frames.expanded > source.limit:
        raise too_many_bytes(source.limit)
    try:
        reader = pa.ipc.open_stream(pa.BufferReader(stream))
        check_columns(reader.schema.names, source.schema)
        batches = list(reader)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise corrupt(f"The Arrow body is damaged: {error}.") from error
    for batch in merged(iter(batches), reader.schema):
        yield Batch(batch.first, plain(batch.rows, source.limit))

"""Statements as WAL payloads and back.

A statement is what one SQL write does to one shard: delete these keys, then put these rows (a put
row replaces the live row of its key). It is logged as results, never as expressions, so replay is
deterministic. One statement is one record if it fits, else several, all but the last `more`:

    record     BATCH more        BATCH more        BATCH
    part       0                 1                 2
    payload    header size (u32) · msgpack header · sections, each starting at a multiple of 8

Part 0 begins a statement anew: one that a full disk or a crash broke off before is dropped by it.
The header lists the sections as [kind, column number, bytes]:

    k  deleted keys, as an Arrow IPC stream    v  raw float32 vectors     n  the vectors' norms
    s  scalars, as an Arrow IPC stream         h  raw float16 vectors     m  a byte each, 0 = NULL

The counts that the statement reports are in its last record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from nearql.engine.errors import TooLarge
from nearql.engine.keys import Key, keys_array, keys_of
from nearql.engine.request_id import NO_REQUEST
from nearql.engine.segment.data import VectorBlock
from nearql.engine.segment.rows import Rows
from nearql.engine.storage.wal import RecordKind, WalRecord

_ALIGNMENT = 8
_HEADER_BYTES = 128  # of a payload at most, without what it says of sections and skipped rows
_SECTION_BYTES = 32  # of a section's padding and its entry in the header at most
_SIZE = struct.Struct("<I")
_DTYPES: Mapping[str, np.dtype[Any]] = {"v": np.dtype(np.float32), "h": np.dtype(np.float16)}
Section = tuple[str, int, Any]  # kind, column number, anything with the buffer protocol


@dataclass(frozen=True, slots=True)
class Counts:
    """What a statement reports of one shard. skipped: rows left out, as `pack_offsets` makes it."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    skipped: bytes | None = None


@dataclass(slots=True)
class Statement:
    """The effect of one write on one shard, ready to apply.

    lsn, epoch: of its last record; 0 until it is logged. timestamp_ms: the primary's time then.
    """

    kind: RecordKind
    counts: Counts
    request_id: bytes = NO_REQUEST
    deletes: list[list[Key]] = field(default_factory=list)
    puts: list[Rows] = field(default_factory=list)
    schema: SchemaChange | None = None
    lsn: int = 0
    epoch: int = 0
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """Orders a schema version against rows. fills: value of added columns in rows before it."""

    version: int
    fills: Mapping[int, pa.Scalar | None]


@dataclass(frozen=True, slots=True)
class Payload:
    """One record to be logged: its kind and the parts of its payload."""

    kind: RecordKind
    parts: list[Any]


def encode(statement: Statement, key_type: pa.DataType, limit_bytes: int) -> list[Payload]:
    """The statement's records; replaces `statement.puts` by rows that own their memory.

    Raises:
        TooLarge: a single row is larger than a record may be.
    """
    if statement.schema is not None:
        return [_schema_payload(statement)]
    limit_bytes -= len(statement.counts.skipped or b"")  # the last record has room for it
    bodies = [
        (RecordKind.DELETE, 0, [("k", 0, _stream(_key_batch(piece, key_type)))])
        for keys in statement.deletes
        for piece in _key_pieces(keys, limit_bytes)
    ]
    puts, statement.puts = statement.puts, []
    for rows in puts:
        for piece, sections in _row_pieces(rows, limit_bytes):
            bodies.append((RecordKind.BATCH, piece.count, sections))
            statement.puts.append(_owned(piece, sections))
    bodies = bodies or [(statement.kind, 0, [])]
    last = len(bodies) - 1
    return [
        _payload(kind, part, rows, sections, statement.counts if part == last else None)
        for part, (kind, rows, sections) in enumerate(bodies)
    ]


class StatementReader:
    """Puts the records of a log together to statements."""

    def __init__(self) -> None:
        self._open: Statement | None = None
        self._parts = 0

    def feed(self, record: WalRecord) -> Statement | None:
        """The statement that this record completes, or None.

        Raises:
            ValueError: a record that continues nothing; the log's order is broken.
        """
        header, sections = _decode(record.payload)
        if header["part"] == 0:
            self._open, self._parts = _start(record), 0
        if self._open is None or header["part"] != self._parts:
            raise ValueError(f"record {record.lsn} is part {header['part']}, not {self._parts}")
        self._parts += 1
        _add(self._open, header, sections)
        if record.more:
            return None
        done, self._open = self._open, None
        done.lsn, done.epoch = record.lsn, record.epoch
        done.timestamp_ms = record.timestamp_ms
        done.counts = Counts(*header["counts"])
        return done


def _start(record: WalRecord) -> Statement:
    return Statement(record.kind, Counts(), bytes(record.request_id))


def _add(statement: Statement, header: dict[str, Any], sections: list[Section]) -> None:
    if "schema" in header:
        statement.schema = SchemaChange(header["schema"], fills_from_bytes(header["fills"]))
    for kind, _, data in sections:
        if kind == "k":
            statement.deletes.append(keys_of(_read_batch(data).column(0)))
    if header["rows"]:
        statement.puts.append(_rows(header["rows"], sections))


# ---- Rows <-> sections -----------------------------------------------------------------


def _row_pieces(rows: Rows, limit_bytes: int) -> Iterator[tuple[Rows, list[Section]]]:
    """Runs of rows whose sections fit into one record."""
    if rows.count > 1 and rows.nbytes > limit_bytes // 8 * 7:
        yield from _halves(rows, limit_bytes)
        return
    sections = _sections(rows)
    size = sum(_length(data) + _SECTION_BYTES for _, _, data in sections) + _HEADER_BYTES
    if size <= limit_bytes:
        yield rows, sections
    elif rows.count > 1:
        yield from _halves(rows, limit_bytes)
    else:
        raise TooLarge(
            f"One row takes {size} bytes; a row may take at most {limit_bytes} "
            "(setting engine.wal_record_bytes)."
        )


def _halves(rows: Rows, limit_bytes: int) -> Iterator[tuple[Rows, list[Section]]]:
    middle = rows.count // 2
    yield from _row_pieces(rows.slice(0, middle), limit_bytes)
    yield from _row_pieces(rows.slice(middle, rows.count), limit_bytes)


def _sections(rows: Rows) -> list[Section]:
    sections: list[Section] = [("s", 0, _stream(rows.scalars))]
    for number, block in rows.vectors.items():
        kind = next(kind for kind, dtype in _DTYPES.items() if dtype == block.data.dtype)
        sections.append((kind, number, block.data.view(np.uint8).reshape(-1)))
        sections.append(("n", number, block.norms.view(np.uint8)))
        if block.valid is not None:
            sections.append(("m", number, block.valid.view(np.uint8)))
    return sections


def _owned(rows: Rows, sections: list[Section]) -> Rows:
    """The same rows with scalars in the log's own buffer: the caller's memory isn't kept."""
    return Rows(rows.count, _open_batch(sections[0][2]), rows.vectors)


def _rows(count: int, sections: list[Section]) -> Rows:
    found = {(kind, number): data for kind, number, data in sections}
    vectors: dict[int, VectorBlock] = {}
    for kind, number, raw in sections:
        if kind in _DTYPES:
            data = np.frombuffer(raw, _DTYPES[kind]).reshape(count, -1)
            norms = np.frombuffer(found["n", number], np.float32)
            valid = found.get(("m", number))
            mask = None if valid is None else np.frombuffer(valid, np.bool_)
            vectors[number] = VectorBlock(data, mask, norms)
    return Rows(count, _read_batch(found["s", 0]), vectors)


# ---- Payloads ---------------------------------------------------------------------------


def _payload(
    kind: RecordKind, part: int, rows: int, sections: list[Section], counts: Counts | None
) -> Payload:
    header: dict[str, Any] = {"part": part, "rows": rows}
    header["sections"] = [[k, number, _length(data)] for k, number, data in sections]
    if counts is not None:
        header["counts"] = [counts.inserted, counts.updated, counts.deleted, counts.skipped]
    parts = _header_parts(header)
    for _, _, data in sections:
        parts += [data, bytes(-_length(data) % _ALIGNMENT)]
    return Payload(kind, parts)


def _schema_payload(statement: Statement) -> Payload:
    change = statement.schema
    assert change is not None
    header = {"part": 0, "rows": 0, "sections": [], "counts": [0, 0, 0, None]}
    header |= {"schema": change.version, "fills": fills_to_bytes(change.fills)}
    return Payload(statement.kind, _header_parts(header))


def _header_parts(header: dict[str, Any]) -> list[Any]:
    packed = msgpack.packb(header)
    padding = -(_SIZE.size + len(packed)) % _ALIGNMENT
    return [_SIZE.pack(len(packed)) + packed + bytes(padding)]


def _decode(payload: memoryview) -> tuple[dict[str, Any], list[Section]]:
    (size,) = _SIZE.unpack(payload[: _SIZE.size])
    at = _SIZE.size + size
    header = msgpack.unpackb(payload[_SIZE.size : at], strict_map_key=False)
    at += -at % _ALIGNMENT
    sections: list[Section] = []
    for kind, number, length in header["sections"]:
        sections.append((kind, number, payload[at : at + length]))
        at += length + -length % _ALIGNMENT
    return header, sections


def _length(data: Any) -> int:
    return memoryview(data).nbytes


# ---- Arrow ------------------------------------------------------------------------------


def _stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _open_batch(buffer: pa.Buffer) -> pa.RecordBatch:
    return pa.ipc.open_stream(buffer).read_next_batch()


def _read_batch(data: memoryview) -> pa.RecordBatch:
    """A batch in memory of its own, so that the log's isn't kept."""
    return _open_batch(pa.py_buffer(bytes(data)))


def _key_batch(keys: Sequence[Key], key_type: pa.DataType) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([keys_array(keys, key_type)], names=["key"])


def _key_pieces(keys: list[Key], limit_bytes: int) -> Iterator[list[Key]]:
    """Runs of keys that fit into one record, with room to spare for Arrow's own bytes."""
    size = sum(16 + 4 * len(key) if isinstance(key, str) else 8 for key in keys)
    if len(keys) > 1 and size > limit_bytes // 2:
        middle = len(keys) // 2
        yield from _key_pieces(keys[:middle], limit_bytes)
        yield from _key_pieces(keys[middle:], limit_bytes)
    elif keys:
        yield keys


def fills_to_bytes(fills: Mapping[int, pa.Scalar | None]) -> dict[int, bytes | None]:
    """Values of columns by number as msgpack takes them."""
    return {number: None if value is None else _fill(value) for number, value in fills.items()}


def fills_from_bytes(fills: Mapping[int, bytes | None]) -> dict[int, pa.Scalar | None]:
    """What `fills_to_bytes` made."""
    return {number: None if data is None else _unfill(data) for number, data in fills.items()}


def _fill(value: pa.Scalar) -> bytes:
    array = pa.array([value.as_py()], value.type)
    return bytes(_stream(pa.RecordBatch.from_arrays([array], names=["fill"])).to_pybytes())


def _unfill(data: bytes) -> pa.Scalar:
    return _open_batch(pa.py_buffer(data)).column(0)[0]

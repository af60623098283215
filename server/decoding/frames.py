"""The framing of an Arrow IPC stream, read by hand, so that a cut or inflated one is told apart.

A stream is a row of messages and an end marker:

    FFFFFFFF  metadata length (int32)  metadata (flatbuffer)  body        one message
    FFFFFFFF  00000000                                                    the end marker

A reader that stops where the bytes stop can't tell a stream that was cut between two messages
from a whole one; so the marker is demanded. A compressed body says in front of each buffer how
large it gets (int64, -1 = as it is); those claims are added up before anything is decompressed.
The layout of the flatbuffers is that of Arrow's format/Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from nearql.server.decoding.batches import corrupt

CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Frames:
    """What the frames of a whole stream claim. expanded: bytes of all bodies once decompressed."""

    messages: int
    rows: int
    expanded: int


class _Table:
    """A flatbuffer table inside `data`; reads beyond it raise struct.error."""

    def __init__(self, data: memoryview, position: int) -> None:
        if position < 0:
            raise struct.error("position before the start")
        self._data = data
        self._position = position
        self._vtable = position - _read(data, "<i", position)
        if self._vtable < 0:
            raise struct.error("vtable before the start")
        self._length = _read(data, "<H", self._vtable)

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        return cls(data, _read(data, "<I", 0))

    def _field(self, number: int) -> int:
        """Where the field is; 0 where it has its default."""
        slot = 4 + 2 * number
        offset = _read(self._data, "<H", self._vtable + slot) if slot < self._length else 0
        return self._position + offset if offset else 0

    def scalar(self, number: int, form: str) -> int:
        at = self._field(number)
        return _read(self._data, form, at) if at else 0

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return _Table(self._data, at + _read(self._data, "<I", at)) if at else None

    def buffers(self, number: int) -> Iterator[tuple[int, int]]:
        """A vector of (offset, length) pairs of int64."""
        at = self._field(number)
        if not at:
            return
        start = at + _read(self._data, "<I", at)
        for index in range(_read(self._data, "<I", start)):
            pair = start + 4 + 16 * index
            yield _read(self._data, "<q", pair), _read(self._data, "<q", pair + 8)


def _read(data: memoryview, form: str, position: int) -> int:
    value: int = struct.unpack_from(form, data, position)[0]
    return value


def read_frames(stream: pa.Buffer) -> Frames:
    """Walk the messages of a stream.

    Raises:
        InvalidRequest: it is cut or damaged; says after which message and byte.
    """
    data, position, messages, rows, expanded = memoryview(stream), 0, 0, 0, 0
    while True:
        start, length = _metadata(data, position, messages)
        if length == 0:
            break
        try:
            claimed = _message(data, start, length)
        except struct.error as error:
            raise corrupt(f"Message {messages} of the Arrow stream is damaged: {error}.") from error
        position = start + length + claimed.body
        if claimed.body < 0 or position > len(data):
            missing = position - len(data)
            raise corrupt(
                f"The Arrow stream is cut inside message {messages}: {missing} bytes are missing."
            )
        messages, rows, expanded = messages + 1, rows + claimed.rows, expanded + claimed.expanded
    if start != len(data):
        raise corrupt(f"{len(data) - start} bytes follow the Arrow stream's end marker.")
    return Frames(messages, rows, expanded)


def _metadata(data: memoryview, position: int, messages: int) -> tuple[int, int]:
    """Where a message's metadata starts and how long it is; length 0 = the end marker."""
    try:
        length = _read(data, "<I", position)
        position += 4
        if length == CONTINUATION:
            length = _read(data, "<I", position)
            position += 4
    except struct.error:
        raise corrupt(
            f"The Arrow stream ends after {len(data)} bytes and {messages} messages without its "
            "end-of-stream marker: it was cut (or its writer was not closed)."
        ) from None
    if position + length > len(data):
        raise corrupt(
            f"This is no Arrow stream, or it is cut: message {messages} claims {length} bytes of "
            f"metadata and {len(data) - position} are there."
        )
    return position, length


@dataclass(frozen=True, slots=True)
class _Claim:
    body: int
    rows: int
    expanded: int


def _message(data: memoryview, start: int, length: int) -> _Claim:
    message = _Table.root(data[start : start + length])
    kind, body = message.scalar(1, "<B"), message.scalar(3, "<q")
    header = message.table(2)
    if kind == _DICTIONARY and header is not None:
        header = header.table(1)
    if kind not in (_DICTIONARY, _RECORDS) or header is None:
        return _Claim(body, 0, max(body, 0))
    rows = header.scalar(0, "<q")
    if rows < 0:
        raise struct.error(f"it claims {rows} rows")
    expanded = body if header.table(3) is None else _expanded(data, start + length, header)
    return _Claim(body, rows if kind == _RECORDS else 0, max(expanded, 0))


def _expanded(data: memoryview, body: int, header: _Table) -> int:
    """Bytes of a compressed body after decompression, as its buffers claim."""
    total = 0
    for offset, length in header.buffers(2):
        if length <= 0:
            continue
        if offset < 0:
            raise struct.error("a buffer before the body")
        claimed = _read(data, "<q", body + offset)
        total += length if claimed < 0 else claimed
    return total

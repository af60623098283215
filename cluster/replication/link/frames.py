"""A frame: what one node says to another at once.

    offset  bytes  field
    0       2      magic "NR"
    2       1      version of this layout
    3       1      kind
    4       4      payload bytes
    8       4      crc32c of bytes 0 to 7 and the payload
    12             payload

The length is judged before a byte is stored, and the bytes go straight to where they stay: nothing
that a stranger sends takes more memory than the limit for strangers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

MAGIC = b"NR"
LAYOUT = 1
MAX_FRAME_BYTES = 32 << 20
_HEAD = struct.Struct(">2sBBI")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEAD.size + _CRC.size


class Kind(IntEnum):
    """What a frame's payload is; numbers never change meaning."""

    HELLO = 1
    WELCOME = 2
    PING = 3  # "still here": empty
    SHARD = 4  # a message of the core, see `codec`
    NOTICE = 5  # a topic and its bytes
    CALL = 6
    CALL_PART = 7
    CALL_CANCEL = 8
    CALL_CREDIT = 9
    ANSWER_PART = 10
    ANSWER_END = 11
    ANSWER_ERROR = 12


class Frame(NamedTuple):
    """A whole frame whose checksum fits."""

    kind: Kind
    payload: memoryview


class Malformed(ValueError):
    """Bytes that no node of this version sends; the text is the reason's word."""


def pack(kind: Kind, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The buffers of one frame; `parts`, one after the other, are its payload.

    Raises:
        Malformed: `oversized`: the other end would refuse it.
    """
    size = sum(len(part) for part in parts)
    if size > MAX_FRAME_BYTES:
        raise Malformed("oversized")
    head = _HEAD.pack(MAGIC, LAYOUT, kind, size)
    crc = crc32c(head)
    for part in parts:
        crc = crc32c(part, crc)
    return [head + _CRC.pack(crc), *parts]


class Assembler:
    """Makes frames of the bytes that come. limit: of a payload; may be raised between frames."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._header = bytearray(HEADER_BYTES)
        self._payload: bytearray | None = None  # None: the header is being read
        self._kind = Kind.PING
        self._filled = 0

    def room(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        target = self._header if self._payload is None else self._payload
        return memoryview(target)[self._filled :]

    def filled(self, count: int) -> Frame | None:
        """Note that `count` bytes were put into `room`; the frame, if they complete one.

        Raises:
            Malformed: the connection can't be read any further.
        """
        self._filled += count
        if self._payload is None:
            if self._filled < HEADER_BYTES:
                return None
            self._begin()
        assert self._payload is not None
        return self._complete() if self._filled == len(self._payload) else None

    def _begin(self) -> None:
        magic, layout, kind, size = _HEAD.unpack_from(self._header)
        if magic != MAGIC or layout != LAYOUT:
            raise Malformed("malformed")
        if size > self.limit:
            raise Malformed("oversized")
        try:
            self._kind = Kind(kind)
        except ValueError as error:
            raise Malformed("malformed") from error
        self._payload, self._filled = bytearray(size), 0

    def _complete(self) -> Frame:
        payload, self._payload, self._filled = self._payload, None, 0
        assert payload is not None
        crc = crc32c(payload, crc32c(bytes(self._header[: _HEAD.size])))
        if _CRC.unpack_from(self._header, _HEAD.size)[0] != crc:
            raise Malformed("checksum")
        return Frame(self._kind, memoryview(payload))

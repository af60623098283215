"""An Arrow IPC stream as a pure decoder: bytes in, record batches out, no sockets.

pyarrow reads a stream by pulling from a file; a client that serves blocking sockets and asyncio
alike needs one that is pushed. A stream is messages, each framed by what it says of itself:

    ff ff ff ff | metadata's length | metadata (flatbuffer) | body, as long as the metadata says

This finds where a message ends and leaves the rest to pyarrow, which gets the schema, the
dictionaries so far and one batch as a little stream of its own. At most one message is held.

Format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

CONTINUATION = b"\xff\xff\xff\xff"
PREFIX_BYTES = 8
METADATA_BYTES = 16 << 20  # more than any schema of ours has
DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # values of Message.header_type in Arrow's Message.fbs


class BadStream(ValueError):
    """The bytes are no Arrow stream, or end in the middle of one."""


class BatchDecoder:
    """Gathers messages. Invariant: `schema` is None until the first message is whole.

    ended: the end marker came; nothing may follow it.
    """

    def __init__(self) -> None:
        self.schema: pa.Schema | None = None
        self.ended = False
        self._buffer = bytearray()
        self._before: list[bytes] = []  # the schema's message, then those of dictionaries

    def feed(self, data: bytes) -> list[pa.RecordBatch]:
        """Take bytes; the batches that they complete.

        Raises:
            BadStream: they are no Arrow stream.
        """
        self._buffer += data
        batches = []
        while (message := self._next_message()) is not None:
            kind, content = message
            if kind == RECORD_BATCH:
                batches.append(self._batch(content))
            else:
                self._before.append(content)
                self.schema = self.schema or self._opened(b"").schema
        return batches

    def finish(self) -> None:
        """Say that no more bytes come. Raises BadStream where the stream is not whole."""
        if self._buffer or self.schema is None:
            raise BadStream("the Arrow stream ends in the middle of a message")

    def _next_message(self) -> tuple[int, bytes] | None:
        """(kind, bytes) of the next whole message; None where more bytes are needed."""
        if self.ended:
            if self._buffer:
                raise BadStream("bytes follow the end of the Arrow stream")
            return None
        if len(self._buffer) < PREFIX_BYTES:
            return None
        length = self._metadata_length()
        if not length:
            self.ended = True
            del self._buffer[:PREFIX_BYTES]
            return self._next_message()
        stop = PREFIX_BYTES + length
        if len(self._buffer) < stop:
            return None
        kind, body = _header(bytes(self._buffer[PREFIX_BYTES:stop]))
        stop += body
        if len(self._buffer) < stop:
            return None
        message = bytes(memoryview(self._buffer)[:stop])
        del self._buffer[:stop]
        return kind, message

    def _metadata_length(self) -> int:
        if self._buffer[:4] != CONTINUATION:
            raise BadStream(f"an Arrow message starts with {bytes(self._buffer[:4])!r}")
        length: int = struct.unpack_from("<i", self._buffer, 4)[0]
        if not 0 <= length <= METADATA_BYTES:
            raise BadStream(f"an Arrow message says that its metadata has {length} bytes")
        return length

    def _batch(self, content: bytes) -> pa.RecordBatch:
        import pyarrow as pa

        try:
            return self._opened(content).read_next_batch()
        except (pa.lib.ArrowException, OSError, StopIteration) as error:
            raise BadStream(f"an Arrow batch is broken ({error})") from error

    def _opened(self, content: bytes) -> Any:
        import pyarrow as pa

        try:
            return pa.ipc.open_stream(b"".join([*self._before, content]))
        except (pa.lib.ArrowException, OSError) as error:  # OSError: a flatbuffer that is none
            raise BadStream(f"the Arrow stream's head is broken ({error})") from error


def _header(metadata: bytes) -> tuple[int, int]:
    """(header_type, bodyLength) of a Message: fields 1 and 3 of its flatbuffer table."""
    try:
        (table,) = struct.unpack_from("<I", metadata)
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        kind = struct.unpack_from("<B", metadata, table + _offset(metadata, fields, 1))[0]
        place = _offset(metadata, fields, 3)
        body = struct.unpack_from("<q", metadata, table + place)[0] if place else 0
    except struct.error as error:
        raise BadStream(f"an Arrow message's head is broken ({error})") from error
    if body < 0:
        raise BadStream(f"an Arrow message says that its body has {body} bytes")
    return kind, body


def _offset(metadata: bytes, fields: int, number: int) -> int:
    """Where a field of a flatbuffer table is, from the table; 0 where it has its default."""
    (size,) = struct.unpack_from("<H", metadata, fields)
    place = 4 + 2 * number
    return struct.unpack_from("<H", metadata, fields + place)[0] if place + 2 <= size else 0

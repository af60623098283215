"""Request bodies: counted against their limit as they arrive, decompressed as they arrive.

`Content-Encoding: gzip` and `zstd` are undone piece by piece, in threads of their own, few enough
that bodies which expand a lot leave the cores to others. Two bounds keep a small body from becoming
a huge one: the limit of the route counts decompressed bytes, and beyond `limits.expansion_free`
bytes (JSON: `limits.json_expansion_free`) the output may be at most `limits.expansion_ratio` times
the input.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import zstandard
from starlette.requests import Request
from starlette.types import Message

from nearql.engine.errors import InvalidRequest, Overloaded, TooLarge, UnsupportedMediaType
from nearql.server.config import LimitsSection
from nearql.server.request import body_chunks, body_too_large, check_length
from nearql.server.spool import SpoolMemory

PIECE_BYTES = 1 << 20
_EXPANDING = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4), "nearql-expand")


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """What a route's body may be. size: bytes; setting: what to raise; ratio, free: expansion."""

    size: int
    setting: str
    ratio: int
    free: int

    @classmethod
    def json(cls, limits: LimitsSection) -> BodyLimit:
        """Of a JSON body."""
        ratio, free = limits.expansion_ratio, limits.json_expansion_free
        return cls(limits.json_body, "limits.json_body", ratio, free)

    @classmethod
    def stream(cls, limits: LimitsSection) -> BodyLimit:
        """Of a streamed body."""
        ratio, free = limits.expansion_ratio, limits.expansion_free
        return cls(limits.stream_body, "limits.stream_body", ratio, free)

    def expanded(self, size: int) -> int:
        """Bytes that a body of `size` bytes may expand to."""
        return max(self.free, self.ratio * size)


class Decoder(Protocol):
    """Undoes one content encoding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Output that `data` completes, in pieces of a few PIECE_BYTES at most."""

    @property
    def finished(self) -> bool:
        """Whether the encoding's own end was seen."""


class Gzip:
    """RFC 1952; several members one after the other are one body."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._used = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            yield self._member.decompress(data, PIECE_BYTES)
            data = self._member.unused_data or self._member.unconsumed_tail

    @property
    def finished(self) -> bool:
        return self._member.eof


class Zstd:
    """RFC 8878; several frames one after the other are one body."""

    # A frame may ask for a window of gigabytes; 8 MiB is what RFC 8878 asks decoders to support.
    WINDOW_BYTES = 8 << 20
    # One call's output can't be bounded but by its input: four bytes can stand for 128 KiB.
    INPUT_BYTES = 64

    def __init__(self) -> None:
        self._frame = self._fresh()

    def _fresh(self) -> zstandard.ZstdDecompressionObj:
        decoder = zstandard.ZstdDecompressor(max_window_size=self.WINDOW_BYTES)
        return decoder.decompressobj(write_size=PIECE_BYTES)

    def feed(self, data: bytes) -> Iterator[bytes]:
        made, size = list[bytes](), 0
        for start in range(0, len(data), self.INPUT_BYTES):
            piece = data[start : start + self.INPUT_BYTES]
            while piece:
                if self._frame.eof:
                    self._frame = self._fresh()
                made.append(self._frame.decompress(piece))
                size += len(made[-1])
                piece = self._frame.unused_data
            if size >= PIECE_BYTES:
                yield b"".join(made)
                made, size = [], 0
        yield b"".join(made)

    @property
    def finished(self) -> bool:
        return self._frame.eof


_DECODERS: dict[str, type[Gzip] | type[Zstd]] = {"gzip": Gzip, "x-gzip": Gzip, "zstd": Zstd}


async def decoded_chunks(request: Request, limit: BodyLimit) -> AsyncIterator[bytes]:
    """The body's bytes after decompression.

    Raises:
        TooLarge: more bytes than the limit, or an expansion beyond its ratio.
        UnsupportedMediaType: an encoding other than gzip and zstd.
        InvalidRequest: a damaged or incomplete encoding, or an unfinished body.
    """
    check_length(request, limit.size, limit.setting)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    chunks = body_chunks(request)
    output = chunks if encoding in ("identity", "") else _decompressed(chunks, encoding, limit)
    size = 0
    async for chunk in output:
        size += len(chunk)
        if size > limit.size:
            raise body_too_large(limit.size, limit.setting, f"at least {size} bytes arrived")
        yield chunk


async def _decompressed(
    chunks: AsyncIterator[bytes], encoding: str, limit: BodyLimit
) -> AsyncIterator[bytes]:
    kind = _DECODERS.get(encoding)
    if kind is None:
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding[:80]!r} is not known; send gzip, zstd or none."
        )
    decoder, taken, given = kind(), 0, 0
    loop = asyncio.get_running_loop()
    async for chunk in chunks:
        taken += len(chunk)
        pieces = _pieces(decoder, chunk, encoding, taken)
        while (piece := await loop.run_in_executor(_EXPANDING, next, pieces, None)) is not None:
            given += len(piece)
            if given > limit.expanded(taken):
                raise expands_too_far(taken, limit)
            yield piece
    if not decoder.finished:
        raise _damaged(encoding, taken, "it ends before its end marker")


def _pieces(decoder: Decoder, chunk: bytes, encoding: str, taken: int) -> Iterator[bytes]:
    try:
        yield from decoder.feed(chunk)
    except (zlib.error, zstandard.ZstdError) as error:
        raise _damaged(encoding, taken, str(error)) from error


def _damaged(encoding: str, taken: int, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The {encoding} body is damaged within its first {taken} bytes: {reason}. Nothing was "
        "stored.",
        code="invalid_encoding",
    )


def expands_too_far(taken: int, limit: BodyLimit) -> TooLarge:
    """The 413 for a compressed body that becomes too large."""
    return TooLarge(
        f"{taken} bytes of compressed body expand to more than {limit.expanded(taken)} "
        f"({limit.ratio} times, limits.expansion_ratio). Send it in parts or uncompressed.",
        code="expansion_too_large",
    )


class JsonRoom:
    """Memory for one large JSON body, out of what all of them may take (limits.json_memory)."""

    def __init__(self, memory: SpoolMemory) -> None:
        self._memory = memory
        self._taken = 0

    def __enter__(self) -> JsonRoom:
        return self

    def __exit__(self, *exception: object) -> None:
        self._memory.give(self._taken)

    async def read(self, request: Request, limit: BodyLimit) -> bytes:
        """The whole body; room is taken before each piece is kept.

        Raises:
            Overloaded: other bodies have the room.
        """
        chunks: list[bytes] = []
        async for chunk in decoded_chunks(request, limit):
            if not self._memory.take(len(chunk)):
                raise Overloaded(
                    "The JSON bodies under way fill their memory (limits.json_memory); retry "
                    "later, or send rows to POST /v1/tables/{table}/rows.",
                )
            self._taken += len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)


def is_small(request: Request) -> bool:
    """Whether a body says itself that it is short and not compressed: no room is taken for it."""
    length = b""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            length = value
        elif name == b"content-encoding":
            return False
    return 0 < len(length) < 6 and length.isdigit()


async def read_small(request: Request, limit: BodyLimit) -> bytes:
    """The whole body, where `is_small` says so; one that comes in one piece takes no detour."""
    check_length(request, limit.size, limit.setting)
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    return await _read_on(request, limit, message)


async def _read_on(request: Request, limit: BodyLimit, first: Message) -> bytes:
    """A body whose first message was taken already."""

    async def receive() -> Message:
        nonlocal first
        taken, first = first, {}
        return taken or await request.receive()

    return await read_body(Request(request.scope, receive), limit)


async def read_body(request: Request, limit: BodyLimit) -> bytes:
    """The whole body, in memory."""
    return b"".join([chunk async for chunk in decoded_chunks(request, limit)])

"""Compressed bodies: what comes out is what went in, and a small body never becomes a huge one."""

from __future__ import annotations

import asyncio
import gzip
import struct
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import zstandard
from starlette.requests import Request
from starlette.types import Message

from nearql.engine.errors import InvalidRequest, TooLarge
from nearql.server import body as b
from nearql.server.config import LimitsSection

BLOCK = 128 << 10  # what a block of zstd may hold
TEXT = b"".join(b"%d," % (n * n) for n in range(60_000))


def received(sent: bytes, encoding: str, limits: LimitsSection, part: int = 65_536) -> bytes:
    """The body that a request in parts gives, read as JSON bodies are."""
    parts = [sent[at : at + part] for at in range(0, len(sent), part)] or [b""]
    headers = [(b"content-encoding", encoding.encode())]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(b.read_body(request, b.BodyLimit.json(limits)))


def repeating(blocks: int) -> bytes:
    """A frame of zstd of blocks that repeat one byte: 4 bytes for 128 KiB."""
    head = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3)
    block = [
        struct.pack("<I", BLOCK << 3 | 1 << 1 | (n == blocks - 1))[:3] + b" " for n in range(blocks)
    ]
    return head + b"".join(block)


@pytest.mark.parametrize("part", [1, 63, 64, 65, 4096, 1 << 20])
@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)]
)
def test_what_comes_out_is_what_went_in(
    encoding: str, pack: Callable[[bytes], bytes], part: int
) -> None:
    sent = pack(TEXT[: 2000 if part == 1 else None])
    assert received(sent, encoding, LimitsSection(), part) == TEXT[: 2000 if part == 1 else None]


def test_a_few_bytes_of_zstd_never_become_all_they_stand_for_at_once() -> None:
    sent = repeating(1000)
    assert len(zstandard.ZstdDecompressor().decompressobj().decompress(sent)) == 1000 * BLOCK
    decoder = b.Zstd()
    pieces = [len(piece) for piece in decoder.feed(sent)]
    assert sum(pieces) == 1000 * BLOCK
    assert max(pieces) < b.PIECE_BYTES + (b.Zstd.INPUT_BYTES // 4 + 2) * BLOCK
    assert decoder.finished


@pytest.mark.parametrize("sent", [gzip.compress(b" " * (64 << 20)), repeating(512)])
def test_a_bomb_is_refused_long_before_the_limit_of_the_route(sent: bytes) -> None:
    encoding = "gzip" if sent.startswith(b"\x1f\x8b") else "zstd"
    limits = LimitsSection(expansion_free=64 << 20)
    with pytest.raises(TooLarge) as told:
        received(sent, encoding, limits, 1 << 20)
    assert told.value.code == "expansion_too_large"
    assert str(max(limits.json_expansion_free, 20 * len(sent))) in told.value.detail


def test_free_is_free_and_no_more() -> None:
    sent = gzip.compress(b" " * 100_000)
    at_the_edge = replace(LimitsSection(), json_expansion_free=100_000)
    assert received(sent, "gzip", at_the_edge) == b" " * 100_000
    with pytest.raises(TooLarge):
        received(sent, "gzip", replace(at_the_edge, json_expansion_free=99_999))


def test_nothing_is_expanded_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    feed = b.Gzip.feed

    def watched(self: b.Gzip, data: bytes) -> object:
        seen.append(threading.current_thread().name)
        return feed(self, data)

    monkeypatch.setattr(b.Gzip, "feed", watched)
    assert received(gzip.compress(TEXT), "gzip", LimitsSection(), 1000) == TEXT
    assert seen
    assert all(name.startswith("nearql-expand") for name in seen)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_ends_too_soon_is_damaged(encoding: str) -> None:
    sent = gzip.compress(TEXT) if encoding == "gzip" else zstandard.compress(TEXT)
    with pytest.raises(InvalidRequest, match="ends before its end marker"):
        received(sent[:-5], encoding, LimitsSection())

"""Codes are made beside searches, tile by tile, within their memory, and go with their segment."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine import codes
from nearql.engine.codes import Coder, Codes, Rows, Tile
from nearql.engine.types import Metric
from support.waiting import wait_for


@pytest.fixture(autouse=True)
def small_tiles() -> Iterator[None]:
    """Tiles of 10 rows; 4 rows more are worth a tile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "TILE_ROWS", 10)
        patch.setattr(codes, "LEAST_ELEMENTS", 8)
        patch.setattr(codes, "LEAST_GROWTH", 4)
        yield


def encode(vectors: Any, valid: Any, metric: Metric, low: int) -> Tile:
    """A tile of 18 bytes a row, whose index is what it was made of."""
    del valid, metric
    return Tile(low, low + len(vectors), vectors.copy(), 0.0, 0.0, 18 * len(vectors))


def rows(count: int, kept: Codes) -> Rows:
    """The first rows of a column of two dimensions."""
    vectors: NDArray[np.float32] = np.arange(2 * count, dtype=np.float32).reshape(-1, 2)
    return Rows(vectors, None, kept)


def ranges(tiles: tuple[Tile, ...]) -> list[tuple[int, int]]:
    """What tiles cover."""
    return [(tile.low, tile.high) for tile in tiles]


def made(coder: Coder, asked: Rows, metric: Metric = Metric.L2) -> list[tuple[int, int]]:
    """What is coded after a search asked and the coder did what it was asked."""
    coder.tiles(asked, metric)
    coder.settle()
    return ranges(coder.tiles(asked, metric))


def test_a_search_uses_what_there_is_and_the_next_one_more() -> None:
    coder, kept = Coder(encode, 1 << 20), Codes()
    assert coder.tiles(rows(25, kept), Metric.L2) == ()
    coder.settle()
    assert ranges(coder.tiles(rows(25, kept), Metric.L2)) == [(0, 10), (10, 20), (20, 25)]
    assert coder.tiles(rows(25, kept), Metric.COSINE) == (), "each metric has its own"
    coder.close()


def test_a_growing_segment_has_its_last_tile_made_again() -> None:
    coder, kept = Coder(encode, 1 << 20), Codes()
    assert made(coder, rows(13, kept)) == [(0, 10)], "3 rows more are not worth it"
    assert made(coder, rows(14, kept)) == [(0, 10), (10, 14)]
    assert made(coder, rows(17, kept)) == [(0, 10), (10, 14)]
    assert made(coder, rows(18, kept)) == [(0, 10), (10, 18)]
    assert made(coder, rows(26, kept)) == [(0, 10), (10, 20), (20, 26)]
    assert coder.bytes == 26 * 18
    coder.close()


def test_an_older_view_sees_no_tile_beyond_its_end() -> None:
    coder, kept = Coder(encode, 1 << 20), Codes()
    made(coder, rows(26, kept))
    assert made(coder, rows(24, kept)) == [(0, 10), (10, 20)]
    assert made(coder, rows(26, kept)) == [(0, 10), (10, 20), (20, 26)], "it is not undone"
    coder.close()


@pytest.mark.parametrize(("room", "expected"), [(9, []), (10 * 18, [(0, 10)]), (380, 2)])
def test_no_more_than_the_memory_allows(room: int, expected: Any) -> None:
    coder, kept = Coder(encode, room), Codes()
    found = made(coder, rows(100, kept))
    assert (len(found) == expected) if isinstance(expected, int) else found == expected
    assert coder.bytes <= room
    coder.close()


def test_memory_returns_with_the_segment() -> None:
    coder, kept, other = Coder(encode, 1 << 20), Codes(), Codes()
    made(coder, rows(20, kept))
    made(coder, rows(20, kept), Metric.COSINE)
    made(coder, rows(30, other))
    assert coder.bytes == 18 * (20 + 20 + 30)
    del kept
    gc.collect()
    wait_for(lambda: coder.bytes == 18 * 30, "the first segment's codes to be given back")
    coder.close()


def test_none_are_made_for_small_segments_or_without_room() -> None:
    coder, kept = Coder(encode, 0), Codes()
    assert made(coder, rows(100, kept)) == []
    coder.close()
    coder = Coder(encode, 1 << 20)
    assert made(coder, rows(3, kept)) == []
    coder.close()


def test_searches_do_not_wait_and_ask_once() -> None:
    gate, calls = threading.Event(), []

    def slow(vectors: Any, valid: Any, metric: Metric, low: int) -> Tile:
        calls.append(low)
        gate.wait()
        return encode(vectors, valid, metric, low)

    coder, kept = Coder(slow, 1 << 20), Codes()
    for _ in range(5):
        assert coder.tiles(rows(10, kept), Metric.L2) == ()
    gate.set()
    coder.settle()
    assert calls == [0]
    coder.close()


def test_a_failure_is_told_once_and_searches_go_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(vectors: Any, valid: Any, metric: Metric, low: int) -> Tile:
        raise ValueError("no codes today")

    coder, kept = Coder(broken, 1 << 20), Codes()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert made(coder, rows(10, kept)) == []
    assert caplog.text.count("ValueError: no codes today") == 1
    coder.close()


def test_a_failure_says_nothing_of_codes_that_come_to_lie_in_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is handed out again: an address names nothing for longer than its object lives."""
    monkeypatch.setattr(codes, "id", lambda one: 1, raising=False)
    failing = [True]

    def encode_later(vectors: Any, valid: Any, metric: Metric, low: int) -> Tile:
        if failing[0]:
            raise ValueError("no codes today")
        return encode(vectors, valid, metric, low)

    coder = Coder(encode_later, 1 << 20)
    assert made(coder, rows(10, Codes())) == []
    failing[0] = False
    assert made(coder, rows(10, Codes())) == [(0, 10)]


def test_a_closed_coder_makes_nothing() -> None:
    coder, kept = Coder(encode, 1 << 20), Codes()
    coder.close()
    assert coder.tiles(rows(10, kept), Metric.L2) == ()
    assert coder.tiles(rows(10, kept), Metric.L2) == ()

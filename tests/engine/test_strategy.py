"""The rules of strategy, at their edges."""

from __future__ import annotations

import pytest

from nearql.engine import strategy


@pytest.mark.parametrize(
    ("qualifying", "row_bytes", "copies", "expected"),
    [
        (0, 1536, False, True),
        (650, 1536, False, True),  # 384 float32: up to two thirds of the rows are visited singly
        (660, 1536, False, False),
        (320, 400, False, True),  # 100 float32: up to a third
        (340, 400, False, False),
        (320, 1536, True, True),  # where rows are copied, up to a third
        (335, 1536, True, False),
        (1_000, 1536, False, False),
    ],
)
def test_visits(qualifying: int, row_bytes: int, copies: bool, expected: bool) -> None:
    assert strategy.visits(qualifying, 1_000, row_bytes, copies=copies) is expected


def test_an_empty_block_is_scanned() -> None:
    assert strategy.visits(0, 0, 1536, copies=False) is False


def test_overfetch_exceeds_k() -> None:
    assert strategy.overfetch(1) == 55
    assert strategy.overfetch(16_384) == 16_384 + 4_096


def test_batches_shrink_as_candidates_grow() -> None:
    assert strategy.batch_queries(64) == strategy.LARGEST_BATCH
    assert strategy.batch_queries(strategy.BATCH_ENTRIES // 2) == 2
    assert strategy.batch_queries(10 * strategy.BATCH_ENTRIES) == 1
    assert strategy.batch_queries(0) == strategy.LARGEST_BATCH


def test_few_searches_are_not_worth_waiting_for() -> None:
    assert not strategy.shares(strategy.SHARED_QUERIES - 1)
    assert strategy.shares(strategy.SHARED_QUERIES)


def test_small_blocks_are_not_cut() -> None:
    rows = strategy.PIECE_ELEMENTS // 64
    assert strategy.pieces(0, 64) == 1
    assert strategy.pieces(2 * rows - 1, 64) == 1
    assert strategy.pieces(2 * rows, 64) == 2
    assert strategy.pieces(100 * rows, 64) == 100

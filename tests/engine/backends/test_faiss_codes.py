"""Searches over codes name every row that may be nearest; `test_search` compares whole answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.backends import faiss_codes
from nearql.engine.backends.base import Block
from nearql.engine.codes import Tile
from nearql.engine.distance import canonical_distances, row_norms
from nearql.engine.team import Team
from nearql.engine.types import Metric
from support.search_cases import make_vectors

METRICS = faiss_codes.METRICS


def block(
    vectors: NDArray[Any], metric: Metric, mask: NDArray[np.bool_] | None = None, step: int = 500
) -> Block:
    """All rows coded, in tiles of `step`."""
    tiles = [
        faiss_codes.encode(vectors[low : low + step], None, metric, low)
        for low in range(0, len(vectors), step)
    ]
    norms = row_norms(vectors)
    return Block(vectors, norms, float(norms.max()), mask=mask, tiles=tiles)


def named(coded: Block, query: NDArray[np.float32], metric: Metric, k: int) -> NDArray[np.int64]:
    """Contenders for k; the query as backends scale it."""
    asked = query if metric is Metric.L2 else -query
    if metric is Metric.COSINE:
        asked = asked / np.linalg.norm(query)
    return faiss_codes.contenders(
        coded, asked.astype(np.float32), metric, k=k, limit=np.inf, team=Team(1)
    )


def nearest(coded: Block, query: NDArray[np.float32], metric: Metric, k: int) -> set[int]:
    """Rows whose distance is at most the k-th, by brute force."""
    distances = canonical_distances(coded.vectors, query, metric)
    distances[~(np.ones(len(distances), bool) if coded.mask is None else coded.mask)] = np.inf
    return set(np.flatnonzero(distances <= np.sort(distances)[k - 1]).tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimensions", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("kind", ["normal", "unit", "far_cluster"])
def test_codes_are_no_further_from_rows_than_their_loss(
    metric: Metric, dimensions: int, kind: str
) -> None:
    random = np.random.default_rng(1)
    vectors = make_vectors(random, kind, 300, dimensions)
    tile = faiss_codes.encode(vectors, None, metric, 0)
    rows = vectors.astype(np.float64)
    if metric is Metric.COSINE:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    said = tile.index.reconstruct_n(0, 300).astype(np.float64)
    said[:, :dimensions] -= rows
    off = np.linalg.norm(said, axis=1)
    assert off.max() <= tile.loss
    assert tile.loss <= 2 * off.max() + 1e-6 * tile.longest, "far above it, rows are named in vain"
    assert (tile.low, tile.high) == (0, 300)


@pytest.mark.parametrize("metric", METRICS)
def test_few_rows_are_named(metric: Metric) -> None:
    random = np.random.default_rng(2)
    coded = block(make_vectors(random, "normal", 4_000, 64), metric)
    for query in make_vectors(random, "normal", 20, 64):
        found = named(coded, query, metric, 10)
        assert nearest(coded, query, metric, 10) <= set(found.tolist())
        assert len(found) < 100
        assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_one_tile_may_hold_more_near_rows_than_it_was_asked_for(metric: Metric) -> None:
    """200 copies in one tile: the few that it returns are not all that tie."""
    random = np.random.default_rng(3)
    vectors = make_vectors(random, "unit", 2_000, 32)
    vectors[600:800] = vectors[600]
    found = named(block(vectors, metric), vectors[600] * np.float32(2), metric, 10)
    assert set(range(600, 800)) <= set(found.tolist())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("deep", "ranges"), [(1, 1), (100, 1), (300, 0)])
def test_many_near_rows_take_one_more_look(
    metric: Metric, masked: bool, deep: int, ranges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 copies among 2,000 rows: a deeper look finds all of them, or finds that it is not deep
    enough, and FAISS's slow range search has to. Both ways the same rows are named.
    """
    random = np.random.default_rng(8)
    vectors = make_vectors(random, "unit", 2_000, 32)
    vectors[600:800] = vectors[600]
    mask = np.arange(2_000) % 2 == 0 if masked else None
    asked = []
    within = faiss_codes._Search.within

    def noted(search: Any, tile: Tile, reach: float) -> NDArray[np.int64]:
        asked.append(tile)
        return within(search, tile, reach)

    monkeypatch.setattr(faiss_codes, "_DEEP", deep)
    monkeypatch.setattr(faiss_codes._Search, "within", noted)
    coded = block(vectors, metric, mask, step=2_000)
    found = named(coded, vectors[600] * np.float32(2), metric, 10)
    copies = range(600, 800, 2 if masked else 1)
    assert set(copies) <= set(found.tolist()) <= set(coded.matching.tolist())
    assert (np.diff(found) > 0).all()
    assert len(asked) == ranges


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0.002, 0.3, 0.9])
def test_under_a_mask(metric: Metric, share: float) -> None:
    random = np.random.default_rng(4)
    vectors = make_vectors(random, "normal", 4_000, 24)
    coded = block(vectors, metric, random.random(4_000) < share)
    for query in make_vectors(random, "normal", 10, 24):
        found = set(named(coded, query, metric, 3).tolist())
        assert nearest(coded, query, metric, 3) <= found <= set(coded.matching.tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_a_mask_of_the_farthest_rows(metric: Metric) -> None:
    """None of them is among the nearest of any tile, so each row is tested against the mask."""
    random = np.random.default_rng(5)
    vectors = make_vectors(random, "unit", 3_000, 16)
    query = vectors[0].copy()
    far = canonical_distances(vectors, query, metric) > 1.2 - (metric is Metric.INNER_PRODUCT)
    coded = block(vectors, metric, far)
    found = set(named(coded, query, metric, 10).tolist())
    assert nearest(coded, query, metric, 10) <= found <= set(coded.matching.tolist())
    assert len(found) < coded.count


def test_fewer_matches_than_asked_for_are_all_named() -> None:
    random = np.random.default_rng(6)
    mask = np.zeros(1_000, bool)
    mask[[3, 700]] = True
    coded = block(make_vectors(random, "normal", 1_000, 8), Metric.L2, mask)
    assert named(coded, np.ones(8, np.float32), Metric.L2, 5).tolist() == [3, 700]


def uncoded(vectors: Any, metric: Metric, valid: Any = None) -> bool:
    """Whether rows are left to be scanned as they are."""
    tile: Tile = faiss_codes.encode(vectors, valid, metric, 0)
    return tile.index is None


def test_rows_that_codes_cannot_stand_for_are_left() -> None:
    vectors = np.ones((100, 8), np.float32)
    assert not any(uncoded(vectors, metric) for metric in METRICS)
    vectors[40] = 0
    assert uncoded(vectors, Metric.COSINE), "a zero vector has no direction"
    assert not uncoded(vectors, Metric.L2)
    vectors[40] = 1e20
    assert all(uncoded(vectors, metric) for metric in METRICS), "it would stretch the codes"
    valid = np.ones(100, bool)
    valid[40] = False
    vectors[40] = np.nan
    assert not any(uncoded(vectors, metric, valid) for metric in METRICS), "it can't match"

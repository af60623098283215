"""Batches by projection: floors hold, few rows get a score, and only data that it suits take it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine.backends import projected
from nearql.engine.backends.base import Block
from nearql.engine.distance import canonical_distances, row_norms, score_limit
from nearql.engine.team import Team
from nearql.engine.types import Metric

ROWS, DIMENSIONS, QUERIES = 4_000, 96, 40
METRICS = [Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the batch were large; the number of directions is chosen as ever."""
    monkeypatch.setattr(projected, "LEAST_QUERIES", 1)
    monkeypatch.setattr(projected, "LEAST_ROWS", 1)
    monkeypatch.setattr(projected, "_TILE", 16)
    monkeypatch.setattr(projected, "_STRETCH", 1_500)
    monkeypatch.setattr(projected, "_ROWS", 256)


def falling(random: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Rows that lie more in some directions than in others, as embeddings do."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    spread = 0.93 ** np.arange(DIMENSIONS)
    made = (random.normal(size=(rows, DIMENSIONS)) * spread) @ axes
    return np.asarray(made, np.float32)


def block_of(vectors: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> Block:
    """All rows, or those in a mask."""
    norms = row_norms(vectors)
    return Block(vectors, norms, float(norms.max()), mask=mask)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_floors_hold_and_decide(metric: Metric, filtered: bool, threads: int) -> None:
    """No other row is nearer than the floor, and the floor lies above the k-th distance."""
    random = np.random.default_rng(1)
    vectors, queries = falling(random, ROWS), falling(random, QUERIES)
    mask = random.random(ROWS) < 0.6 if filtered else None
    team = Team(threads)
    found = projected.nearest(block_of(vectors, mask), queries, metric, 7, team=team)
    team.close()
    assert found is not None
    able = np.ones(ROWS, bool) if mask is None else mask
    for query, named, floor in zip(queries, found.positions, found.floor, strict=True):
        distances = canonical_distances(vectors, query, metric)
        named = named[named >= 0]
        assert able[named].all()
        assert len(np.unique(named)) == len(named)
        others = able.copy()
        others[named] = False
        assert score_limit(metric, float(distances[others].min())) >= floor
        assert floor > score_limit(metric, float(np.sort(distances[able])[6]))


def test_few_madeget_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    whole = projected._Tile._scores

    def counted(
        tile: projected._Tile, query: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        scored.append(len(query))
        return whole(tile, query, positions)

    monkeypatch.setattr(projected._Tile, "_scores", counted)
    random = np.random.default_rng(2)
    block = block_of(falling(random, ROWS))
    found = projected.nearest(block, falling(random, QUERIES), Metric.L2, 5, team=Team(1))
    assert found is not None
    assert sum(scored) < QUERIES * ROWS / 5


@pytest.mark.parametrize("metric", METRICS)
def test_madethat_lie_everywhere_alike_are_multiplied_whole(metric: Metric) -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    queries = random.normal(size=(QUERIES, DIMENSIONS)).astype(np.float32)
    assert projected.nearest(block_of(vectors), queries, metric, 5, team=Team(1)) is None


@pytest.mark.parametrize("many", ["rows", "queries", "neighbours", "dimensions"])
def test_small_batches_are_multiplied_whole(monkeypatch: pytest.MonkeyPatch, many: str) -> None:
    """Each limit at its edge."""
    random = np.random.default_rng(4)
    block, queries = block_of(falling(random, ROWS)), falling(random, QUERIES)
    k = projected.MOST_NEIGHBOURS if many == "neighbours" else 3
    limits = {"rows": ("LEAST_ROWS", ROWS), "queries": ("LEAST_QUERIES", QUERIES),
              "dimensions": ("LEAST_DIMENSIONS", DIMENSIONS)}  # fmt: skip
    if many in limits:
        monkeypatch.setattr(projected, *limits[many])
    monkeypatch.setattr(projected, "_width", lambda *_: 20)
    assert projected.nearest(block, queries, Metric.L2, k, team=Team(1)) is not None
    if many in limits:
        monkeypatch.setattr(projected, limits[many][0], limits[many][1] + 1)
    assert (
        many in limits or projected.nearest(block, queries, Metric.L2, k + 1, team=Team(1)) is None
    )
    assert (
        many not in limits or projected.nearest(block, queries, Metric.L2, k, team=Team(1)) is None
    )


def test_a_statement_that_is_over_ends_the_batch() -> None:
    random = np.random.default_rng(5)
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) > 3:
            raise TimeoutError

    team = Team(2).checking(check)
    with pytest.raises(TimeoutError):
        projected.nearest(
            block_of(falling(random, ROWS)), falling(random, QUERIES), Metric.L2, 5, team=team
        )
    assert len(asked) < 10
    team.close()

"""What a backend promises by itself: contenders are complete and few, floors hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine.backends.base import Backend, Block, ErrorBound, gamma
from nearql.engine.backends.scan import select
from nearql.engine.distance import canonical_distances, row_norms, score_limit
from nearql.engine.team import Team
from nearql.engine.types import VECTOR_METRICS, Metric
from support.search_cases import BACKENDS, DATA, make_backend, make_vectors

ROWS, DIMENSIONS = 3_000, 64
TEAM = Team(1)
TAME = ("normal", "few_values", "far_cluster", "long", "one_vector", "unit")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is installed."""
    return make_backend(request.param)


def block_of(vectors: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> Block:
    """All rows, or those in a mask."""
    norms = row_norms(vectors)
    return Block(vectors, norms, float(norms.max()), mask=mask)


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
@pytest.mark.parametrize("kind", ["normal", "unit", "few_values"])
def test_few_contenders_are_named(backend: Backend, metric: Metric, kind: str) -> None:
    """The bound is tight enough: all of the k nearest, and hardly a row more."""
    vectors = make_vectors(np.random.default_rng(1), kind, ROWS, DIMENSIONS)
    query = make_vectors(np.random.default_rng(2), "normal", 1, DIMENSIONS)[0]
    distances = canonical_distances(vectors, query, metric)
    kth = np.sort(distances)[9]
    named = backend.contenders(block_of(vectors), query, metric, k=10, limit=np.inf, team=TEAM)
    needed = np.flatnonzero(distances <= kth)
    assert np.isin(needed, named).all()
    assert len(named) <= len(needed) + 5


@pytest.mark.parametrize("metric", [Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE])
@pytest.mark.parametrize("kind", [kind for kind in DATA if kind in TAME])
def test_floors_hold(backend: Backend, metric: Metric, kind: str) -> None:
    """No row that `nearest` leaves out has a canonical distance below the floor."""
    vectors = make_vectors(np.random.default_rng(3), kind, ROWS, DIMENSIONS)
    queries = vectors[:8] + make_vectors(np.random.default_rng(4), "unit", 8, DIMENSIONS)
    candidates = backend.nearest(block_of(vectors), queries, metric, 10, team=TEAM)
    for query, named, floor in zip(queries, candidates.positions, candidates.floor, strict=True):
        others = np.delete(np.arange(ROWS), named[named >= 0])
        if len(others):
            nearest = canonical_distances(vectors[others], query, metric).min()
            assert score_limit(metric, float(nearest)) >= floor


def test_a_floor_decides_most_batches(backend: Backend) -> None:
    """On ordinary data the floor lies above the k-th distance, so that no second look is needed."""
    vectors = make_vectors(np.random.default_rng(5), "unit", ROWS, DIMENSIONS)
    queries = make_vectors(np.random.default_rng(6), "unit", 64, DIMENSIONS)
    for metric in (Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE):
        candidates = backend.nearest(block_of(vectors), queries, metric, 10, team=TEAM)
        for query, floor in zip(queries, candidates.floor, strict=True):
            kth = np.sort(canonical_distances(vectors, query, metric))[9]
            assert floor > score_limit(metric, float(kth))


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
def test_error_bounds_of_contenders_hold(backend: Backend, metric: Metric) -> None:
    """Asked for everything up to a row's own distance, a backend names that row."""
    random = np.random.default_rng(7)
    for kind in DATA:
        vectors = make_vectors(random, kind, 400, DIMENSIONS)
        query = make_vectors(random, kind, 1, DIMENSIONS)[0]
        norms = row_norms(vectors)
        tame = ((norms > 1e-15) & (norms < 1e15)) | (norms == 0)
        block = Block(vectors, norms, float(norms[tame].max(initial=0)), mask=tame)
        distances = canonical_distances(vectors, query, metric)
        for row in np.flatnonzero(tame)[:50]:
            limit = score_limit(metric, float(distances[row]))
            assert row in backend.contenders(block, query, metric, k=None, limit=limit, team=TEAM)


def test_gamma_grows_with_the_terms() -> None:
    assert 0 < gamma(1) < gamma(16_384) < 1.1e-3


@pytest.mark.parametrize(
    ("bound", "k", "limit", "expected"),
    [
        (ErrorBound(0, 0, 0.0), 1, np.inf, [0]),
        (ErrorBound(0, 0, 0.15), 1, np.inf, [0, 1]),  # 1.2 - .15 may be less than 1 + .15
        (ErrorBound(0, 0, 0.15), None, 1.0, [0]),
        (ErrorBound(0, 0, 0.15), None, 1.1, [0, 1]),
        (ErrorBound(0.1, 0, 0), None, 1.1, [0, 1]),
        (ErrorBound(0, 0.1, 0), None, 1.2, [0, 1, 2]),  # the third row is three times as long
        (ErrorBound(0, 0, 0.15), 3, 1.1, [0, 1]),
        (ErrorBound(0, 0, 0.15), 3, np.inf, [0, 1, 2]),
        (ErrorBound(0, 0, 0.15), 4, 1.1, [0, 1]),
    ],
)
def test_select_keeps_every_score_that_its_error_could_bring_in(
    bound: ErrorBound, k: int | None, limit: float, expected: list[int]
) -> None:
    scores = np.array([1.0, 1.2, 1.5, np.nan], np.float32)
    norms = np.array([1, 1, 3, 1], np.float32)
    found = select(scores, norms, bound, 3.0, k=k, limit=limit)
    assert found is not None
    assert found.tolist() == expected


def test_select_names_all_where_fewer_than_k_have_a_score() -> None:
    scores = np.array([1.0, np.nan, np.nan], np.float32)
    bound = ErrorBound(0, 0, 0)
    assert select(scores, np.ones(3, np.float32), bound, 1.0, k=2, limit=np.inf) is None

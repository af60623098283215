"""The canonical distance: known values, exactness, independence of the batch, edges of float32."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nearql.engine.distance import (
    Vectors,
    candidate_distances,
    canonical_distances,
    near_distances,
    pairwise_distances,
    row_norms,
    row_squares,
    score_limit,
    widen,
)
from nearql.engine.types import VECTOR_METRICS, Metric

METRICS = list(VECTOR_METRICS)
FLOAT32_MAX = float(np.finfo(np.float32).max)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric.L2, [5.0, 10.0]),
        (Metric.INNER_PRODUCT, [-50.0, 0.0]),
        (Metric.COSINE, [0.0, np.nan]),
        (Metric.L1, [7.0, 14.0]),
    ],
)
@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_known_distances(metric: Metric, expected: list[float], element: type) -> None:
    vectors: Vectors = np.array([[3, 4], [0, 0]], element)
    got = canonical_distances(vectors, np.array([6, 8], np.float32), metric)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(expected, np.float32))


@pytest.mark.parametrize("metric", METRICS)
@given(data=st.data())
def test_a_row_does_not_depend_on_its_batch(metric: Metric, data: st.DataObject) -> None:
    """Whole, alone, gathered and paired give the same bits: replicas and SQL must agree."""
    count, dimensions = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70)))
    seed = data.draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dimensions)).astype(np.float32)
    query = random.standard_normal(dimensions).astype(np.float32)
    whole = canonical_distances(vectors, query, metric)
    alone = np.concatenate([canonical_distances(row[np.newaxis], query, metric) for row in vectors])
    queries = np.broadcast_to(query, vectors.shape)
    paired = pairwise_distances(vectors, queries, metric)
    some = random.integers(0, count, 7)
    gathered = candidate_distances(vectors, some, query[np.newaxis], np.zeros(7, np.int64), metric)
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(whole, paired)
    np.testing.assert_array_equal(whole[some], gathered)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_a_block_boundary_are_as_all_others(metric: Metric) -> None:
    """More rows than one block holds, at a dimension count where blocks are short."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((70, 3_000)).astype(np.float32)
    query = random.standard_normal(3_000).astype(np.float32)
    whole = canonical_distances(vectors, query, metric)
    for low, high in pairwise([0, 1, 20, 22, 45, 70]):
        part = canonical_distances(vectors[low:high], query, metric)
        np.testing.assert_array_equal(part, whole[low:high])


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=finite),
    st.sampled_from(METRICS),
)
def test_equal_vectors_are_exactly_nothing_apart(vectors: np.ndarray, metric: Metric) -> None:
    """l2, l1 and cosine of a vector to itself are +0.0 at any magnitude; NaN for a zero one."""
    if metric is Metric.INNER_PRODUCT:
        return
    got = pairwise_distances(vectors, vectors.copy(), metric)
    zero = ~vectors.any(axis=1) & (metric is Metric.COSINE)
    np.testing.assert_array_equal(np.isnan(got), zero)
    assert (got[~zero] == 0).all()
    assert not np.signbit(got[~zero]).any()


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(4)), elements=finite),
    hnp.arrays(np.float32, 4, elements=finite),
    st.sampled_from(METRICS),
)
def test_no_negative_zero_and_no_negative_distance(
    vectors: np.ndarray, query: np.ndarray, metric: Metric
) -> None:
    got = canonical_distances(vectors, query, metric)
    assert not np.signbit(got[got == 0]).any()
    if metric is not Metric.INNER_PRODUCT:
        assert not (got < 0).any()
    if metric is Metric.COSINE:
        assert not (got > 2).any()


def test_parallel_vectors_are_not_less_than_nothing_apart() -> None:
    """Of similarities that float64 rounds above 1 or below -1, some are sure to be among these."""
    random = np.random.default_rng(2)
    short = random.integers(1, 1 << 20, (2_000, 40))  # leaves room in float32: times 3 is exact
    vectors = (short / 2.0 ** random.integers(0, 30, short.shape)).astype(np.float32)
    for factor, end in ((3, 0), (-3, 2)):
        got = pairwise_distances(vectors, vectors * np.float32(factor), Metric.COSINE)
        assert (got >= 0).all()
        assert (got <= 2).all()
        np.testing.assert_allclose(got, end, atol=1e-15)


def test_magnitudes_beyond_float32_squares() -> None:
    """Squares of 1e30 overflow float32, not the distance; what does overflow is inf."""
    big = np.full((1, 4), 1e30, np.float32)
    assert canonical_distances(big, -big[0], Metric.L2)[0] == np.float32(4e30)
    assert canonical_distances(big, -big[0], Metric.COSINE)[0] == 2
    assert canonical_distances(big, -big[0], Metric.INNER_PRODUCT)[0] == np.inf
    assert canonical_distances(big, big[0], Metric.INNER_PRODUCT)[0] == -np.inf
    most = np.full((1, 2), FLOAT32_MAX, np.float32)
    assert canonical_distances(most, -most[0], Metric.L1)[0] == np.inf
    assert canonical_distances(most, most[0], Metric.L2)[0] == 0


def test_small_differences_of_long_vectors_survive() -> None:
    """Where |x|^2 - 2xq + |q|^2 in float32 would answer 0, the canonical distance is exact."""
    vectors = np.full((1, 100), 30_000, np.float32)
    query = vectors[0].copy()
    query[3] += np.float32(0.0078125)
    assert canonical_distances(vectors, query, Metric.L2)[0] == np.float32(0.0078125)


def test_widen_is_exact_for_every_float16() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    pairs = every[np.isfinite(every)].reshape(-1, 2)
    np.testing.assert_array_equal(widen(pairs), pairs.astype(np.float32))
    scratch = np.empty((len(pairs) + 5, 2), np.float32)
    widened = widen(pairs, scratch)
    np.testing.assert_array_equal(widened, pairs.astype(np.float32))
    assert np.shares_memory(widened, scratch)
    assert np.shares_memory(widen(scratch), scratch)


@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_row_norms(element: type) -> None:
    assert row_norms(np.array([[3, 4], [0, 0]], element)).tolist() == [5.0, 0.0]
    assert row_norms(np.empty((0, 3), element)).shape == (0,)
    big = np.full((1, 4), 3e38, np.float32)
    assert row_norms(big)[0] == np.inf


@settings(max_examples=300)
@given(finite, finite, st.sampled_from(METRICS))
def test_score_limit_covers_every_row_shown_within(x: float, q: float, metric: Metric) -> None:
    """A row shown at distance d has a score of at most score_limit(d)."""
    vector, query = np.array([[x, 1]], np.float32), np.array([q, 1], np.float32)
    distance = float(canonical_distances(vector, query, metric)[0])
    wide, one = vector[0].astype(np.float64), query.astype(np.float64)
    score = {
        Metric.L2: ((wide - one) ** 2).sum(),
        Metric.L1: np.abs(wide - one).sum(),
        Metric.INNER_PRODUCT: -(wide @ one),
        Metric.COSINE: -(wide @ one) / np.sqrt((wide @ wide) * (one @ one)),
    }[metric]
    slack = 1e-12 * max(1.0, abs(score)) if metric is Metric.COSINE else 0.0
    assert score <= score_limit(metric, distance) + slack


def test_score_limit_of_special_values() -> None:
    assert score_limit(Metric.L2, float("nan")) == np.inf
    assert score_limit(Metric.L2, float("inf")) == np.inf
    assert score_limit(Metric.L2, -1.0) < 0
    assert score_limit(Metric.L2, 1e300) == np.inf
    assert score_limit(Metric.COSINE, 0.0) == pytest.approx(-1.0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_a_few_rows_are_as_far_as_among_many(metric: Metric, element: type) -> None:
    """To the last bit: a search's short path must not show."""
    rng = np.random.default_rng(4)
    for dimensions in (1, 3, 8, 100, 384, 1536):
        rows: NDArray[Any] = rng.standard_normal((40, dimensions)).astype(element)
        query = rows[3].astype(np.float32)
        for some in (rows, rows[3:4], rows[5:16]):
            near = near_distances(some, query, metric)
            np.testing.assert_array_equal(near, canonical_distances(some, query, metric))
            assert not np.signbit(near[near == 0]).any()
            again = near_distances(some, query, metric, row_squares(some))
            np.testing.assert_array_equal(again, near)

"""Search answers are the first k by (canonical distance, key), exactly, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from nearql.engine import strategy
from nearql.engine.backends import numpy, scan
from nearql.engine.distance import row_squares
from nearql.engine.search import Searcher, VectorSlice
from nearql.engine.types import VECTOR_METRICS, Metric, SearchRequest
from support.search_cases import (
    BACKENDS,
    Case,
    cases,
    code_at_once,
    make_searcher,
    make_vectors,
    naive_distances,
    project_always,
)

METRICS = list(VECTOR_METRICS)


@pytest.fixture(scope="module", params=BACKENDS)
def searcher(request: pytest.FixtureRequest) -> Iterator[Searcher]:
    """A searcher per backend with two threads."""
    made = make_searcher(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module", params=["default sizes", "tiny sizes", "codes", "projected"])
def sizes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With tiny sizes, small tables go through every loop over chunks, batches and threads."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "codes":
            code_at_once(patch)
        if request.param == "projected":
            project_always(patch)
        if request.param == "tiny sizes":
            patch.setattr(scan, "_SCORES", 40)
            patch.setattr(scan, "_FIRST_ROWS", 2)
            patch.setattr(scan, "_COPIED_ELEMENTS", 64)
            patch.setattr(scan, "_ROW_ELEMENTS", 100)
            patch.setattr(scan, "_FULL_NAMES", 3)
            patch.setattr(strategy, "PIECE_ELEMENTS", 16)
            patch.setattr(strategy, "BATCH_QUERIES", 3)
            patch.setattr(strategy, "LARGEST_BATCH", 5)
            patch.setattr(scan, "blas_threads", lambda: 1)
            patch.setattr(numpy, "blas_threads", lambda: 1)
        yield


@settings(max_examples=400, deadline=None)
@given(case=cases())
def test_equals_brute_force(searcher: Searcher, sizes: None, case: Case) -> None:
    del sizes
    case.check(case.search(searcher))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_zero_query_in_a_large_batch_leaves_the_others_their_rows(name: str) -> None:
    """Once it made the slack of all queries of its tile NaN, and none of their rows was named."""
    rng = np.random.default_rng(7)
    queries = np.array([[-2], [0], [3]], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        project_always(patch)
        for _ in range(20):
            lengths = 10 ** rng.uniform(-15, 15, size=(60, 1))
            vectors = (rng.normal(size=(60, 1)) * lengths).astype(np.float32)  # half of them tie
            case = Case(vectors, queries, Metric.COSINE, 1, rng.permutation(60), cached_norms=False)
            case.check(case.search(make_searcher(name)))


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_range_equals_brute_force(searcher: Searcher, sizes: None, case: Case) -> None:
    """The radius is some row's own distance, so that < and <= differ."""
    del sizes
    rows, distances = case.expected(0)
    numbers = distances[~np.isnan(distances)]
    radius = float(numbers[len(numbers) // 3]) if len(numbers) else 1.0
    for inclusive in (True, False):
        hits = case.search_range(searcher, 0, radius, inclusive)
        inside = distances <= radius if inclusive else distances < radius
        np.testing.assert_array_equal(hits.rows, rows[inside][np.newaxis])
        np.testing.assert_array_equal(hits.distances, distances[inside][np.newaxis])


@pytest.mark.parametrize("metric", METRICS)
def test_agrees_with_textbook_formulas(searcher: Searcher, metric: Metric) -> None:
    random = np.random.default_rng(3)
    vectors = make_vectors(random, "normal", 2_000, 48)
    queries = make_vectors(random, "normal", 7, 48)
    case = Case(vectors, queries, metric, 10, np.arange(2_000))
    hits = case.search(searcher)
    for query, rows, distances in zip(queries, hits.rows, hits.distances, strict=True):
        naive = naive_distances(vectors, query, metric)
        assert rows.tolist() == np.argsort(naive, kind="stable")[:10].tolist()
        np.testing.assert_allclose(distances, naive[rows], rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("asked", [1, 8])
def test_thousands_of_ties_at_the_boundary(searcher: Searcher, metric: Metric, asked: int) -> None:
    """5,000 copies around the k-th place: the smallest keys win, wherever their rows lie."""
    random = np.random.default_rng(4)
    vectors = make_vectors(random, "normal", 9_000, 24)
    vectors[random.permutation(9_000)[:5_000]] = vectors[0]
    queries = np.repeat(vectors[:1] * np.float32(1.5), asked, axis=0)
    case = Case(vectors, queries, metric, 20, random.permutation(9_000), cuts=(4_000,))
    case.check(case.search(searcher))


@pytest.mark.parametrize("asked", [1, 8])
def test_cancellation_in_l2(searcher: Searcher, asked: int) -> None:
    """Neighbours differ by less than float32 can tell in |x|^2 - 2xq + |q|^2."""
    random = np.random.default_rng(5)
    base = np.full(64, 20_000, np.float32)
    vectors = base + random.integers(-40, 41, (3_000, 64)).astype(np.float32) / 256
    queries = np.repeat(base[np.newaxis], asked, axis=0)
    case = Case(vectors, queries, Metric.L2, 10, np.arange(3_000))
    hits = case.search(searcher)
    case.check(hits)
    assert len(np.unique(hits.distances[0])) > 5


@pytest.mark.parametrize("metric", METRICS)
def test_one_odd_row_does_not_slow_or_spoil_the_others(searcher: Searcher, metric: Metric) -> None:
    """A row of length 1e30 is compared canonically; the rest still goes through the kernel."""
    random = np.random.default_rng(6)
    vectors = make_vectors(random, "normal", 3_000, 16)
    vectors[1_234] = 1e30
    queries = make_vectors(random, "normal", 8, 16)
    case = Case(vectors, queries, metric, 5, np.arange(3_000))
    hits = case.search(searcher)
    case.check(hits)
    assert hits.stats.reranked < 8 * 100


@pytest.mark.parametrize("asked", [1, 8])
def test_products_that_overflow_to_nan_in_float32(searcher: Searcher, asked: int) -> None:
    """inf - inf in float32, though the canonical product is the best of all."""
    vectors = np.ones((200, 2), np.float32)
    vectors[70] = [3e38, -1e38]
    queries = np.full((asked, 2), 1e14, np.float32)
    case = Case(vectors, queries, Metric.INNER_PRODUCT, 2, np.arange(200))
    hits = case.search(searcher)
    case.check(hits)
    assert hits.rows[0].tolist() == [70, 0]
    assert hits.distances[0, 0] == -np.inf


@pytest.mark.parametrize("asked", [1, 8])
def test_denormal_vectors_keep_their_direction_under_cosine(searcher: Searcher, asked: int) -> None:
    """The least float32 halved is 0, so float32 products see no direction in such vectors."""
    random = np.random.default_rng(17)
    vectors = make_vectors(random, "normal", 300, 4)
    vectors[40] = np.float32(2.0**-149)
    queries = np.ones((asked, 4), np.float32)
    case = Case(vectors, queries, Metric.COSINE, 3, np.arange(300))
    hits = case.search(searcher)
    case.check(hits)
    assert (hits.rows[0, 0], hits.distances[0, 0]) == (40, 0)


@pytest.mark.parametrize("asked", [1, 8])
def test_products_that_vanish_in_float32(searcher: Searcher, asked: int) -> None:
    """Four products of half the least float32 are 0 each there, and two of it together."""
    vectors = np.array([[1, 0, 0, 0]] * 150 + [[0.5] * 4] + [[1, 0, 0, 0]] * 150, np.float32)
    queries = np.full((asked, 4), 2.0**-149, np.float32)
    case = Case(vectors, queries, Metric.INNER_PRODUCT, 1, np.arange(301))
    hits = case.search(searcher)
    case.check(hits)
    assert hits.rows[0].tolist() == [150]


@pytest.mark.parametrize("asked", [1, 8])
def test_a_zero_query_under_cosine_orders_by_key(searcher: Searcher, asked: int) -> None:
    """Every distance is NaN: such rows match, last, in the order of their keys."""
    random = np.random.default_rng(7)
    vectors = make_vectors(random, "normal", 500, 8)
    queries = np.zeros((asked, 8), np.float32)
    case = Case(vectors, queries, Metric.COSINE, 9, random.permutation(500))
    hits = case.search(searcher)
    case.check(hits)
    assert case.keys[hits.rows[0]].tolist() == list(range(9))
    assert np.isnan(hits.distances).all()


@pytest.mark.parametrize("asked", [1, 8])
def test_zero_vectors_under_cosine_come_last(searcher: Searcher, asked: int) -> None:
    """Exactly k - 2 rows have a similarity; two of the many zero vectors fill up, by key."""
    random = np.random.default_rng(8)
    vectors = np.zeros((6_000, 8), np.float32)
    vectors[100:108] = make_vectors(random, "normal", 8, 8)
    queries = make_vectors(random, "normal", asked, 8)
    case = Case(vectors, queries, Metric.COSINE, 10, random.permutation(6_000))
    case.check(case.search(searcher))


@pytest.mark.parametrize("asked", [1, 8])
def test_rows_outside_the_mask_may_hold_anything(searcher: Searcher, asked: int) -> None:
    """Slots of NULL vectors are never looked at, not even NaN and infinity."""
    random = np.random.default_rng(9)
    vectors = make_vectors(random, "normal", 400, 8)
    queries = make_vectors(random, "normal", asked, 8)
    valid = random.random(400) < 0.95
    vectors[~valid] = random.choice([np.nan, np.inf, -np.inf, 1e38], (int((~valid).sum()), 8))
    for metric in METRICS:
        case = Case(vectors, queries, metric, 30, np.arange(400), valid=valid)
        clean = replace(case, vectors=np.where(valid[:, np.newaxis], vectors, np.float32(0)))
        with np.errstate(all="ignore"):
            hits = case.search(searcher)
        clean.check(hits)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("asked", [1, 3, 8])
@pytest.mark.parametrize("k", [1, 49, 50, 51, 16_384])
def test_k_around_the_number_of_rows(
    searcher: Searcher, metric: Metric, asked: int, k: int
) -> None:
    random = np.random.default_rng(10)
    vectors, queries = make_vectors(random, "normal", 50, 4), make_vectors(random, "unit", asked, 4)
    case = Case(vectors, queries, metric, k, np.arange(50), cuts=(20,))
    case.check(case.search(searcher))


def test_the_largest_k_over_more_rows(searcher: Searcher) -> None:
    random = np.random.default_rng(11)
    vectors, queries = make_vectors(random, "normal", 20_000, 3), make_vectors(random, "unit", 7, 3)
    case = Case(vectors, queries, Metric.L2, 16_384, np.arange(20_000), cuts=(9_000,))
    case.check(case.search(searcher))


def test_many_queries_are_one_batch_in_bounded_memory(searcher: Searcher) -> None:
    random = np.random.default_rng(12)
    vectors = make_vectors(random, "few_values", 300, 5)
    queries = make_vectors(random, "normal", 10_000, 5)
    case = Case(vectors, queries, Metric.COSINE, 3, np.arange(300))
    hits = case.search(searcher)
    assert hits.stats.batch == 10_000
    sample = random.integers(0, 10_000, 50)
    replace(case, queries=queries[sample]).check(
        replace(hits, rows=hits.rows[sample], distances=hits.distances[sample])
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("asked", [1, 8])
def test_nothing_qualifies(searcher: Searcher, metric: Metric, asked: int) -> None:
    vectors, queries = np.ones((40, 4), np.float32), np.ones((asked, 4), np.float32)
    none = np.zeros(40, bool)
    for case in (
        Case(vectors, queries, metric, 5, np.arange(40), mask=none),
        Case(vectors, queries, metric, 5, np.arange(40), valid=none),
        Case(vectors[:0], queries, metric, 5, np.arange(0)),
    ):
        hits = case.search(searcher)
        assert (hits.rows == -1).all()
        assert np.isnan(hits.distances).all()
        assert hits.rows.shape == (asked, 5)
        assert case.search_range(searcher, 0, 1e9, True).rows.shape == (1, 0)


def test_no_slices_at_all(searcher: Searcher) -> None:
    request = SearchRequest("vec", Metric.L2, np.ones((2, 4), np.float32), 3)
    hits = searcher.search([], request, masks=None, keys_of=lambda rows: rows)
    assert hits.rows.tolist() == [[-1] * 3] * 2
    assert hits.stats.selectivity == 1.0


def test_keys_are_asked_for_only_where_rows_tie(searcher: Searcher) -> None:
    vectors = np.arange(40, dtype=np.float32).reshape(-1, 1)
    vectors[[5, 9, 30]] = 5
    asked: list[int] = []

    def keys_of(rows: NDArray[np.int64]) -> NDArray[Any]:
        asked.extend(rows.tolist())
        return -rows

    query = np.zeros((1, 1), np.float32)
    slices = [VectorSlice(vectors, 0)]
    for k, expected in ((5, []), (6, [5, 9, 30]), (10, [5, 9, 30])):
        asked.clear()
        request = SearchRequest("vec", Metric.L2, query, k)
        rows = searcher.search(slices, request, masks=None, keys_of=keys_of).rows[0]
        assert sorted(asked) == expected
        assert rows[5:].tolist() == [30, 9, 5, 6, 7][: k - 5]


@pytest.mark.parametrize(
    ("radius", "inclusive", "expected"),
    [
        (1.0, True, [0, 1]),
        (1.0, False, [0]),
        (np.nextafter(1.0, 0), True, [0]),  # a float64 radius between two float32 distances
        (np.nextafter(1.0, 2), False, [0, 1]),
        (0.0, True, [0]),
        (0.0, False, []),
        (-1.0, True, []),
        (np.inf, False, [0, 1, 2]),
        (-np.inf, True, []),
        (1e300, True, [0, 1, 2]),
        (np.nan, False, [0, 1, 2]),  # NaN is greater than every number, as in SQL
    ],
)
def test_radius_at_its_edges(
    searcher: Searcher, radius: float, inclusive: bool, expected: list[int]
) -> None:
    vectors = np.array([[0], [1], [3]], np.float32)
    case = Case(vectors, np.zeros((1, 1), np.float32), Metric.L2, 1, np.arange(3))
    assert case.search_range(searcher, 0, radius, inclusive).rows[0].tolist() == expected


def test_a_nan_distance_is_within_nan_only(searcher: Searcher) -> None:
    vectors = np.array([[0], [1]], np.float32)
    case = Case(vectors, np.ones((1, 1), np.float32), Metric.COSINE, 1, np.arange(2))
    assert case.search_range(searcher, 0, np.inf, True).rows[0].tolist() == [1]
    assert case.search_range(searcher, 0, np.nan, False).rows[0].tolist() == [1]
    assert case.search_range(searcher, 0, np.nan, True).rows[0].tolist() == [1, 0]


def test_statistics_say_how(searcher: Searcher) -> None:
    random = np.random.default_rng(13)
    vectors, queries = make_vectors(random, "normal", 100, 4), make_vectors(random, "unit", 2, 4)
    valid, mask = np.arange(100) < 80, np.arange(100) % 4 == 0
    case = Case(vectors, queries, Metric.L2, 5, np.arange(100), valid=valid)
    stats = case.search(searcher).stats
    assert stats.label == f"exact/{searcher.backend.name}"
    assert (stats.candidates, stats.batch, stats.selectivity) == (160, 2, 1.0)
    filtered = replace(case, mask=mask).search(searcher).stats
    assert filtered.strategy == "exact_filtered"
    assert filtered.selectivity == 0.25
    assert filtered.reranked >= 10


def test_read_only_memory_is_searched_in_place(searcher: Searcher) -> None:
    """Segments are memory-mapped read-only; kernels take them as they are."""
    random = np.random.default_rng(14)
    for element in (np.float32, np.float16):
        vectors = make_vectors(random, "normal", 300, 16).astype(element)
        vectors.flags.writeable = False
        queries = make_vectors(random, "normal", 8, 16)
        for metric in METRICS:
            for asked in (queries, queries[:1]):
                case = Case(vectors, asked, metric, 5, np.arange(300), mask=np.arange(300) % 9 == 0)
                case.check(case.search(searcher))


def test_searches_from_many_threads_do_not_mix(searcher: Searcher) -> None:
    """48 searches of all shapes on 8 threads give what they give one by one."""
    random = np.random.default_rng(15)
    vectors = make_vectors(random, "few_values", 30_000, 40)
    tried = [
        Case(
            vectors,
            make_vectors(random, "normal", 1 + 7 * (number % 3 == 0), 40),
            METRICS[number % 4],
            7,
            np.arange(30_000),
            mask=random.random(30_000) < 0.5 if number % 5 == 0 else None,
        )
        for number in range(48)
    ]
    alone = [case.search(searcher) for case in tried]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda case: case.search(searcher), tried))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.distances, other.distances)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    random = np.random.default_rng(16)
    vectors = make_vectors(random, "normal", 40_000, 64)
    for name in BACKENDS:
        searcher = make_searcher(name, threads)
        case = Case(vectors, vectors[:2].copy(), Metric.L1, 10, np.arange(40_000))
        case.check(case.search(searcher))
        searcher.close()


def test_squared_lengths_are_remembered() -> None:
    """Asked again, in another order, beside rows that are new and one that is zero."""
    vectors = np.random.default_rng(5).standard_normal((9, 700)).astype(np.float32)
    vectors[4] = 0
    one = VectorSlice(vectors, 0)
    for positions in ([1, 3], [3, 1, 5], [4, 1], [4, 8], [8, 5]):
        at = np.array(positions)
        found = one.squares(at, vectors[at])
        np.testing.assert_array_equal(found, row_squares(vectors[at]))

"""Every index kind: recall on real vectors, what it may name, its file's way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.distance import row_norms
from nearql.engine.index.base import BuildCancelled, IndexKind, Source, VectorIndex
from nearql.engine.index.registry import index_kinds
from nearql.engine.index.rows import coverable
from nearql.engine.types import Metric
from support.indexes import exact_recall, packages

KINDS = index_kinds()
#: kind with storage -> recall@10 at EFFORT that no change may fall below, by any metric
FLOORS: Mapping[tuple[str, str], float] = {
    ("hnsw", "float32"): 0.96,
    ("hnsw", "float16"): 0.96,
    ("hnsw", "sq8"): 0.95,
    ("ivfflat", ""): 0.999,
    ("ivfpq", ""): 0.98,
    ("ivfrabitq", ""): 0.97,
}
EFFORT = 400


class Watch:
    """Lets a build go on, and remembers."""

    threads = 1  # a graph built by several is never the same twice

    def __init__(self, until: int | None = None) -> None:
        self.steps: list[tuple[str, int]] = []
        self.until = until

    def step(self, phase: str, done: int) -> None:
        self.steps.append((phase, done))
        if self.until is not None and done >= self.until:
            raise BuildCancelled


def made(
    name: str, vectors: NDArray[Any], metric: Metric, covered: NDArray[np.bool_] | None = None,
    **options: Any,
) -> VectorIndex:  # fmt: skip
    """An index built and read back from the bytes of its file."""
    kind = KINDS[name]
    source = Source(vectors, row_norms(vectors), covered)
    built = kind.build(source, metric, options, Watch())
    return reread(kind, built, source, metric)


def reread(kind: IndexKind, built: VectorIndex, source: Source, metric: Metric) -> VectorIndex:
    parts = {name: memoryview(bytes(memoryview(part))) for name, part in kind.dump(built).items()}
    return kind.load(parts, source, metric)


def options_of(storage: str) -> dict[str, Any]:
    return {"storage": storage} if storage else {}


@pytest.mark.parametrize(("name", "storage"), FLOORS)
def test_a_build_takes_no_less_than_its_index_and_file_and_not_very_much_more(
    name: str, storage: str
) -> None:
    kind, options = KINDS[name], options_of(storage)
    for vectors in (packages()[:600], packages()[:600] * 3):  # the first may be borrowed
        source = Source(vectors, row_norms(vectors))
        built = kind.build(source, Metric.COSINE, options, Watch())
        dumped = sum(memoryview(part).nbytes for part in kind.dump(built).values())
        expected = kind.build_bytes(source, Metric.COSINE, options)
        assert 2 * dumped <= expected <= 5 * dumped + 20 * vectors.nbytes


@pytest.mark.parametrize("name", ["ivfflat", "ivfpq", "ivfrabitq"])
@pytest.mark.parametrize("some", [False, True])
def test_what_lies_in_the_lists_near_a_query(name: str, some: bool) -> None:
    vectors = packages()[:2000]
    covered = np.arange(2000) % 7 > 0 if some else None
    index = made(name, vectors, Metric.L2, covered)
    every = np.ones(2000, np.bool_)
    allowed = every if covered is None else covered
    tally = index.tally(every)
    assert tally.sum() == allowed.sum()
    assert (index.tally(~every) == 0).all()
    queries = vectors[1:40:3]
    near = np.zeros(2000, np.bool_)
    near[index.search(queries[:1], 300, effort=EFFORT, mask=None)[0]] = True
    shares = index.shares(queries, 100, index.tally(near))
    assert shares[0] > 0.5 > shares[1:].mean()
    for nearest in (1, 100, 10_000):
        np.testing.assert_allclose(index.shares(queries, nearest, tally), 1)
    far = index.shares(queries, 10_000, index.tally(near))
    np.testing.assert_allclose(far, 300 / allowed.sum())  # all lists


def test_what_is_counted_of_a_filter_goes_with_it() -> None:
    """Another array in the same place is another filter."""
    index = made("ivfflat", packages()[:2000], Metric.L2)
    for at in range(100):
        mask = np.zeros(2000, np.bool_)
        mask[: at * 10] = True
        assert index.tally(mask[:]).sum() == at * 10
        assert index.tally(mask[:]) is index.tally(mask[:])


def test_a_graph_has_no_lists() -> None:
    assert not made("hnsw", packages()[:200], Metric.L2).listed


@pytest.mark.parametrize("name", ["ivfflat", "ivfpq", "ivfrabitq"])
@pytest.mark.parametrize("length", [0.05, 20.0])
def test_a_query_s_length_means_nothing_to_lists_under_cosine(name: str, length: float) -> None:
    """Alone, too: ivfrabitq quantises how the query lies beside a centroid."""
    index = made(name, packages(), Metric.COSINE)
    queries = packages()[:60]
    together = index.search(queries, 20, effort=2, mask=None)
    for query, wanted in zip(queries, together, strict=True):
        scaled = index.search((query * np.float32(length))[np.newaxis], 20, effort=2, mask=None)
        assert len(np.intersect1d(scaled, wanted)) >= 18


@pytest.mark.parametrize(("name", "storage"), FLOORS)
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2, Metric.INNER_PRODUCT])
def test_recall_on_real_vectors(name: str, storage: str, metric: Metric) -> None:
    """Lengths differ, so that the metrics don't agree."""
    stretch = np.random.default_rng(3).uniform(0.5, 2, (2060, 1)).astype(np.float32)
    scaled = packages()[:2060] * (1 if metric is Metric.COSINE else stretch)
    vectors, queries = scaled[:2000].astype(np.float32), scaled[2000:].astype(np.float32)
    index = made(name, vectors, metric, **options_of(storage))
    found = index.search(queries, index.candidates(10), effort=EFFORT, mask=None)
    assert exact_recall(vectors, queries, metric, found) >= FLOORS[name, storage]
    assert index.kind == name
    assert index.metric is metric
    assert index.rows == 2000
    assert index.nbytes > 0


def test_recall_by_manhattan_distance() -> None:
    vectors, queries = packages()[:1500, :64].copy(), packages()[3000:3050, :64].copy()
    index = made("hnsw", vectors, Metric.L1)
    found = index.search(queries, 20, effort=EFFORT, mask=None)
    assert exact_recall(vectors, queries, Metric.L1, found) >= 0.99


@pytest.mark.parametrize(("name", "storage"), FLOORS)
@pytest.mark.parametrize("filtered", [False, True])
def test_threads_that_share_queries_name_the_same_rows(
    name: str, storage: str, filtered: bool
) -> None:
    vectors = packages()[:1500]
    index = made(name, vectors, Metric.COSINE, **options_of(storage))
    mask = np.arange(1500) % 3 > 0 if filtered else None
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    alone, shared = (
        index.search(vectors[:9], 20, effort=EFFORT, mask=mask, threads=threads)
        for threads in (1, 4)
    )
    assert faiss.omp_get_max_threads() == before
    np.testing.assert_array_equal(np.sort(alone), np.sort(shared))


@pytest.mark.parametrize(("name", "storage"), FLOORS)
def test_only_rows_that_are_covered_and_allowed_are_named_each_once(
    name: str, storage: str
) -> None:
    rng = np.random.default_rng(1)
    vectors = packages()[:700]
    covered = rng.random(700) < 0.9
    index = made(name, vectors, Metric.L2, covered, **options_of(storage))
    np.testing.assert_array_equal(index.covered, covered)
    mask = rng.random(700) < 0.4
    for given in (None, mask):
        found = index.search(vectors[:30], 40, effort=EFFORT, mask=given)
        named = found[found >= 0]
        assert covered[named].all()
        assert given is None or given[named].all()
        for row in found:
            assert len(np.unique(row[row >= 0])) == np.count_nonzero(row >= 0)
    allowed = np.flatnonzero(covered & mask)
    assert np.isin(allowed[:1], index.search(vectors[allowed[:1]], 40, effort=EFFORT, mask=mask))


@pytest.mark.parametrize(("name", "storage"), [("hnsw", "float32"), ("hnsw", "sq8"), ("ivfpq", "")])
def test_half_precision_columns_are_indexed(name: str, storage: str) -> None:
    vectors = packages()[:600].astype(np.float16)
    index = made(name, vectors, Metric.COSINE, **options_of(storage))
    queries = packages()[4000:4050]
    found = index.search(queries, index.candidates(10), effort=EFFORT, mask=None)
    assert exact_recall(vectors.astype(np.float32), queries, Metric.COSINE, found) >= 0.97


@pytest.mark.parametrize(("name", "storage"), FLOORS)
@pytest.mark.parametrize("dimensions", [1, 3, 37])
def test_any_number_of_dimensions(name: str, storage: str, dimensions: int) -> None:
    vectors = np.random.default_rng(2).standard_normal((300, dimensions)).astype(np.float32)
    index = made(name, vectors, Metric.L2, **options_of(storage))
    found = index.search(vectors[:20], 100, effort=EFFORT, mask=None)
    assert exact_recall(vectors, vectors[:20], Metric.L2, found) >= 0.9


@pytest.mark.parametrize("name", KINDS)
def test_the_least_rows_are_enough_and_copies_do_no_harm(name: str) -> None:
    least = KINDS[name].least_rows
    vectors = np.tile(packages()[:2], (least // 2, 1))
    index = made(name, vectors, Metric.L2, lists=1000, m=100)
    found = index.search(packages()[:1], 10, effort=EFFORT, mask=None)
    assert np.count_nonzero(found >= 0) == 10


@pytest.mark.parametrize("name", KINDS)
def test_efforts_rise_and_the_last_finds_what_there_is(name: str) -> None:
    vectors = packages()[:1000]
    index = made(name, vectors, Metric.L2)
    efforts = index.efforts(10)
    assert list(efforts) == sorted(set(efforts))
    found = index.search(vectors[:50], index.candidates(10), effort=efforts[-1], mask=None)
    assert exact_recall(vectors, vectors[:50], Metric.L2, found) >= 0.97
    assert index.candidates(10_000) <= 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_build_tells_its_progress_and_ends_when_told(name: str) -> None:
    vectors = packages()[:300]
    source = Source(vectors, row_norms(vectors))
    watch = Watch()
    KINDS[name].build(source, Metric.L2, {}, watch)
    assert watch.steps[0] == ("training", 0)
    assert watch.steps[-1] == ("building", 300)
    with pytest.raises(BuildCancelled):
        KINDS[name].build(source, Metric.L2, {}, Watch(until=0))


def test_vectors_are_borrowed_where_they_are_what_the_graph_compares() -> None:
    vectors = packages()[:500]
    graph = 500 * 4 * 2 * 16
    for metric in (Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE):
        assert made("hnsw", vectors, metric).nbytes < 1.5 * graph
    assert made("hnsw", vectors * 3, Metric.COSINE).nbytes > vectors.nbytes


def test_what_an_index_can_name() -> None:
    norms = np.array([1, 0, 1e-20, 1e20, np.inf, 2], np.float32)
    valid = np.array([1, 1, 1, 1, 1, 0], bool)
    assert coverable(norms[:2], None, Metric.L2) is None
    cosine, l2 = (coverable(norms, valid, m) for m in (Metric.COSINE, Metric.L2))
    assert cosine is not None
    assert l2 is not None
    assert cosine.tolist() == [True, False, False, False, False, False]
    assert l2.tolist() == [True, True, False, False, False, False]

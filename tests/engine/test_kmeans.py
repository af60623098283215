"""k-means gives the same every time, finds what lies apart, and takes what there is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine import kmeans as module
from nearql.engine.distance import canonical_distances
from nearql.engine.kmeans import METRICS, kmeans
from nearql.engine.types import Metric


def nothing() -> None:
    """Never over."""


def clouds(count: int, each: int, dimensions: int = 8) -> NDArray[np.float32]:
    """Rows around `count` points far apart, mixed."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(count, dimensions)) * 20
    rows = np.repeat(centres, each, axis=0) + random.normal(size=(count * each, dimensions))
    return np.asarray(rows[random.permutation(len(rows))], np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_each_row_is_in_the_cluster_that_is_nearest(metric: Metric) -> None:
    vectors = clouds(6, 80)
    found = kmeans(vectors, 9, metric, nothing)
    again = kmeans(vectors, 9, metric, nothing)
    assert (found.number == again.number).all()
    assert (found.distances == again.distances).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = unit if metric is Metric.COSINE else vectors
    numbers = np.unique(found.number)
    means = [rows[found.number == one].mean(axis=0).astype(np.float32) for one in numbers]
    apart = np.stack([canonical_distances(vectors, mean, metric) for mean in means], axis=1)
    nearest = apart.min(axis=1)
    assert (nearest <= apart[np.arange(len(rows)), found.number - 1] + 1e-4).all()
    np.testing.assert_allclose(
        found.distances, apart[np.arange(len(rows)), found.number - 1], rtol=0.02, atol=1e-3
    )


def test_clouds_far_apart_are_found() -> None:
    vectors = clouds(3, 50)
    best = min(
        (kmeans(vectors, k, Metric.L2, nothing) for k in (3, 4, 5)),
        key=lambda found: float(found.distances.mean()),
    )
    assert float(best.distances.mean()) < 4  # rows lie about sqrt(8) from their point
    sizes = np.bincount(best.number)[1:]
    assert (np.diff(sizes) <= 0).all()


@pytest.mark.parametrize(("rows", "k"), [(0, 3), (1, 1), (1, 5), (4, 4), (4, 9)])
def test_no_more_clusters_than_rows(rows: int, k: int) -> None:
    vectors = clouds(4, 3)[:rows]
    found = kmeans(vectors, k, Metric.L2, nothing)
    assert len(found.number) == len(found.distances) == rows
    assert set(found.number) == set(range(1, min(rows, k) + 1))
    if k >= rows:
        assert (found.distances == 0).all()


def test_copies_of_one_row_are_one_cluster() -> None:
    found = kmeans(np.ones((40, 3), np.float32), 5, Metric.L2, nothing)
    assert set(found.number) == {1}
    assert (found.distances < 0.01).all()


def test_many_rows_are_learned_from_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEARNED_FROM", 4)
    monkeypatch.setattr(module, "_PRODUCTS", 64)
    found = kmeans(clouds(4, 100), 4, Metric.L2, nothing)
    assert len(found.number) == 400
    assert set(found.number) <= {1, 2, 3, 4}


def test_it_ends_with_its_statement() -> None:
    def over() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        kmeans(clouds(4, 100), 4, Metric.L2, over)

"""The plane of `principal_plane` is that of the largest variance, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest

from nearql.engine.projection import principal_plane


@pytest.mark.parametrize(("rows", "dimensions"), [(40, 6), (6, 40), (7, 7), (2, 3), (1, 5), (9, 1)])
def test_it_is_the_svd_of_the_centred_rows(rows: int, dimensions: int) -> None:
    chance = np.random.default_rng(rows * 100 + dimensions)
    stretched = chance.standard_normal((rows, dimensions)) * np.linspace(9, 1, dimensions)
    vectors = (stretched + 5).astype(np.float32)
    points, shares = principal_plane(vectors)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = np.zeros((rows, 2))
    expected[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4 * max(sizes[0], 1))
    total = (sizes**2).sum()
    wanted = [*(sizes[:2] ** 2 / total if total else sizes[:2] * 0), 0.0][:2]
    np.testing.assert_allclose(shares, wanted, atol=1e-9)


def test_nothing_and_equal_vectors_lie_at_zero() -> None:
    for vectors in (np.empty((0, 3)), np.full((5, 3), 2.5), np.zeros((4, 8))):
        points, shares = principal_plane(vectors.astype(np.float32))
        assert points.shape == (len(vectors), 2)
        assert not points.any()
        assert shares == (0.0, 0.0)


def test_signs_don_t_depend_on_the_solver() -> None:
    vectors = np.random.default_rng(2).standard_normal((30, 5)).astype(np.float32)
    points, _ = principal_plane(vectors)
    farthest = points[np.abs(points).argmax(axis=0), [0, 1]]
    assert (farthest > 0).all()


def test_the_largest_numbers_stay_finite() -> None:
    vectors = np.array([[3e38, -3e38], [-3e38, 3e38], [3e38, 3e38]], np.float32)
    points, shares = principal_plane(vectors)
    assert np.isfinite(points).all()
    assert sum(shares) == pytest.approx(1)

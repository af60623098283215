"""Profiles of indexes: what was measured, what is answered from it, and what counts as recall."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine import tuning
from nearql.engine.costs import Rung
from nearql.engine.distance import canonical_distances
from nearql.engine.index.base import Unlisted
from nearql.engine.tuning import Profile, derived, measure, recalls
from nearql.engine.types import VECTOR_METRICS, Metric

NAN = np.nan


def rung(k: int, effort: int, recall: float, us: float) -> Rung:
    return Rung(k, 10 * k, effort, recall, us)


PROFILE = Profile(
    (rung(10, 16, 0.90, 40), rung(10, 32, 0.96, 55), rung(10, 64, 0.99, 50),
     rung(40, 16, 0.80, 60), rung(40, 32, 0.94, 90))
)  # fmt: skip


@pytest.mark.parametrize(
    ("k", "target", "effort"),
    [
        (1, 0.9, 16), (10, 0.9, 16),
        (10, 0.95, 64),  # the cheapest that reaches it, here not the least effort
        (10, 0.99, 64), (10, 0.995, None),
        (11, 0.9, 32), (40, 0.94, 32), (40, 0.95, None),
        (41, 0.1, None),  # larger than any that was measured
    ],
)  # fmt: skip
def test_best(k: int, target: float, effort: int | None) -> None:
    found = PROFILE.best(k, target)
    assert (found.effort if found else None) == effort


def test_a_profile_survives_as_bytes() -> None:
    assert Profile.unpacked(PROFILE.packed()) == PROFILE
    live = Profile(PROFILE.rungs, live=True)
    assert Profile.unpacked(live.packed()) == live


def test_a_profile_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PROFILE.packed()
    monkeypatch.setattr(tuning, "_FORMAT", 2)
    assert Profile.unpacked(packed) is None


def test_a_damaged_profile_is_none() -> None:
    packed = PROFILE.packed()
    for at in range(len(packed)):
        damaged = bytearray(packed)
        damaged[at] ^= 1
        assert Profile.unpacked(bytes(damaged)) is None
    for size in range(len(packed)):
        assert Profile.unpacked(packed[:size]) is None


@pytest.mark.parametrize(
    ("nearest", "found", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1, 2, 3], [3, 1, 9], 2 / 3),
        ([1, 2, 2], [2, 2, 1], 1.0),
        ([1, 2, 2], [2, 2, 2, 2], 2 / 3),  # equal rows stand for each other, not for a nearer one
        ([2, 2, 2], [2, 2], 2 / 3),
        ([1, NAN, NAN], [1, 5, 6], 1.0),  # fewer rows than asked for
        ([NAN, NAN, NAN], [], 1.0),
        ([1, 2, 3], [], 0.0),
    ],
)
def test_recall(nearest: list[float], found: list[float], expected: float) -> None:
    exact, named = (np.array([row], np.float32) for row in (nearest, found))
    assert recalls(exact, named).tolist() == pytest.approx([expected])


@dataclass
class Rough(Unlisted):
    """An index that names the true nearest rows, each with a chance that grows with the effort."""

    vectors: NDArray[np.float32]
    metric: Metric = Metric.L2
    asked: list[tuple[int, int]] = field(default_factory=list)
    kind = "rough"
    nbytes = 0
    covered = None

    @property
    def rows(self) -> int:
        return len(self.vectors)

    def candidates(self, k: int) -> int:
        return 2 * k

    def efforts(self, count: int) -> tuple[int, ...]:
        return (1, 2, 4, 8)

    def search(
        self, queries: NDArray[np.float32], count: int, *, effort: int,
        mask: NDArray[np.bool_] | None, threads: int = 1,
    ) -> NDArray[np.int64]:  # fmt: skip
        assert mask is None
        self.asked.append((count, effort))
        positions = exact_order(self.vectors, queries, self.metric)[:, :count]
        luck = np.random.default_rng(effort).random(positions.shape)
        return np.where(luck < 1 - 0.4 / effort**2, positions, -1)


def exact_order(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], metric: Metric
) -> NDArray[np.int64]:
    distances = [canonical_distances(vectors, query, metric) for query in queries]
    return np.argsort(distances, axis=1, kind="stable")


def truth_of(vectors: NDArray[np.float32], metric: Metric) -> tuning.Truth:
    def truth(queries: NDArray[np.float32], k: int) -> NDArray[np.float32]:
        distances = np.array([canonical_distances(vectors, query, metric) for query in queries])
        distances.sort(axis=1)
        padding = ((0, 0), (0, max(0, k - len(vectors))))
        return np.pad(distances, padding, constant_values=NAN)[:, :k]

    return truth


def make(rows: int = 900) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)


def test_measured_recall_is_the_index_s_own() -> None:
    """Efforts 1, 2, 4, 8 name 0.6, 0.9, 0.975, 0.994 of the nearest rows.

    The first is hopeless: the second is left out, and larger answers begin above it.
    """
    vectors = make()
    index = Rough(vectors)
    groups = derived(vectors, np.arange(900), Metric.L2)
    profile = measure(index, vectors, truth_of(vectors, Metric.L2), groups, most_us=np.inf)
    for size in tuning.NEAREST:
        found = [one.recall for one in profile.rungs if one.k == size]
        expected = [0.6, 0.975, 0.994] if size == 10 else [0.9, 0.975, 0.994]
        assert found == pytest.approx(expected, abs=0.04)
    enough = [one.effort for one in profile.rungs if one.k == 40 and one.recall >= 0.95]
    assert enough == [4, 8]
    assert profile.best(10, 0.999) is None
    assert all(one.us >= 0 and one.count == 2 * one.k for one in profile.rungs)


def test_rough_codes_are_made_up_for_by_more_candidates() -> None:
    """Of the nearest rows the last of twice as many candidates are missing at any effort."""

    class Shy(Rough):
        """Names the farther half of its candidates."""

        def search(self, queries: NDArray[np.float32], count: int, **more: Any) -> Any:
            return super().search(queries, count, **more)[:, count // 4 :]

    vectors = make()
    groups = derived(vectors, np.arange(900), Metric.L2, 20)
    profile = measure(Shy(vectors), vectors, truth_of(vectors, Metric.L2), groups, most_us=np.inf)
    assert {one.count for one in profile.rungs if one.k == 10} == {20, 80}


def test_no_effort_is_tried_that_costs_more_than_reading() -> None:
    vectors = make()
    index = Rough(vectors)
    groups = derived(vectors, np.arange(900), Metric.L2, 4)
    profile = measure(index, vectors, truth_of(vectors, Metric.L2), groups, most_us=-1)
    assert [(one.k, one.effort) for one in profile.rungs] == [(10, 1), (40, 2), (160, 2), (640, 2)]


def test_the_worst_kind_of_query_counts() -> None:
    """Far queries are answered by luck alone; what is noted is their recall."""
    vectors = make()

    @dataclass
    class Nearsighted(Rough):
        """Names nothing for queries far away."""

        def search(
            self, queries: NDArray[np.float32], *args: object, **more: object
        ) -> NDArray[np.int64]:
            found = super().search(queries, *args, **more)  # type: ignore[arg-type]
            return np.where(np.linalg.norm(queries, axis=1)[:, np.newaxis] < 50, found, -1)

    near = derived(vectors, np.arange(900), Metric.L2, 20)[0]
    truth = truth_of(vectors, Metric.L2)
    profile = measure(Nearsighted(vectors), vectors, truth, [near, near + 100], most_us=np.inf)
    assert {one.recall for one in profile.rungs} == {0.0}


def test_a_measurement_is_called_off() -> None:
    class Enough(Exception):
        """It is."""

    def check() -> None:
        raise Enough

    vectors = make(50)
    with pytest.raises(Enough):
        measure(
            Rough(vectors), vectors, truth_of(vectors, Metric.L2),
            derived(vectors, np.arange(50), Metric.L2, 2), most_us=1, check=check,
        )  # fmt: skip


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
def test_derived_queries_are_near_no_row_but_among_them(metric: Metric) -> None:
    """Not copies of rows, which any index finds; and not off the data's own scale and offset."""
    vectors = make() * np.float32(1e-3) + np.float32(5)
    between, off = derived(vectors, np.arange(0, 900, 3), metric, 50)
    assert between.shape == off.shape == (50, 8)
    assert between.dtype == off.dtype == np.float32
    if metric is Metric.COSINE:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    spread = vectors.std()
    for made in (between, off):
        nearest = np.linalg.norm(made[:, None] - vectors[None], axis=2).min(axis=1)
        assert (nearest > 0).all()
        assert nearest.max() < 20 * spread
    again = derived(vectors, np.arange(0, 900, 3), metric, 50)
    np.testing.assert_allclose(again[0], between, rtol=1e-5)

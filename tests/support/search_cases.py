"""Searches to try on every backend, and the brute force to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearql.engine import codes
from nearql.engine.backends import projected
from nearql.engine.backends.base import Backend
from nearql.engine.backends.cupy import CupyBackend
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.codes import Codes
from nearql.engine.distance import canonical_distances
from nearql.engine.search import Searcher, VectorSlice, row_norms
from nearql.engine.settings import EngineSettings
from nearql.engine.types import VECTOR_METRICS, Metric, SearchHits, SearchRequest

BACKENDS = ["numpy", "faiss_cpu", "cupy"]
DATA = [
    "normal",
    "few_values",
    "far_cluster",
    "long",
    "huge",
    "tiny",
    "mixed",
    "extreme",
    "one_vector",
    "unit",
]


def make_backend(name: str) -> Backend:
    """A backend by name; skips the test where its library is missing."""
    if name == "numpy":
        return NumpyBackend()
    if name == "cupy":
        return numpy_as_device()
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    from nearql.engine.backends.faiss_cpu import FaissCpuBackend

    return FaissCpuBackend()


def numpy_as_device(host: Backend | None = None) -> CupyBackend:
    """The GPU's backend with NumPy in the place of CuPy, and small tiles."""
    made = CupyBackend(host or NumpyBackend(), np, 1 << 30)
    made.tiling = replace(made.tiling, rows=32)
    return made


def make_searcher(name: str, threads: int = 2) -> Searcher:
    """A searcher on a backend by name; skips the test where its library is missing."""
    return Searcher(make_backend(name), EngineSettings(search_threads=threads))


@dataclass
class Case:
    """A table of one vector column in slices, queries, and a filter.

    vectors: (n, d); keys: (n,) unique; valid, mask: bool (n,) or None; cuts: ends of the slices.
    """

    vectors: NDArray[Any]
    queries: NDArray[np.float32]
    metric: Metric
    k: int
    keys: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    mask: NDArray[np.bool_] | None = None
    cuts: tuple[int, ...] = ()
    arrow_keys: bool = False
    cached_norms: bool = True

    @cached_property
    def qualifying(self) -> NDArray[np.int64]:
        """Positions of the rows that can match."""
        every = np.ones(len(self.vectors), bool)
        for mask in (self.valid, self.mask):
            every &= True if mask is None else mask
        return np.flatnonzero(every)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Row ranges of the slices; row numbers are positions."""
        edges = [0, *sorted(self.cuts), len(self.vectors)]
        return list(zip(edges[:-1], edges[1:], strict=True))

    def slices(self) -> list[VectorSlice]:
        """The slices to search."""
        return [
            VectorSlice(
                self.vectors[low:high],
                low,
                None if self.valid is None else self.valid[low:high],
                row_norms(self.vectors[low:high]) if self.cached_norms else None,
                Codes(),
            )
            for low, high in self.bounds
        ]

    def masks(self) -> list[NDArray[np.bool_] | None] | None:
        """The filter per slice."""
        if self.mask is None:
            return None
        return [self.mask[low:high] for low, high in self.bounds]

    def keys_of(self, rows: NDArray[np.int64]) -> Any:
        """Primary keys of rows."""
        found = self.keys[rows]
        return pa.array(found.tolist()) if self.arrow_keys else found

    def search(self, searcher: Searcher) -> SearchHits:
        """What the searcher answers."""
        request = SearchRequest("vec", self.metric, self.queries, self.k)
        return searcher.search(self.slices(), request, masks=self.masks(), keys_of=self.keys_of)

    def search_range(
        self, searcher: Searcher, query: int, radius: float, inclusive: bool
    ) -> SearchHits:
        """What the searcher answers to a range search."""
        return searcher.search_range(
            self.slices(),
            metric=self.metric,
            query=self.queries[query],
            radius=radius,
            inclusive=inclusive,
            masks=self.masks(),
            keys_of=self.keys_of,
        )

    def expected(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """All qualifying rows with their distances, by (distance, key), NaN last."""
        distances = canonical_distances(self.vectors, self.queries[query], self.metric)
        rows = sorted(
            self.qualifying.tolist(),
            key=lambda r: (np.isnan(distances[r]), _number(distances[r]), self.keys[r]),
        )
        at = np.array(rows, np.int64)
        return at, distances[at]

    def check(self, hits: SearchHits) -> None:
        """Compare an answer with brute force, bit for bit."""
        assert hits.rows.shape == hits.distances.shape == (len(self.queries), self.k)
        for query in range(len(self.queries)):
            rows, distances = self.expected(query)
            rows, distances = rows[: self.k], distances[: self.k]
            missing = self.k - len(rows)
            np.testing.assert_array_equal(hits.rows[query], [*rows, *[-1] * missing])
            np.testing.assert_array_equal(hits.distances[query], [*distances, *[np.nan] * missing])


def code_at_once(patch: pytest.MonkeyPatch) -> None:
    """Have small tables coded, in many tiles, before their first search."""
    patch.setattr(codes, "TILE_ROWS", 32)
    patch.setattr(codes, "LEAST_ELEMENTS", 1)
    patch.setattr(codes, "LEAST_GROWTH", 3)
    ready = codes.Coder.tiles

    def tiles(coder: codes.Coder, rows: codes.Rows, metric: Metric) -> tuple[codes.Tile, ...]:
        ready(coder, rows, metric)
        coder.settle()
        return ready(coder, rows, metric)

    patch.setattr(codes.Coder, "tiles", tiles)


def project_always(patch: pytest.MonkeyPatch) -> None:
    """Have small batches go through projections, in many stretches and tiles."""
    for name in ("LEAST_QUERIES", "LEAST_ROWS", "LEAST_DIMENSIONS"):
        patch.setattr(projected, name, 1)
    patch.setattr(projected, "_TILE", 3)
    patch.setattr(projected, "_STRETCH", 23)
    patch.setattr(projected, "_ROWS", 5)
    patch.setattr(projected, "_GATHERED", 64)
    patch.setattr(projected, "_width", lambda axes, *_: -(-len(axes) // 3))


def _number(distance: Any) -> float:
    return 0.0 if np.isnan(distance) else float(distance)


def naive_distances(
    vectors: NDArray[Any], query: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    """Textbook formulas in float64, written without a look at the engine's."""
    rows, one = vectors.astype(np.float64), query.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(np.linalg.norm(rows - one, axis=1))
    if metric is Metric.L1:
        return np.asarray(np.linalg.norm(rows - one, 1, axis=1))
    products = np.asarray(rows @ one)
    if metric is Metric.INNER_PRODUCT:
        return -products
    with np.errstate(invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
        return np.asarray(1 - products / lengths)


def make_vectors(
    random: np.random.Generator, kind: str, count: int, dimensions: int
) -> NDArray[np.float32]:
    """Vectors of a kind that is known to be hard, float32 (n, d)."""
    normal = random.standard_normal((count, dimensions))
    if kind == "few_values":  # ties and zero vectors
        normal = random.integers(-1, 2, (count, dimensions)).astype(np.float64)
    elif kind == "far_cluster":  # |x|^2 - 2xq + |q|^2 cancels
        normal = 1e4 + normal * 1e-2
    elif kind == "long":
        normal *= 1e14
    elif kind == "huge":  # squares overflow float32
        normal *= 1e30
    elif kind == "tiny":  # squares underflow float32
        normal *= 1e-30
    elif kind == "mixed":  # a few rows of each magnitude, and zero vectors
        normal *= random.choice([0, 1e-30, 1, 1, 1, 1e6, 1e20], (count, 1))
    elif kind == "extreme":  # from denormals to the end of float32, row by row
        normal = np.clip(normal, -1, 1) * 10.0 ** random.uniform(-45, 37, (count, 1))
    elif kind == "one_vector":
        normal[:] = normal[:1]
    elif kind == "unit":
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return normal.astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small tables of every hard kind, whole and in slices, filtered and not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, dimensions = draw(st.integers(1, 120)), draw(st.integers(1, 40))
    vectors: NDArray[Any] = make_vectors(random, draw(st.sampled_from(DATA)), count, dimensions)
    if draw(st.booleans()):
        vectors = np.clip(vectors, -6e4, 6e4).astype(np.float16)
    asked = draw(st.integers(1, 9))
    near = vectors[random.integers(0, count, asked)].astype(np.float32)
    queries = near if draw(st.booleans()) else near[:, ::-1] + np.float32(0.5)
    if draw(st.booleans()):
        queries = queries * np.float32(draw(st.sampled_from([-1, 3, 1e-20, 1e-42])))
    keys: NDArray[Any] = random.permutation(count)
    if draw(st.booleans()):
        keys = np.array([f"k{key}" for key in keys])
    share = draw(st.sampled_from([None, 0.0, 0.03, 0.5, 0.9]))
    return Case(
        vectors,
        np.ascontiguousarray(queries),
        draw(st.sampled_from(list(VECTOR_METRICS))),
        draw(st.integers(1, 130)),
        keys,
        valid=random.random(count) < 0.8 if draw(st.booleans()) else None,
        mask=None if share is None else random.random(count) < share,
        cuts=tuple(draw(st.lists(st.integers(0, count), max_size=3))),
        arrow_keys=draw(st.booleans()),
        cached_norms=draw(st.booleans()),
    )

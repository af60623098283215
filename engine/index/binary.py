"""Indexes over bit strings, by Hamming distance: a graph, and lists by the nearest centroid.

As FAISS builds them over packed bits (see `hnsw` and `ivf` for the algorithms). They compare
exactly, so candidates are as good as the part of the rows that was looked into. FAISS's kernels for
bits take no filter: rows that may not be named are left out of what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.bit_rows import WORD, from_queries
from nearql.engine.costs import wanted
from nearql.engine.index import ivf
from nearql.engine.index.base import BuildWatch, IndexKind, Options, Source, Unlisted, VectorIndex
from nearql.engine.index.hnsw import EF_CONSTRUCTION, LADDER, M
from nearql.engine.index.native import faiss
from nearql.engine.index.native import threads as omp_threads
from nearql.engine.types import Metric

_STEP_ROWS = 65_536
_TRAIN_PER_LIST = 64


@dataclass(frozen=True, eq=False)
class BinaryIndex(Unlisted):
    """A FAISS index over the covered rows of a segment, as words. Implements `VectorIndex`.

    labels: int64, (m,): the position of each of its rows. holds: what its memory lies in.
    """

    kind: str
    rows: int
    covered: NDArray[np.bool_] | None
    native: Any
    holds: Any = None
    metric: Metric = Metric.HAMMING
    _kept: dict[int, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _labels(self) -> NDArray[np.int64] | None:
        return None if self.covered is None else np.flatnonzero(self.covered)

    @property
    def nbytes(self) -> int:
        """See `VectorIndex.nbytes`."""
        links = self.native.hnsw.neighbors.size() * 4 if self.kind == "hnsw" else 0
        return int(links + self.native.ntotal * (self.native.d // 8 + 8))

    def search(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: int,
        mask: NDArray[np.bool_] | None,
        threads: int = 1,
    ) -> NDArray[np.int64]:
        """See `VectorIndex.search`."""
        if mask is not None:
            return self._masked(queries, count, effort, mask)
        packed = from_queries(queries).view(np.uint8)
        count = min(count, int(self.native.ntotal))
        with omp_threads(threads):
            _, found = self.native.search(packed, count, params=self._parameters(effort))
        if self._labels is None:
            return np.asarray(found, np.int64)
        return np.where(found < 0, -1, self._labels[found])

    def _masked(
        self, queries: NDArray[np.float32], count: int, effort: int, mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """As many more as should leave so many that the mask allows."""
        share = max(float(mask.mean()), 1 / max(1, len(mask)))
        more = min(wanted(count, share), int(self.native.ntotal))
        found = self.search(queries, more, effort=max(effort, more), mask=None)
        found = np.where((found >= 0) & mask[found], found, -1)
        order = np.argsort(found < 0, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(found, order, axis=1)

    def _parameters(self, effort: int) -> Any:
        made = self._kept.get(effort)
        if made is None:
            if self.kind == "hnsw":
                made = faiss.SearchParametersHNSW(efSearch=effort)
            else:
                made = faiss.SearchParametersIVF(nprobe=effort)
            self._kept[effort] = made
        return made

    def candidates(self, k: int) -> int:
        """See `VectorIndex.candidates`; a few more, among which ties are broken."""
        return min(k + 1 + k // 16, max(1, int(self.native.ntotal)))

    def efforts(self, count: int) -> tuple[int, ...]:
        """See `VectorIndex.efforts`."""
        if self.kind != "hnsw":
            return ivf.ladder(int(self.native.nlist))
        return tuple(effort for effort in LADDER if effort >= count) or LADDER[-1:]


def _build_graph(
    source: Source, metric: Metric, options: Options, watch: BuildWatch
) -> VectorIndex:
    """See `IndexKind.build`. Options: m, ef_construction."""
    del metric
    native = faiss.IndexBinaryHNSW(_bits(source), int(options.get("m", M)))
    native.hnsw.efConstruction = int(options.get("ef_construction", EF_CONSTRUCTION))
    watch.step("training", 0)
    return _filled("hnsw", native, source, watch)


def _build_lists(
    source: Source, metric: Metric, options: Options, watch: BuildWatch
) -> VectorIndex:
    """See `IndexKind.build`. Option: lists."""
    del metric
    rows, bits = _covered(source), _bits(source)
    lists = ivf.list_count(len(rows), options)
    quantizer = faiss.IndexBinaryFlat(bits)
    native = faiss.IndexBinaryIVF(quantizer, bits, lists)
    native.cp.min_points_per_centroid = 1
    watch.step("training", 0)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _TRAIN_PER_LIST * lists)).astype(np.int64)
    with omp_threads(watch.threads):
        native.train(np.ascontiguousarray(rows[chosen]))
    return _filled("ivfflat", native, source, watch, quantizer)


def _filled(
    kind: str, native: Any, source: Source, watch: BuildWatch, holds: Any = None
) -> BinaryIndex:
    rows = _covered(source)
    with omp_threads(watch.threads):
        for done in range(0, len(rows), _STEP_ROWS):
            watch.step("building", done)
            native.add(np.ascontiguousarray(rows[done : done + _STEP_ROWS]))
    watch.step("building", len(rows))
    return BinaryIndex(kind, len(source.vectors), source.covered, native, holds)


def _build_bytes(source: Source, metric: Metric, options: Options) -> int:
    """See `IndexKind.build_bytes`: rows as they are picked, in the index, dumped and written."""
    del metric
    links = 4 * (2 * int(options.get("m", M)) + 4)
    return len(source.vectors) * (4 * _bits(source) // 8 + 3 * links)


def _dump(index: VectorIndex) -> Mapping[str, Any]:
    """See `IndexKind.dump`."""
    assert isinstance(index, BinaryIndex)
    writer = faiss.VectorIOWriter()
    faiss.write_index_binary(index.native, writer)
    return {"index": np.asarray(faiss.vector_to_array(writer.data), np.uint8)}


def _load(kind: str, parts: Mapping[str, memoryview], source: Source) -> VectorIndex:
    image = parts["index"]
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(np.frombuffer(image, np.uint8)), len(image))
    native = faiss.read_index_binary(reader)
    return BinaryIndex(kind, len(source.vectors), source.covered, native, image)


def _load_graph(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    del metric
    return _load("hnsw", parts, source)


def _load_lists(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    del metric
    return _load("ivfflat", parts, source)


def _bits(source: Source) -> int:
    return WORD * int(source.vectors.shape[1])


def _covered(source: Source) -> NDArray[np.uint8]:
    """The covered rows as bytes."""
    words: NDArray[Any] = source.vectors
    rows = words if source.covered is None else words[source.covered]
    return np.ascontiguousarray(rows).view(np.uint8)


_METRICS = frozenset({Metric.HAMMING})
KINDS = {
    "hnsw": IndexKind(
        "hnsw", _build_graph, _build_bytes, _dump, _load_graph, _METRICS, least_rows=64
    ),
    "ivfflat": IndexKind(
        "ivfflat", _build_lists, _build_bytes, _dump, _load_lists, _METRICS, least_rows=64
    ),
}

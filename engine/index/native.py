"""FAISS indexes as NearQL holds them: built in steps, read where their file is mapped, searched
with one thread a query.

Traps that this file keeps from everybody else (measured, see docs/decisions):
- OpenMP's number of threads is a setting of each thread; with more than one, a single query takes
  up to ten times the CPU.
- An index read from a mapping points into it: whoever holds the index must hold the mapping.
- A selector points to its bitmap, and search parameters to their selector: hold them until the end.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.distance import Vectors
from nearql.engine.index.base import BuildWatch, Source
from nearql.engine.index.rows import Prepared
from nearql.engine.types import Metric

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's generated classes
    import faiss

__all__ = [
    "FAISS_METRIC",
    "NativeIndex",
    "add_rows",
    "borrowed",
    "faiss",
    "lend_vectors",
    "serialized",
    "threads",
]

FAISS_METRIC = {
    Metric.L2: faiss.METRIC_L2,
    Metric.INNER_PRODUCT: faiss.METRIC_INNER_PRODUCT,
    Metric.COSINE: faiss.METRIC_INNER_PRODUCT,  # of rows of unit length
    Metric.L1: faiss.METRIC_L1,
}
_QUERIES_EACH = 2  # queries that a further thread is woken for
_TALLIES = 32  # filters whose rows by list are remembered
_NOBODY = faiss.MaybeOwnedVectorUInt8()  # whose owner, a null pointer, borrowed arrays take


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let OpenMP use so many threads in calls from this one."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def add_rows(index: Any, rows: Prepared, watch: BuildWatch, step: int) -> None:
    """Add all rows, so many at once."""
    with threads(watch.threads):
        for done, block in rows.blocks(step):
            watch.step("building", done)
            index.add(block)
    watch.step("building", rows.count)


def serialized(index: Any, flags: int = 0) -> NDArray[np.uint8]:
    """The index as bytes: uint8, one-dimensional."""
    writer = faiss.VectorIOWriter()
    faiss.write_index(index, writer, flags)
    return np.asarray(faiss.vector_to_array(writer.data), np.uint8)


def borrowed(image: memoryview) -> Any:
    """The index in these bytes, which it points into: hold them for as long as it lives."""
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(np.frombuffer(image, np.uint8)), len(image))
    return faiss.read_index(reader)


def lend_vectors(flat: Any, vectors: Vectors) -> None:
    """Let an empty flat index read vectors where they lie: hold them for as long as it lives."""
    pointer = faiss.swig_ptr(vectors.reshape(-1).view(np.uint8))
    flat.codes = faiss.MaybeOwnedVectorUInt8.create_view(pointer, vectors.nbytes, _NOBODY.owner)
    flat.ntotal = len(vectors)


@dataclass(frozen=True, eq=False)
class _Tally:
    """Rows of a filter by list. owner: the array that the filter's mask is of."""

    owner: Callable[[], Any]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NativeIndex:
    """A FAISS index over the covered rows of a segment. Implements `VectorIndex`.

    rows: of the segment. labels: int64, (m,): the position of each of its rows, None = the same.
    width: dimensions with padding. parameters: what FAISS takes for (effort, selector or None).
    ladder, slack: see `efforts` and `candidates`; at_least_count: efforts below the count are of no
    use. turn: what is done to queries last. holds: what its memory lies in. listed: whether it
    keeps rows in lists. alone: whether FAISS takes one thread for one query whatever OpenMP's
    setting is, which each look at gives Python away to other threads.
    """

    kind: str
    metric: Metric
    rows: int
    covered: NDArray[np.bool_] | None
    labels: NDArray[np.int64] | None
    width: int
    nbytes: int
    native: Any
    parameters: Callable[[int, Any], Any]
    ladder: tuple[int, ...]
    slack: Callable[[int], int]
    at_least_count: bool = False
    turn: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    holds: Any = None
    listed: bool = False
    alone: bool = False
    _kept: dict[int, Any] = field(default_factory=dict, repr=False)
    _tallies: dict[int, _Tally] = field(default_factory=dict, repr=False)

    @classmethod
    def over(
        cls, source: Source, kind: str, metric: Metric, native: Any, *, row_bytes: int, **more: Any
    ) -> NativeIndex:
        """The index over this source. row_bytes: what it holds for each row."""
        labels = None if source.covered is None else np.flatnonzero(source.covered)
        return cls(
            kind=kind, metric=metric, rows=len(source.vectors), covered=source.covered,
            labels=labels, nbytes=row_bytes * int(native.ntotal), native=native, **more,
        )  # fmt: skip

    def efforts(self, count: int) -> tuple[int, ...]:
        """See `VectorIndex.efforts`."""
        enough = [effort for effort in self.ladder if not self.at_least_count or effort >= count]
        return tuple(enough) or self.ladder[-1:]

    def tally(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `VectorIndex.tally`; remembered for as long as the filter is."""
        owner = mask if mask.base is None else mask.base
        kept = self._tallies.get(id(owner))
        if kept is None or kept.owner() is not owner:
            if len(self._tallies) >= _TALLIES:
                self._tallies.clear()
            kept = _Tally(weakref.ref(owner), self._tally(mask))
            self._tallies[id(owner)] = kept
        return kept.counts

    def _tally(self, mask: NDArray[np.bool_] | slice) -> NDArray[np.int64]:
        lists = int(self.native.nlist)
        return np.bincount(self._list_of[mask], minlength=lists + 1)[:lists]

    @cached_property
    def _list_of(self) -> NDArray[np.int32]:
        """The list of each of the segment's rows, one beyond the last for those not covered."""
        lists = self.native.invlists
        found = np.full(self.rows, self.native.nlist, np.int32)
        for at in range(self.native.nlist):
            if size := lists.list_size(at):
                ids = faiss.rev_swig_ptr(lists.get_ids(at), size)
                found[ids if self.labels is None else self.labels[ids]] = at
        return found

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Rows of each list."""
        return self._tally(slice(None))

    @cached_property
    def _fewest(self) -> NDArray[np.int64]:
        """How many rows 1, 2, ... lists hold at least."""
        return np.sort(self._sizes).cumsum()

    def shares(
        self, queries: NDArray[np.float32], nearest: int, tally: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """See `VectorIndex.shares`."""
        queries = self._shaped(queries)
        count = min(len(tally), 1 + int(np.searchsorted(self._fewest, nearest)))
        lists = np.empty((len(queries), count), np.int64)
        distances = np.empty(lists.shape, np.float32)
        with threads(1):
            self.native.quantizer.search_c(
                len(queries), faiss.swig_ptr(queries), count,
                faiss.swig_ptr(distances), faiss.swig_ptr(lists),
            )  # fmt: skip
        rows = self._sizes[lists].cumsum(axis=1)
        last = np.minimum((rows < nearest).sum(axis=1), count - 1)
        each = np.arange(len(queries))
        found: NDArray[np.float64] = tally[lists].cumsum(axis=1)[each, last] / np.maximum(
            1, rows[each, last]
        )
        return found

    def candidates(self, k: int) -> int:
        """See `VectorIndex.candidates`."""
        return min(self.slack(k), max(1, int(self.native.ntotal)))

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
        queries = self._shaped(queries)
        parameters, held = self._parameters(effort, mask)
        found = np.empty((len(queries), count), np.int64)
        distances = np.empty(found.shape, np.float32)
        used = max(1, min(threads, len(queries) // _QUERIES_EACH))
        before = 1 if self.alone and len(queries) == 1 else faiss.omp_get_max_threads()
        if before != used:
            faiss.omp_set_num_threads(used)
        try:
            self.native.search_c(
                len(queries), faiss.swig_ptr(queries), count,
                faiss.swig_ptr(distances), faiss.swig_ptr(found), parameters,
            )  # fmt: skip
        finally:
            if before != used:
                faiss.omp_set_num_threads(before)
        del held
        if self.labels is None:
            return found
        return np.where(found < 0, -1, self.labels[found])

    def _parameters(self, effort: int, mask: NDArray[np.bool_] | None) -> tuple[Any, Any]:
        """What FAISS takes, and what must live as long."""
        if mask is None:
            kept = self._kept.get(effort)
            if kept is None:
                kept = self._kept[effort] = self.parameters(effort, None)
            return kept, None
        bits = np.packbits(mask if self.labels is None else mask[self.labels], bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        return self.parameters(effort, selector), (bits, selector)

    def _shaped(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.metric is Metric.COSINE and (self.listed or len(queries) > 1):
            # In a graph one query's length changes no order, and it is not an extreme one; but
            # ivfrabitq quantises how the query lies beside a centroid, which its length changes.
            queries = queries / np.sqrt(np.einsum("ij,ij->i", queries, queries))[:, np.newaxis]
        if self.width > queries.shape[1]:
            queries = np.pad(queries, ((0, 0), (0, self.width - queries.shape[1])))
        return np.ascontiguousarray(queries if self.turn is None else self.turn(queries))

"""What a vector index is: something built once over rows of a segment that names candidates.

An index never answers. It names positions, a little wrong and unordered; the searcher computes
their canonical distances over the raw vectors, so that what a user sees never depends on a kind.

    segment   0 1 2 3 4 5 6 7        rows; 2 is NULL, 5 is a zero vector (cosine)
    index     0 1 . 3 4 . 6 7        `covered`: what it may name
    exact         .     .            the rest is looked at row by row, as un-indexed rows are

Invariants: immutable once built; `search` names only rows that `covered` and the mask allow, each
at most once; a row that is not covered is never the index's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nearql.engine.distance import Vectors
from nearql.engine.types import Metric


class BuildCancelled(Exception):
    """A build was called off: its index was dropped, its rows are gone, or the node is closing."""


class BuildWatch(Protocol):
    """Who watches a build."""

    def step(self, phase: str, done: int) -> None:
        """So many rows are done in this phase (see `catalog.IndexProgress`).

        Raises:
            BuildCancelled: stop now.
        """

    @property
    def threads(self) -> int:
        """How many threads the build may use."""


@dataclass(frozen=True)
class Source:
    """The rows that an index is built over.

    vectors: float32 or float16, shape (n, d), C-contiguous: the segment's own, never copied whole.
    norms: float32, shape (n,), the rows' lengths.
    covered: bool, shape (n,): the rows to index; None = all.
    lasting: whether the vectors lie where they do for as long as the index lives.
    """

    vectors: Vectors
    norms: NDArray[np.float32]
    covered: NDArray[np.bool_] | None = None
    lasting: bool = True


class VectorIndex(Protocol):
    """One segment's rows of one vector column; immutable. Safe for use from several threads."""

    @property
    def kind(self) -> str:
        """hnsw, ivfflat, ..."""

    @property
    def metric(self) -> Metric:
        """What it was built for."""

    @property
    def rows(self) -> int:
        """Rows of the segment, covered or not."""

    @property
    def covered(self) -> NDArray[np.bool_] | None:
        """bool, shape (rows,): rows that it may name; None = all."""

    @property
    def nbytes(self) -> int:
        """Bytes of its own in memory or mapped; the segment's vectors are not counted."""

    def search(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: int,
        mask: NDArray[np.bool_] | None,
        threads: int = 1,
    ) -> NDArray[np.int64]:
        """Up to `count` positions near each query, shape (nq, count), in any order, -1 padded.

        queries: float32, shape (nq, d), C-contiguous, finite. effort: as in `efforts`, any positive
        number. mask: bool, shape (rows,): rows that may be named; None = all that are covered.
        threads: how many may share several queries.
        """

    @property
    def listed(self) -> bool:
        """Whether it keeps rows in lists; asking another for a mask's rows costs recall."""

    def tally(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many rows of a mask (as in `search`) lie in each of its lists, (lists,)."""

    def shares(
        self, queries: NDArray[np.float32], nearest: int, tally: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Of the rows in the first lists that it would look into for each query, as many as hold so
        many rows, the part that is in the tally: (nq,).
        """

    def candidates(self, k: int) -> int:
        """How many candidates to ask for, so that the k nearest are most likely among them."""

    def efforts(self, count: int) -> tuple[int, ...]:
        """Sensible efforts for so many candidates (ef_search, nprobe), cheap to dear.

        The last is as good as this index gets.
        """


class Unlisted:
    """What a `VectorIndex` says that has no lists, or whose lists take no filter."""

    @property
    def listed(self) -> bool:
        """See `VectorIndex.listed`."""
        return False

    def tally(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Never asked."""
        raise AssertionError("not listed")

    def shares(
        self, queries: NDArray[np.float32], nearest: int, tally: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Never asked."""
        raise AssertionError("not listed")


Options = Mapping[str, Any]
Build = Callable[[Source, Metric, Options, BuildWatch], VectorIndex]
BuildBytes = Callable[[Source, Metric, Options], int]


@dataclass(frozen=True)
class IndexKind:
    """One way to build and read back an index.

    build: over the covered rows of a source; the caller has checked that there are enough.
    build_bytes: memory that a build and its dump take at most, about.
    dump: the parts of a file that holds the index, by name, as buffers.
    load: the index again, reading the parts where they lie (they stay mapped for as long as it
        lives), over the same source.
    metrics: what it can be built for.
    least_rows: it cannot be built over fewer.
    """

    name: str
    build: Build
    build_bytes: BuildBytes
    dump: Callable[[VectorIndex], Mapping[str, Any]]
    load: Callable[[Mapping[str, memoryview], Source, Metric], VectorIndex]
    metrics: frozenset[Metric]
    least_rows: int

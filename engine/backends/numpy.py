"""The specification: searches with NumPy alone, in bounded memory, on any machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import Block
from nearql.engine.backends.blas import blas_threads
from nearql.engine.backends.scan import ScanBackend, copied
from nearql.engine.distance import widen
from nearql.engine.types import Metric


class NumpyBackend(ScanBackend):
    """Searches with NumPy and its BLAS."""

    name = "numpy"
    copies_rows = True

    def batches(self, metric: Metric, query_count: int) -> bool:
        """l2 always: the expanded form is several times quicker than differences, even for one."""
        return metric is Metric.L2 or (metric is not Metric.L1 and query_count > 1)

    def splits(self, block: Block, metric: Metric) -> bool:
        """Not where BLAS alone does the work and uses every core by itself."""
        return _takes_chunks(block, metric) or blas_threads() == 1

    def part_scores(
        self, block: Block, query: NDArray[np.float32], metric: Metric, out: NDArray[np.float32]
    ) -> Callable[[tuple[int, int]], None]:
        """See `ScanBackend.part_scores`; BLAS takes rows that need no copy all at once."""
        if _takes_chunks(block, metric):
            return super().part_scores(block, query, metric, out)
        vectors = widen(block.vectors)
        return lambda part: self.chunk_scores(
            vectors[slice(*part)], query, metric, out[slice(*part)]
        )

    def chunk_scores(
        self,
        vectors: NDArray[np.float32],
        query: NDArray[np.float32],
        metric: Metric,
        out: NDArray[np.float32],
    ) -> None:
        """See `ScanBackend.chunk_scores`."""
        if metric in (Metric.INNER_PRODUCT, Metric.COSINE):
            np.matmul(vectors, query, out=out)
            return
        differences = vectors - query
        if metric is Metric.L2:
            np.einsum("ij,ij->i", differences, differences, out=out)
        else:
            np.add.reduce(np.abs(differences, out=differences), axis=1, out=out)


def _takes_chunks(block: Block, metric: Metric) -> bool:
    """Whether rows are copied, or differences taken, in pieces that fit a cache."""
    return copied(block) or metric in (Metric.L2, Metric.L1)

"""The specification: searches with NumPy alone, in bounded memory, on any machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.scan import ScanBackend
from nearql.engine.types import Metric


class NumpyBackend(ScanBackend):
    """Searches with NumPy and its BLAS."""

    name = "numpy"
    copies_rows = True

    def batches(self, metric: Metric, query_count: int) -> bool:
        """l2 always: the expanded form is several times quicker than differences, even for one."""
        return metric is Metric.L2 or (metric is not Metric.L1 and query_count > 1)

    def splits(self, metric: Metric) -> bool:
        """BLAS uses every core by itself."""
        return metric is Metric.L1

    def chunk_scores(
        self, vectors: NDArray[np.float32], query: NDArray[np.float32], metric: Metric
    ) -> NDArray[np.float32]:
        """See `ScanBackend.chunk_scores`."""
        out: NDArray[np.float32]
        if metric in (Metric.INNER_PRODUCT, Metric.COSINE):
            out = vectors @ query
            return out
        differences = vectors - query
        if metric is Metric.L2:
            out = np.einsum("ij,ij->i", differences, differences)
        else:
            out = np.add.reduce(np.abs(differences, out=differences), axis=1)
        return out

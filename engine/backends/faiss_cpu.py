"""Searches with FAISS's kernels, straight over the segments' arrays: nothing is copied or built.

Only kernels without a state of their own are used. FAISS's k-nearest functions choose between two
algorithms by a global of the process (`distance_compute_blas_threshold`) that the program around an
embedded NearQL may change, and with it their error; these here always do the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import Block, is_tame, lengths, scaled
from nearql.engine.backends.scan import ScanBackend
from nearql.engine.codes import Tile
from nearql.engine.distance import Vectors, widen
from nearql.engine.team import Team
from nearql.engine.types import Metric

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's generated classes
    import faiss

    from nearql.engine.backends import faiss_codes
    from nearql.engine.backends.openmp import one_thread

_BATCH_QUERIES = 6  # from so many on one matrix product beats a scan per query (62,816 x 384)


class FaissCpuBackend(ScanBackend):
    """Searches with FAISS on the CPU; batches with NumPy's BLAS, see `scan`."""

    name = "faiss_cpu"
    copies_rows = False

    def batches(self, metric: Metric, query_count: int) -> bool:
        """From a few queries on."""
        return metric is not Metric.L1 and query_count >= _BATCH_QUERIES

    def splits(self, block: Block, metric: Metric) -> bool:
        """Always: the kernels use one core, and FAISS lets other Python threads run meanwhile."""
        del block, metric
        return True

    def codes(self, metric: Metric, k: int, query_count: int) -> bool:
        """For small k, one query after the other; see `faiss_codes`."""
        if self.batches(metric, query_count):
            return False
        return metric in faiss_codes.METRICS and k <= faiss_codes.MOST_NEIGHBOURS

    def encode(
        self, vectors: Vectors, valid: NDArray[np.bool_] | None, metric: Metric, low: int
    ) -> Tile:
        """See `faiss_codes.encode`."""
        return faiss_codes.encode(vectors, valid, metric, low)

    def contenders(
        self,
        block: Block,
        query: NDArray[np.float32],
        metric: Metric,
        *,
        k: int | None,
        limit: float,
        team: Team,
    ) -> NDArray[np.int64]:
        """See `Backend.contenders`; of a block with tiles `faiss_codes.contenders`."""
        length = lengths(query[np.newaxis, :])
        if not block.tiles or not (block.tame and is_tame(metric, length)[0]):
            return super().contenders(block, query, metric, k=k, limit=limit, team=team)
        with np.errstate(all="ignore"):
            left = scaled(query[np.newaxis, :], metric, length)[0]
            return faiss_codes.contenders(block, left, metric, k=k, limit=limit, team=team)

    def chunk_scores(
        self,
        vectors: NDArray[np.float32],
        query: NDArray[np.float32],
        metric: Metric,
        out: NDArray[np.float32],
    ) -> None:
        """See `ScanBackend.chunk_scores`."""
        count, dimensions = vectors.shape
        left, right, result = faiss.swig_ptr(query), faiss.swig_ptr(vectors), faiss.swig_ptr(out)
        if metric is Metric.L2:
            faiss.fvec_L2sqr_ny(result, left, right, dimensions, count)
        elif metric is Metric.L1:
            with one_thread():
                faiss.pairwise_extra_distances(
                    dimensions, 1, left, count, right, faiss.METRIC_L1, 0.0, result
                )
        else:
            faiss.fvec_inner_products_ny(result, left, right, dimensions, count)

    def part_scores(
        self, block: Block, query: NDArray[np.float32], metric: Metric, out: NDArray[np.float32]
    ) -> Callable[[tuple[int, int]], None]:
        """See `ScanBackend.part_scores`; float32 rows are read where they lie."""
        if block.vectors.dtype != np.float32:
            return super().part_scores(block, query, metric, out)
        if block.positions is None:
            vectors = widen(block.vectors)
            return lambda part: self.chunk_scores(
                vectors[slice(*part)], query, metric, out[slice(*part)]
            )
        if metric is Metric.L1:
            return super().part_scores(block, query, metric, out)
        positions = block.positions
        return lambda part: _scattered_scores(
            block, positions[slice(*part)], query, metric, out[slice(*part)]
        )


def _scattered_scores(
    block: Block,
    positions: NDArray[np.int64],
    query: NDArray[np.float32],
    metric: Metric,
    out: NDArray[np.float32],
) -> None:
    kernel = faiss.fvec_L2sqr_by_idx if metric is Metric.L2 else faiss.fvec_inner_products_by_idx
    with one_thread():
        kernel(
            faiss.swig_ptr(out),
            faiss.swig_ptr(query),
            faiss.swig_ptr(block.vectors),
            faiss.swig_ptr(positions),
            block.dimensions,
            1,
            len(positions),
        )

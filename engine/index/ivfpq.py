"""IVF over 4-bit product-quantized rows, sixteen compared at a time in registers ("fast scan").

Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011); André, Kermarrec
and Le Scouarnec, "Quicker ADC" (2018). A code is rough, so that many candidates are asked for and
compared again over the raw vectors: fewer bytes are read in all than by any other kind, and the
build is the cheapest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearql.engine.index import ivf
from nearql.engine.index.base import BuildWatch, IndexKind, Options, Source, VectorIndex
from nearql.engine.index.native import FAISS_METRIC, NativeIndex, borrowed, faiss, serialized
from nearql.engine.index.rows import Prepared, padded
from nearql.engine.types import Metric

_TRAIN_ROWS = 15_000  # more cost time and gain no recall
_FEW_DIMENSIONS = 200  # up to here a code is 4 bits for two dimensions, beyond for four
_BITS = 4


def build(source: Source, metric: Metric, options: Options, watch: BuildWatch) -> VectorIndex:
    """See `IndexKind.build`. Option: lists."""
    step = _step(source)
    rows = Prepared(source, metric, padded(source.vectors.shape[1], step))
    centroids = ivf.quantizer(rows.width, metric)
    lists = ivf.list_count(rows.count, options)
    native = faiss.IndexIVFPQFastScan(
        centroids, rows.width, lists, rows.width // step, _BITS, FAISS_METRIC[metric]
    )
    native.pq.cp.min_points_per_centroid = 1
    native = ivf.trained(native, rows, metric, watch, sample=_TRAIN_ROWS)
    return _index(ivf.filled(native, rows, watch), source, metric, centroids)


def build_bytes(source: Source, metric: Metric, options: Options) -> int:
    """See `IndexKind.build_bytes`."""
    del metric
    rows, step = len(source.vectors), _step(source)
    width = padded(source.vectors.shape[1], step)
    lists = ivf.list_count(rows, options)
    code = width * _BITS // (8 * step) + 8
    return ivf.build_bytes(rows, code, width, lists, sample=_TRAIN_ROWS)


def dump(index: VectorIndex) -> Mapping[str, Any]:
    """See `IndexKind.dump`."""
    assert isinstance(index, NativeIndex)
    return {"index": serialized(index.native)}


def load(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    return _index(borrowed(parts["index"]), source, metric, parts["index"])


def _step(source: Source) -> int:
    """Dimensions that share a code."""
    return 2 if source.vectors.shape[1] <= _FEW_DIMENSIONS else 4


def _index(native: Any, source: Source, metric: Metric, holds: Any) -> NativeIndex:
    return NativeIndex.over(
        source, "ivfpq", metric, native,
        width=native.d, row_bytes=native.code_size + 8, parameters=ivf.parameters,
        ladder=ivf.ladder(native.nlist), slack=_slack, holds=holds, listed=True,
    )  # fmt: skip


def _slack(k: int) -> int:
    return max(100, 10 * k) if k <= 100 else 4 * k + 600


KIND = IndexKind("ivfpq", build, build_bytes, dump, load, ivf.METRICS, least_rows=64)

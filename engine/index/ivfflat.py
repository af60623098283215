"""IVF over plain float32 rows: see `ivf`. Its lists hold a copy of the rows, which it reads in
order; so its candidates are as good as the lists it looked into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearql.engine.index import ivf
from nearql.engine.index.base import BuildWatch, IndexKind, Options, Source, VectorIndex
from nearql.engine.index.native import FAISS_METRIC, NativeIndex, borrowed, faiss, serialized
from nearql.engine.index.rows import Prepared
from nearql.engine.types import Metric


def build(source: Source, metric: Metric, options: Options, watch: BuildWatch) -> VectorIndex:
    """See `IndexKind.build`. Option: lists."""
    rows = Prepared(source, metric)
    centroids = ivf.quantizer(rows.width, metric)
    lists = ivf.list_count(rows.count, options)
    native = faiss.IndexIVFFlat(centroids, rows.width, lists, FAISS_METRIC[metric])
    native = ivf.filled(ivf.trained(native, rows, metric, watch), rows, watch)
    return _index(native, source, metric, centroids)


def build_bytes(source: Source, metric: Metric, options: Options) -> int:
    """See `IndexKind.build_bytes`."""
    del metric
    rows, width = source.vectors.shape
    return ivf.build_bytes(rows, 4 * width + 8, width, ivf.list_count(rows, options))


def dump(index: VectorIndex) -> Mapping[str, Any]:
    """See `IndexKind.dump`."""
    assert isinstance(index, NativeIndex)
    return {"index": serialized(index.native)}


def load(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    return _index(borrowed(parts["index"]), source, metric, parts["index"])


def _index(native: Any, source: Source, metric: Metric, holds: Any) -> NativeIndex:
    return NativeIndex.over(
        source, "ivfflat", metric, native,
        width=source.vectors.shape[1], row_bytes=native.d * 4 + 8, parameters=ivf.parameters,
        ladder=ivf.ladder(native.nlist), slack=_slack, holds=holds, listed=True,
    )  # fmt: skip


def _slack(k: int) -> int:
    return k + 1 + k // 16  # lists compare in float32, what decides is float64


KIND = IndexKind("ivfflat", build, build_bytes, dump, load, ivf.METRICS, least_rows=64)

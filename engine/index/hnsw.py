"""HNSW: a graph in which each row knows its neighbours, on several levels.

Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs" (2016), as FAISS builds it.

Where the segment's own vectors are what the graph compares (float32 rows, not under cosine unless
they are of unit length already) they are borrowed, and the index is the graph alone. Otherwise, and
with `storage` float16 or sq8 (8 bits a dimension), it holds its own copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from nearql.engine.index.base import BuildWatch, IndexKind, Options, Source, VectorIndex
from nearql.engine.index.native import (
    FAISS_METRIC,
    NativeIndex,
    add_rows,
    borrowed,
    faiss,
    lend_vectors,
    serialized,
)
from nearql.engine.index.rows import Prepared, padded
from nearql.engine.types import Metric

M = 16
EF_CONSTRUCTION = 64
# Added at once at most (96 MiB), before a build looks whether to end. Fewer cost a hundredth or two
# of recall: FAISS inserts a call's rows from the highest level down, in random order.
_STEP_ELEMENTS = 24 << 20
_STEP_ROWS = 65_536
UNIT_TOLERANCE = 2e-3  # how far from 1 the length of rows may be that pass as unit length
LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
_QUANTIZER = {
    "float16": faiss.ScalarQuantizer.QT_fp16,
    "sq8": faiss.ScalarQuantizer.QT_8bit,
}
_ITEM_BYTES = {"float32": 4, "float16": 2, "sq8": 1}
_SQ_WIDTH = 16  # scalar quantizers are seven times slower on other widths
_TRAIN_ROWS = 65_536


def build(source: Source, metric: Metric, options: Options, watch: BuildWatch) -> VectorIndex:
    """See `IndexKind.build`. Options: m, ef_construction, storage."""
    storage = str(options.get("storage", "float32"))
    rows = Prepared(source, metric, _width(source, storage))
    native = _empty(rows.width, int(options.get("m", M)), metric, storage)
    native.hnsw.efConstruction = int(options.get("ef_construction", EF_CONSTRUCTION))
    watch.step("training", 0)
    if not native.is_trained:
        native.train(rows.sample(_TRAIN_ROWS))
    step = min(_STEP_ROWS, max(1_024, _STEP_ELEMENTS // rows.width))
    add_rows(native, rows, watch, step)
    return _index(native, source, metric, storage, borrow=_borrows(source, metric, storage))


def build_bytes(source: Source, metric: Metric, options: Options) -> int:
    """See `IndexKind.build_bytes`."""
    storage = str(options.get("storage", "float32"))
    rows, width = len(source.vectors), _width(source, storage)
    links = 4 * (2 * int(options.get("m", M)) + 4)  # on the lowest level, and a few above it
    own = width * _ITEM_BYTES[storage]
    dumped = links if _borrows(source, metric, storage) else links + own
    step = 2 * 4 * min(rows * width, _STEP_ELEMENTS)
    return rows * (own + links + 2 * dumped) + step


def dump(index: VectorIndex) -> Mapping[str, Any]:
    """See `IndexKind.dump`."""
    assert isinstance(index, NativeIndex)
    storage, borrow = index.holds[0], index.holds[1]
    flags = faiss.IO_FLAG_SKIP_STORAGE if borrow else 0
    meta = {"storage": storage, "borrow": borrow}
    return {"meta": msgpack.packb(meta), "index": serialized(index.native, flags)}


def load(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    meta = msgpack.unpackb(parts["meta"])
    native = borrowed(parts["index"])
    flat = None
    if meta["borrow"]:
        flat = faiss.IndexFlat(source.vectors.shape[1], FAISS_METRIC[metric])
        lend_vectors(flat, source.vectors)
        native.storage, native.own_fields = flat, False
    held = parts["index"], flat, source.vectors
    return _index(native, source, metric, meta["storage"], borrow=meta["borrow"], held=held)


def _index(
    native: Any, source: Source, metric: Metric, storage: str, *, borrow: bool, held: Any = None
) -> NativeIndex:
    links = native.hnsw.neighbors.size() * 4 // max(1, native.ntotal)
    own = 0 if borrow else _width(source, storage) * _ITEM_BYTES[storage]
    return NativeIndex.over(
        source, "hnsw", metric, native,
        width=_width(source, storage), row_bytes=links + own, parameters=_parameters,
        ladder=LADDER, slack=_SLACK[storage], at_least_count=True, alone=True,
        holds=(storage, borrow, held),
    )  # fmt: skip


def _parameters(effort: int, selector: Any) -> Any:
    return faiss.SearchParametersHNSW(sel=selector, efSearch=effort)


def _empty(width: int, m: int, metric: Metric, storage: str) -> Any:
    if storage == "float32":
        return faiss.IndexHNSWFlat(width, m, FAISS_METRIC[metric])
    return faiss.IndexHNSWSQ(width, _QUANTIZER[storage], m, FAISS_METRIC[metric])


def _width(source: Source, storage: str) -> int:
    dimensions = source.vectors.shape[1]
    return dimensions if storage == "float32" else padded(dimensions, _SQ_WIDTH)


def _borrows(source: Source, metric: Metric, storage: str) -> bool:
    """Whether the graph compares what the segment holds anyway."""
    if storage != "float32" or source.vectors.dtype != np.float32 or source.covered is not None:
        return False
    if not source.lasting:
        return False
    unit = metric is not Metric.COSINE
    return unit or bool((np.abs(source.norms - 1) <= UNIT_TOLERANCE).all())


_SLACK = {
    "float32": lambda k: k + 1 + k // 16,  # compared in float32, where float64 decides
    "float16": lambda k: k + 10 + k // 4,
    "sq8": lambda k: 2 * k + 20,
}

KIND = IndexKind(
    name="hnsw",
    build=build,
    build_bytes=build_bytes,
    dump=dump,
    load=load,
    metrics=frozenset({Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE, Metric.L1}),
    least_rows=64,
)

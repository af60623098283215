"""IVF over rows of one bit a dimension, after a random rotation.

Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound" (2024),
in FAISS's fast scan form. The rotation spreads a vector evenly over its dimensions, without which
one bit of each says little; it is made in blocks, so that 16,384 dimensions take no gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.index import ivf
from nearql.engine.index.base import BuildWatch, IndexKind, Options, Source, VectorIndex
from nearql.engine.index.native import FAISS_METRIC, NativeIndex, borrowed, faiss, serialized
from nearql.engine.index.rows import Prepared, padded
from nearql.engine.types import Metric

_BLOCK = 512  # dimensions that are rotated together
_WIDTH = 8
_SEED = 8470

Turn = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def build(source: Source, metric: Metric, options: Options, watch: BuildWatch) -> VectorIndex:
    """See `IndexKind.build`. Option: lists."""
    width = _width(source)
    rotation = _rotation(min(width, _BLOCK))
    rows = Prepared(source, metric, width, _turn(rotation))
    centroids = ivf.quantizer(width, metric)
    lists = ivf.list_count(rows.count, options)
    native = faiss.IndexIVFRaBitQFastScan(centroids, width, lists, FAISS_METRIC[metric])
    native = ivf.filled(ivf.trained(native, rows, metric, watch), rows, watch)
    return _index(native, source, metric, rotation, centroids)


def build_bytes(source: Source, metric: Metric, options: Options) -> int:
    """See `IndexKind.build_bytes`."""
    del metric
    rows, width = len(source.vectors), _width(source)
    return ivf.build_bytes(rows, width // 8 + 24, width, ivf.list_count(rows, options))


def dump(index: VectorIndex) -> Mapping[str, Any]:
    """See `IndexKind.dump`."""
    assert isinstance(index, NativeIndex)
    return {"rotation": index.holds[0], "index": serialized(index.native)}


def load(parts: Mapping[str, memoryview], source: Source, metric: Metric) -> VectorIndex:
    """See `IndexKind.load`."""
    block = min(_width(source), _BLOCK)
    rotation = np.frombuffer(parts["rotation"], np.float32).reshape(block, block)
    return _index(borrowed(parts["index"]), source, metric, rotation, parts["index"])


def _width(source: Source) -> int:
    dimensions = source.vectors.shape[1]
    return padded(dimensions, _WIDTH if dimensions <= _BLOCK else _BLOCK)


@cache
def _rotation(size: int) -> NDArray[np.float32]:
    """A random orthogonal matrix, (size, size)."""
    drawn = np.random.default_rng(_SEED).standard_normal((size, size))
    turned, signs = np.linalg.qr(drawn)
    return np.ascontiguousarray(turned * np.sign(np.diag(signs)), np.float32)


def _turn(rotation: NDArray[np.float32]) -> Turn:
    """Rotates rows of shape (n, width): dimensions are dealt out to the blocks like cards, so that
    neighbours, which often belong together, come into different ones."""
    size = len(rotation)

    def turn(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        dealt = rows.reshape(len(rows), size, -1).transpose(0, 2, 1)
        turned: NDArray[np.float32] = dealt.reshape(-1, size) @ rotation
        return turned.reshape(len(rows), -1)

    return turn


def _index(
    native: Any, source: Source, metric: Metric, rotation: NDArray[np.float32], holds: Any
) -> NativeIndex:
    return NativeIndex.over(
        source, "ivfrabitq", metric, native,
        width=native.d, row_bytes=native.code_size + 8, parameters=ivf.parameters,
        ladder=ivf.ladder(native.nlist), slack=_slack, turn=_turn(rotation),
        holds=(rotation, holds), listed=True,
    )  # fmt: skip


def _slack(k: int) -> int:
    return max(60, 6 * k) if k <= 100 else 3 * k + 300


KIND = IndexKind("ivfrabitq", build, build_bytes, dump, load, ivf.METRICS, least_rows=64)

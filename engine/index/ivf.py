"""What the IVF kinds share: rows are kept in lists, by the nearest of some centroids; a search
looks into the lists whose centroids are nearest to the query.

Sivic and Zisserman, "Video Google" (2003), as FAISS builds it; centroids by k-means.
"""

from __future__ import annotations

import math
from typing import Any

from nearql.engine.index.base import BuildWatch, Options
from nearql.engine.index.native import FAISS_METRIC, add_rows, faiss, threads
from nearql.engine.index.rows import Prepared
from nearql.engine.types import Metric

METRICS = frozenset({Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE})
_TRAIN_PER_LIST = 64  # rows per centroid that k-means looks at
_LEAST_PER_LIST = 16
_STEP_ROWS = 16_384  # added at once at most ...
_STEP_ELEMENTS = 1 << 22  # ... of float32: 16 MiB


def list_count(rows: int, options: Options) -> int:
    """As many lists as were asked for, else about the square root of the rows, a power of two.

    Never so many that one has few rows.
    """
    most = max(1, rows // _LEAST_PER_LIST)
    if "lists" in options:
        return min(int(options["lists"]), most)
    return int(min(2 ** round(math.log2(max(1.0, 1.2 * math.sqrt(rows)))), most))


def build_bytes(rows: int, row_bytes: int, width: int, lists: int, *, sample: int = 0) -> int:
    """Memory of a build: the sample as k-means copies it, a step of rows, the lists three times
    (as they are, serialized, and on their way to the file).

    row_bytes: of a row's code and number. sample: as in `trained`.
    """
    trained_on = min(rows, max(_TRAIN_PER_LIST * lists, sample))
    step = 2 * min(rows, _STEP_ROWS)
    return 4 * width * (3 * trained_on + step + 2 * lists) + 3 * rows * row_bytes


def ladder(lists: int) -> tuple[int, ...]:
    """Numbers of lists to look into: 1, 2, 3, 4, 6, 8, 12, 16, ... all."""
    steps = {lists}
    for power in range(lists.bit_length()):
        steps |= {1 << power, 3 << power >> 1}
    return tuple(sorted(step for step in steps if step <= lists))


def trained(
    native: Any, rows: Prepared, metric: Metric, watch: BuildWatch, *, sample: int = 0
) -> Any:
    """The index with centroids (and codes) learnt from a sample of the rows.

    sample: rows that a quantizer wants at least. It learns many small codebooks, for which a team
    of threads takes five times the time of one.
    """
    watch.step("training", 0)
    native.cp.spherical = metric is Metric.COSINE
    native.cp.max_points_per_centroid = _TRAIN_PER_LIST
    native.cp.min_points_per_centroid = 1  # few rows are no reason for a warning on stderr
    with threads(1 if sample else watch.threads):
        native.train(rows.sample(max(_TRAIN_PER_LIST * native.nlist, sample)))
    return native


def filled(native: Any, rows: Prepared, watch: BuildWatch) -> Any:
    """The trained index with all rows."""
    add_rows(native, rows, watch, max(1, min(_STEP_ROWS, _STEP_ELEMENTS // rows.width)))
    return native


def quantizer(width: int, metric: Metric) -> Any:
    """The flat index of centroids."""
    return faiss.IndexFlat(width, FAISS_METRIC[metric])


def parameters(effort: int, selector: Any) -> Any:
    """FAISS's search parameters."""
    return faiss.SearchParametersIVF(sel=selector, nprobe=effort)

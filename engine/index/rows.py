"""The rows of a segment as an index wants them: float32, unit length under cosine, padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import LENGTH_MAX, LENGTH_MIN
from nearql.engine.distance import widen
from nearql.engine.index.base import Source
from nearql.engine.types import Metric


def coverable(
    norms: NDArray[np.float32], valid: NDArray[np.bool_] | None, metric: Metric
) -> NDArray[np.bool_] | None:
    """Rows that an index can name, bool (n,); None = all. NULL and dead ones are not `valid`.

    Float32 kernels fail on very long and very short rows; under cosine zero vectors have no
    distance at all. norms: float32, (n,).
    """
    covered = (norms >= LENGTH_MIN) & (norms <= LENGTH_MAX)
    if metric is not Metric.COSINE:
        covered |= norms == 0
    if valid is not None:
        covered &= valid
    return None if covered.all() else covered


def padded(dimensions: int, multiple: int) -> int:
    """The next multiple."""
    return -(-dimensions // multiple) * multiple


class Prepared:
    """The covered rows of a source, in order, as the index numbers them: its labels.

    labels: int64, (m,): the position of each; None where every row is covered.
    width: dimensions with padding zeros, which change no distance. turn: what is done to them last.
    """

    def __init__(
        self,
        source: Source,
        metric: Metric,
        width: int | None = None,
        turn: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    ) -> None:
        self._source = source
        self._turn = turn
        self._unit = metric is Metric.COSINE
        self.dimensions = source.vectors.shape[1]
        self.width = width or self.dimensions
        self.labels = None if source.covered is None else np.flatnonzero(source.covered)
        self.count = len(source.vectors) if self.labels is None else len(self.labels)

    def block(self, low: int, high: int) -> NDArray[np.float32]:
        """Rows `low` to `high - 1`: float32, shape (high - low, width); maybe the source's own."""
        where = slice(low, high) if self.labels is None else self.labels[low:high]
        return self._shaped(where)

    def sample(self, count: int) -> NDArray[np.float32]:
        """`count` rows spread evenly, or all there are, shape (at most count, width)."""
        chosen = np.linspace(0, self.count - 1, min(count, self.count)).astype(np.int64)
        return self._shaped(chosen if self.labels is None else self.labels[chosen])

    def blocks(self, step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(rows before it, rows) of blocks of so many rows that follow each other."""
        for low in range(0, self.count, step):
            yield low, self.block(low, min(low + step, self.count))

    def _shaped(self, where: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        rows = widen(self._source.vectors[where])
        if self._unit:
            rows = rows / self._source.norms[where][:, np.newaxis]
        if self.width > self.dimensions:
            wide = np.zeros((len(rows), self.width), np.float32)
            wide[:, : self.dimensions] = rows
            rows = wide
        return np.ascontiguousarray(rows if self._turn is None else self._turn(rows))

"""Bare hnswlib: a ceiling, no database. Filters are Python functions, as it wants them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset


class System:
    """hnswlib.Index by cosine; `effort` is ef."""

    version = f"hnswlib {version('hnswlib')}"
    efforts = (16, 24, 32, 40, 64, 96, 128, 160, 256, 400)
    durable = False

    def load(self, data: Dataset, folder: Path) -> None:
        """Nothing is stored."""
        self._data = data
        self._names = data.columns["name"].to_pylist()

    def build(self) -> None:
        """All rows, on all cores."""
        import hnswlib

        self._index = hnswlib.Index("cosine", self._data.vectors.shape[1])
        self._index.init_index(len(self._data.vectors), M=16, ef_construction=200)
        self._index.add_items(self._data.vectors, np.arange(len(self._data.vectors)))

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One query a call, one thread a call."""
        self._index.set_ef(effort)
        mask = condition.mask(self._data.columns).tolist()
        allowed = mask.__getitem__ if condition.column else None
        index, names = self._index, self._names

        def ask(query: NDArray[np.float32]) -> list[int]:
            try:
                found = index.knn_query(query, K, num_threads=1, filter=allowed)[0][0].tolist()
            except RuntimeError:  # it found fewer than K, and says none of them
                return []
            _ = [names[row] for row in found]
            return found  # type: ignore[no-any-return]

        return ask

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Adding a label again replaces it."""
        self._index.add_items(self._data.vectors[rows], rows)

    def delete(self, rows: NDArray[np.int64]) -> None:
        """Marks."""
        for row in rows.tolist():
            self._index.mark_deleted(row)

    def close(self) -> None:
        """Nothing is open."""

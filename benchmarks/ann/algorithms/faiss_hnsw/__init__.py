"""Bare FAISS HNSW: a ceiling, no database. Names come from a list, masks are made beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset


class System:
    """IndexHNSWFlat, inner product; `effort` is efSearch."""

    version = f"faiss {faiss.__version__}"
    efforts = (16, 24, 32, 40, 64, 80, 128, 192, 320, 600, 1000)
    durable = False

    def load(self, data: Dataset, folder: Path) -> None:
        """Nothing is stored."""
        self._data = data
        self._names = data.columns["name"].to_pylist()

    def build(self) -> None:
        """One `add` of everything, on all cores."""
        width = self._data.vectors.shape[1]
        self._index = faiss.IndexHNSWFlat(width, 16, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = 200
        self._index.add(self._data.vectors)

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One query a call; a thread of its own."""
        parameters = faiss.SearchParametersHNSW(efSearch=effort)
        if condition.column:
            bits = np.packbits(condition.mask(self._data.columns), bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            parameters.sel = selector
            parameters.kept = (bits, selector)  # FAISS only points at them
        index, names = self._index, self._names

        def ask(query: NDArray[np.float32]) -> list[int]:
            found = index.search(query[None], K, params=parameters)[1][0].tolist()
            found = [row for row in found if row >= 0]
            _ = [names[row] for row in found]
            return found

        return ask

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """FAISS's HNSW has no way to do that."""
        raise NotImplementedError("no updates in FAISS HNSW")

    delete = upsert

    def close(self) -> None:
        """Nothing is open."""

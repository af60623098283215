"""LanceDB in this process: IVF_HNSW_SQ, scalar indexes, filters before the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset


class System:
    """`effort` is (nprobes, ef)."""

    efforts = ((1, 20), (1, 40), (1, 80), (2, 80), (4, 160), (8, 320))
    durable = True

    def load(self, data: Dataset, folder: Path) -> None:
        """One Arrow table."""
        import lancedb

        self.version = f"lancedb {lancedb.__version__}"
        self._data = data
        self._table = lancedb.connect(str(folder)).create_table(
            "docs", self._rows(np.arange(len(data.vectors)))
        )

    def _rows(self, rows: NDArray[np.int64]) -> pa.Table:
        width = self._data.vectors.shape[1]
        flat = pa.array(self._data.vectors[rows].reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        return self._data.columns.take(rows).append_column("vec", vectors)

    def build(self) -> None:
        """Its defaults, by cosine."""
        self._table.create_index("cosine", vector_column_name="vec", index_type="IVF_HNSW_SQ")
        for name in sorted({condition.column for condition in self._data.conditions}):
            self._table.create_scalar_index(name)

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One search a call."""
        table, (probes, ef) = self._table, effort
        where = condition.sql()

        def ask(query: NDArray[np.float32]) -> list[int]:
            search = table.search(query, vector_column_name="vec").distance_type("cosine")
            if condition.column:
                search = search.where(where, prefilter=True)
            found = search.nprobes(probes).ef(ef).limit(K).select(["id", "name"]).to_arrow()
            return found["id"].to_pylist()  # type: ignore[no-any-return]

        return ask

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """merge_insert."""
        merge = self._table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(self._rows(rows))

    def delete(self, rows: NDArray[np.int64]) -> None:
        """One predicate."""
        self._table.delete(f"id IN ({', '.join(map(str, rows.tolist()))})")

    def close(self) -> None:
        """Nothing to close."""

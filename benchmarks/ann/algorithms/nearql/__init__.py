"""NearQL in this process: `connect("./directory")`, one SQL statement a search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import nearql
from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset

STEP = 20_000
BATCH = 10_000


class System:
    """One table, one HNSW index by cosine; `effort` is `hnsw.ef_search`."""

    version = nearql.__version__
    efforts = (16, 24, 32, 40, 64, 96, 128, 192, 256, 400)
    durable = True
    index = "hnsw"
    setting = "hnsw.ef_search"

    def load(self, data: Dataset, folder: Path) -> None:
        """Arrow batches through `insert`."""
        self._data = data
        self.db = self.connect(folder)
        types = {"int64": "BIGINT", "int32": "INTEGER", "string": "TEXT", "large_string": "TEXT"}
        columns = [f"{f.name} {types[str(f.type)]}" for f in data.columns.schema]
        columns[0] += " PRIMARY KEY"
        columns.append(f"vec VECTOR({data.vectors.shape[1]})")
        self.db.execute(f"CREATE TABLE docs ({', '.join(columns)})")
        for low in range(0, len(data.vectors), STEP):
            self.db.insert("docs", self._rows(np.arange(low, min(low + STEP, len(data.vectors)))))

    def connect(self, folder: Path) -> Any:
        """The connection that everything goes through."""
        return nearql.connect(str(folder))

    def _rows(self, rows: NDArray[np.int64]) -> pa.Table:
        width = self._data.vectors.shape[1]
        flat = pa.array(self._data.vectors[rows].reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, width)
        return self._data.columns.take(rows).append_column("vec", vectors)

    def build(self) -> None:
        """CREATE INDEX, and wait until it answers."""
        self.db.execute(f"CREATE INDEX docs_vec ON docs USING {self.index} (vec vector_cosine_ops)")
        while self.db.execute("SELECT phase FROM nearql.indexes").fetchone() != ("ready",):
            time.sleep(0.1)

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """The statement with its settings; a repeated text is planned once."""
        where = f"WHERE {condition.sql()} " if condition.column else ""
        sql = f"SELECT id, name FROM docs {where}ORDER BY vec <=> :q LIMIT {K}"
        db, settings = self.db, {self.setting: effort}

        def ask(query: NDArray[np.float32]) -> list[int]:
            found = db.execute(sql, {"q": query}, settings=settings).fetchall()
            return [row[0] for row in found]

        return ask

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Arrow batches, durable one by one."""
        for low in range(0, len(rows), BATCH):
            self.db.insert("docs", self._rows(rows[low : low + BATCH]), mode="upsert")

    def delete(self, rows: NDArray[np.int64]) -> None:
        """One statement."""
        self.db.execute(
            "DELETE FROM docs WHERE id IN (SELECT unnest(:ids))", {"ids": rows.tolist()}
        )

    def close(self) -> None:
        """Release the directory."""
        self.db.close()

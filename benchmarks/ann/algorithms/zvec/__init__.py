"""zvec in this process: HNSW with inverted indexes on the columns of filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset

STEP = 1000


class System:
    """`effort` is the `ef` of a query."""

    efforts = (16, 24, 32, 40, 64, 96, 128, 160, 256, 400)
    durable = True

    def load(self, data: Dataset, folder: Path) -> None:
        """Batches of documents, then flush."""
        import zvec

        self._zvec, self._data = zvec, data
        self.version = f"zvec {zvec.__version__}"
        kinds = {"int64": zvec.DataType.INT64, "int32": zvec.DataType.INT32}
        fields = [
            zvec.FieldSchema(
                field.name,
                kinds.get(str(field.type), zvec.DataType.STRING),
                nullable=True,
                index_param=zvec.InvertIndexParam(
                    enable_range_optimization=pa.types.is_integer(field.type)
                )
                if field.name in {c.column for c in data.conditions}
                else None,
            )
            for field in data.columns.schema
        ]
        vector = zvec.VectorSchema(
            "vec", zvec.DataType.VECTOR_FP32, data.vectors.shape[1],
            zvec.HnswIndexParam(zvec.MetricType.COSINE, m=16, ef_construction=200),
        )  # fmt: skip
        schema = zvec.CollectionSchema("docs", fields=fields, vectors=vector)
        self._docs = zvec.create_and_open(str(folder / "docs"), schema)
        self.upsert(np.arange(len(data.vectors)))

    def build(self) -> None:
        """optimize() builds what `load` left unindexed."""
        self._docs.optimize()

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One query object a search; the name is fetched too."""
        zvec, docs = self._zvec, self._docs
        parameter = zvec.HnswQueryParam(ef=effort)
        where = condition.sql() if condition.column else None

        def ask(query: NDArray[np.float32]) -> list[int]:
            found = docs.query(
                zvec.Query("vec", vector=query, param=parameter),
                topk=K, filter=where, output_fields=["name"],
            )  # fmt: skip
            return [int(doc.id) for doc in found]

        return ask

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Documents in batches, then flush."""
        for low in range(0, len(rows), STEP):
            part = rows[low : low + STEP]
            fields = self._data.columns.take(part).to_pylist()
            done = self._docs.upsert(
                [
                    self._zvec.Doc(
                        str(row), vectors={"vec": self._data.vectors[row]},
                        fields={name: value for name, value in values.items() if value is not None},
                    )
                    for row, values in zip(part.tolist(), fields, strict=True)
                ]
            )  # fmt: skip
            assert all(status.ok() for status in done)
        self._docs.flush()

    def delete(self, rows: NDArray[np.int64]) -> None:
        """By id, in batches."""
        for low in range(0, len(rows), STEP):
            self._docs.delete([str(row) for row in rows[low : low + STEP].tolist()])
        self._docs.flush()

    def close(self) -> None:
        """Flush and close."""
        self._docs.close()

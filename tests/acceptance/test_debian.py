"""On 62,816 real rows the answers are the exact ones, by ground truth and by DuckDB's brute force.

The ground truth counts ties by similarity: many packages have near-identical texts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from support.datasets import FILTERS, Debian, debian
from support.server_process import ServerProcess

pytestmark = pytest.mark.slow
TOLERANCE = 2e-5  # of a similarity, as the data set's own page says
SCALARS = [
    "id", "name", "section", "priority", "architecture", "installed_size", "size", "tags",
    "short_description",
]  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Debian:
    """The full set, or a skip by name."""
    return debian()


@pytest.fixture(scope="module")
def rows(data: Debian) -> pa.Table:
    """Scalar columns and a float32 vector column, as loaded."""
    table = data.table()
    halves = table["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(halves), 384)
    return table.select(SCALARS).append_column("vec", vectors)


@pytest.fixture(scope="module")
def server(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the set loaded over HTTP."""
    with ServerProcess(tmp_path_factory.mktemp("debian") / "data") as running:
        running.sql(
            "CREATE TABLE docs (id BIGINT PRIMARY KEY, name TEXT, section TEXT, priority TEXT, "
            "architecture TEXT, installed_size BIGINT, size BIGINT, tags TEXT[], "
            "short_description TEXT, vec VECTOR(384))"
        )
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=8192)
        answer = running.http.post(
            "/v1/tables/docs/rows?mode=insert",
            content=sink.getvalue(),
            headers={"Content-Type": "application/vnd.apache.arrow.stream"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["inserted"] == rows.num_rows
        yield running


@pytest.fixture(scope="module")
def brute(rows: pa.Table) -> duckdb.DuckDBPyConnection:
    """The same rows in DuckDB, whose own distance functions scan them all."""
    connection = duckdb.connect()
    connection.register("docs", rows)
    return connection


def encoded(query: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(query.astype("<f4").tobytes()).decode()


@pytest.mark.parametrize("name", FILTERS)
def test_answers_equal_the_ground_truth(name: str, server: ServerProcess, data: Debian) -> None:
    condition = FILTERS[name]
    where = f"WHERE {condition}" if condition else ""
    sql = f"SELECT id, vec <=> :q AS d FROM docs {where} ORDER BY d LIMIT 10"
    for number, query in enumerate(data.queries):
        found = server.rows(sql, {"q": encoded(query)})
        expected = data.similarities[name][number][:10]
        assert len(found) == 10, (name, number)
        np.testing.assert_allclose([1 - d for _, d in found], expected, atol=TOLERANCE)
        certain = set(data.ids[name][number][:10][expected > expected[9] + TOLERANCE].tolist())
        assert certain <= {row_id for row_id, _ in found}, (name, number)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("vec <-> :q", "array_distance(vec, ?::FLOAT[384])"),
        ("vec <=> :q", "array_cosine_distance(vec, ?::FLOAT[384])"),
        ("vec <#> :q", "array_negative_inner_product(vec, ?::FLOAT[384])"),
    ],
)
def test_sums_and_groups_over_a_search_equal_brute_force(
    ours: str, theirs: str, server: ServerProcess, brute: duckdb.DuckDBPyConnection, data: Debian
) -> None:
    statement = (
        "WITH near AS (SELECT id, section, size, {} AS d FROM docs WHERE priority = 'optional' "
        "ORDER BY d, id LIMIT 200) "
        "SELECT section, count(*), sum(size)::BIGINT, max(d) FROM near "
        "GROUP BY section ORDER BY 2 DESC, 1"
    )
    for query in data.queries[:20]:
        found = server.rows(statement.format(ours), {"q": encoded(query)})
        expected = brute.execute(statement.format(theirs), [query.tolist()]).fetchall()
        assert [row[:3] for row in found] == [list(row[:3]) for row in expected]
        np.testing.assert_allclose(
            [row[3] for row in found], [row[3] for row in expected], atol=TOLERANCE
        )


def test_a_join_over_a_search_equals_brute_force(
    server: ServerProcess, brute: duckdb.DuckDBPyConnection, data: Debian
) -> None:
    statement = (
        "SELECT n.id, o.id, o.name "
        "FROM (SELECT id, section, {} AS d FROM docs ORDER BY d, id LIMIT 5) n "
        "JOIN docs o ON o.section = n.section AND o.id < n.id AND o.size > 30000000 ORDER BY 1, 2"
    )
    query = data.queries[3]
    found = server.rows(statement.format("vec <=> :q"), {"q": encoded(query)})
    expected = brute.execute(
        statement.format("array_cosine_distance(vec, ?::FLOAT[384])"), [query.tolist()]
    ).fetchall()
    assert [tuple(row) for row in found] == expected


STATEMENTS = [
    "SELECT count(*), sum(size)::BIGINT, min(name), max(installed_size) FROM docs",
    "SELECT architecture, count(*) FROM docs GROUP BY ALL ORDER BY 2 DESC, 1",
    ("SELECT t, count(*) FROM (SELECT unnest(tags) AS t FROM docs) "
    "GROUP BY t ORDER BY 2 DESC, 1 LIMIT 20"),
    "SELECT id, name FROM docs WHERE name LIKE 'lib%ssl%' ORDER BY id",
    "SELECT section, quantile_cont(size, 0.5) FROM docs GROUP BY section ORDER BY section",
    ("SELECT id, row_number() OVER (PARTITION BY section ORDER BY size DESC, id) AS r FROM docs "
    "QUALIFY r = 1 ORDER BY id"),
]  # fmt: skip


def test_scalar_statements_equal_duckdb(
    server: ServerProcess, brute: duckdb.DuckDBPyConnection
) -> None:
    for statement in STATEMENTS:
        expected = [list(row) for row in brute.execute(statement).fetchall()]
        assert server.rows(statement) == expected, statement

"""What a pgvector user types: every statement of its README's surface, and what it means here.

The statements run in order on one database; each gives its rows, or says in a notice or an error
what is meant. The same queries, written again from their tree, give the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from nearql.engine.errors import NearQLError
from nearql.query.dialect import parse, to_nearql
from nearql.query.statements import Select
from support.sql import Sql

TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE items (id bigserial PRIMARY KEY, embedding vector(3), category_id int);
INSERT INTO items (embedding, category_id) VALUES ('[1,2,3]', 1), ('[4,5,6]', 1), ('[1,-2,3]', 2),
    (NULL, 1), ('[0,0,0]', 2);
CREATE TABLE halves (id bigserial PRIMARY KEY, embedding halfvec(3));
INSERT INTO halves VALUES (1, '[1,2,3]'), (2, '[4,5,6]'), (3, '[0.1,2,3]');
CREATE TABLE bits (id bigserial PRIMARY KEY, embedding bit(3));
INSERT INTO bits VALUES (1, '000'), (2, '111'), (3, B'101'), (4, NULL);
"""

QUERIES: list[tuple[str, list[Any]]] = [
    ("SELECT id FROM items ORDER BY embedding <-> '[3,1,2]' LIMIT 5", [1, 3, 5, 2]),
    ("SELECT id FROM items ORDER BY embedding <#> '[3,1,2]' LIMIT 2", [2, 1]),
    ("SELECT id FROM items ORDER BY embedding <=> '[3,1,2]' LIMIT 4", [2, 1, 3, 5]),
    ("SELECT id FROM items ORDER BY embedding <+> '[3,1,2]' LIMIT 2", [1, 3]),
    (
        "SELECT id FROM items WHERE category_id = 1 ORDER BY embedding <-> '[3,1,2]' LIMIT 5",
        [1, 2],
    ),
    (
        (
            "SELECT id FROM items WHERE id != 1 "
            "ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 1) LIMIT 5"
        ),
        [5, 3, 2],
    ),
    ("SELECT id FROM items WHERE embedding <-> '[3,1,2]' < 5 ORDER BY id", [1, 3, 5]),
    ("SELECT round((embedding <-> '[3,1,2]')::double, 3) FROM items WHERE id = 1", [2.449]),
    ("SELECT (embedding <#> '[3,1,2]') * -1 AS inner_product FROM items WHERE id = 1", [11.0]),
    ("SELECT 1 - (embedding <=> '[1,2,3]') AS similarity FROM items WHERE id = 1", [1.0]),
    ("SELECT AVG(embedding) FROM items WHERE id < 3", [[2.5, 3.5, 4.5]]),
    ("SELECT SUM(embedding) FROM items WHERE id < 3", [[5.0, 7.0, 9.0]]),
    (
        "SELECT category_id, AVG(embedding) FROM items GROUP BY category_id ORDER BY 1",
        [(1, [2.5, 3.5, 4.5]), (2, [0.5, -1.0, 1.5])],
    ),
    (
        (
            "WITH r AS MATERIALIZED (SELECT id, embedding <-> '[1,2,3]' AS d FROM items ORDER BY d "
            "LIMIT 2) SELECT id FROM r ORDER BY d + 0"
        ),
        [1, 5],
    ),
    (
        (
            "WITH near AS MATERIALIZED (SELECT id, embedding <-> '[3,1,2]' AS distance FROM items "
            "ORDER BY distance LIMIT 5) SELECT id FROM near "
            "WHERE distance < 5 ORDER BY distance, id"
        ),
        [1, 3, 5],
    ),
    (
        (
            "SELECT id FROM items ORDER BY binary_quantize(embedding)::bit(3) "
            "<~> binary_quantize('[1,-2,3]') LIMIT 3"
        ),
        [3, 1, 2],
    ),
    (
        (
            "SELECT id FROM (SELECT * FROM items ORDER BY binary_quantize(embedding)::bit(3) "
            "<~> binary_quantize('[1,-2,3]') LIMIT 20) t ORDER BY embedding <=> '[1,-2,3]' LIMIT 2"
        ),
        [3, 1],
    ),
    (
        (
            "SELECT id FROM items ORDER BY subvector(embedding, 1, 2)::vector(2) "
            "<=> subvector('[1,2,3]'::vector, 1, 2) LIMIT 2"
        ),
        [1, 2],
    ),
    (
        (
            "SELECT id FROM (SELECT * FROM items ORDER BY subvector(embedding, 1, 2)::vector(2) "
            "<=> subvector('[1,2,3]'::vector, 1, 2) LIMIT 20) t "
            "ORDER BY embedding <=> '[1,2,3]' LIMIT 1"
        ),
        [1],
    ),
    ("SELECT id FROM items ORDER BY embedding::halfvec(3) <-> '[1,2,3]' LIMIT 2", [1, 5]),
    ("SELECT id FROM items WHERE embedding = '[1,2,3]'", [1]),
    ("SELECT count(DISTINCT embedding) FROM items", [4]),
    ("SELECT id FROM halves ORDER BY embedding <-> '[3,1,2]' LIMIT 5", [1, 3, 2]),
    ("SELECT id FROM halves ORDER BY embedding <#> '[3,1,2]' LIMIT 1", [2]),
    ("SELECT id FROM halves ORDER BY embedding <=> '[1,2,3]' LIMIT 1", [1]),
    ("SELECT id FROM halves ORDER BY embedding <+> '[0,2,3]' LIMIT 1", [3]),
    ("SELECT embedding FROM halves WHERE id = 3", [[float(np.float16(0.1)), 2.0, 3.0]]),
    ("SELECT avg(embedding) FROM halves WHERE id < 3", [[2.5, 3.5, 4.5]]),
    ("SELECT id FROM bits ORDER BY embedding <~> '101' LIMIT 5", [3, 2, 1]),
    ("SELECT id FROM bits ORDER BY embedding <%> '101' LIMIT 5", [3, 2, 1]),
    ("SELECT hamming_distance(embedding, '101') FROM bits ORDER BY id", [2.0, 1.0, 0.0, None]),
    ("SELECT id FROM bits WHERE embedding <~> B'101' < 2 ORDER BY id", [2, 3]),
    ("SELECT jaccard_distance('1100'::bit(4), B'1010')", [float(np.float32(2 / 3))]),
    ("SELECT jaccard_distance(B'00', B'00')", [1.0]),
    ("SELECT embedding FROM bits ORDER BY id", ["000", "111", "101", None]),
    ("SELECT '1'::bit(3), '10111'::bit(3)", [("100", "101")]),
    ("SELECT binary_quantize('[0,0.1,-0.2,0.3]'::vector)", ["0101"]),
    ("SELECT l2_distance('[1,2,3]', '[1,2,5]')", [2.0]),
    ("SELECT inner_product('[1,2,3]', '[4,5,6]')", [32.0]),
    ("SELECT cosine_distance('[1,0]', '[0,1]')", [1.0]),
    ("SELECT l1_distance('[1,2]', '[3,5]')", [5.0]),
    ("SELECT vector_dims('[1,2,3]'::vector)", [3]),
    ("SELECT vector_norm('[3,4]'::vector), l2_norm('[3,4]'::halfvec)", [(5.0, 5.0)]),
    ("SELECT l2_normalize('[3,4]'::vector)", [[pytest.approx(0.6), pytest.approx(0.8)]]),
    ("SELECT subvector('[1,2,3,4,5]'::vector, 1, 3)", [[1.0, 2.0, 3.0]]),
    ("SELECT '[1,2]'::vector + '[3,4]'", [[4.0, 6.0]]),
    ("SELECT '[1,2]'::vector - '[3,4]'", [[-2.0, -2.0]]),
    ("SELECT '[1,2]'::vector * '[3,4]'", [[3.0, 8.0]]),
    ("SELECT '[1,2]'::vector || '[3]'", [[1.0, 2.0, 3.0]]),
    ("SELECT ARRAY[1,2,3]::vector, ARRAY[1,2,3]::vector(3)", [([1.0, 2.0, 3.0],) * 2]),
    ("SELECT '[1,2]'::vector::real[]", [[1.0, 2.0]]),
    ("SELECT '[0.1]'::halfvec::vector", [[float(np.float16(0.1))]]),
    ("SELECT (embedding::halfvec(3)) IS NULL FROM items WHERE id = 4", [True]),
]


@pytest.fixture(scope="module")
def items() -> Iterator[Sql]:
    """The README's tables."""
    made = Sql()
    made.run(TABLES)
    yield made
    made.database.close()


def answer(sql: Sql, text: str, params: Any = None) -> list[Any]:
    """Rows; of one column, its values."""
    table = sql.run(text, params).table
    columns = [column.to_pylist() for column in table.columns]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


@pytest.mark.parametrize(("text", "rows"), QUERIES, ids=[text for text, _ in QUERIES])
def test_queries(items: Sql, text: str, rows: list[Any]) -> None:
    """As in pgvector, and the same again from the tree's own text."""
    assert answer(items, text) == rows
    (statement,) = parse(text)
    assert isinstance(statement, Select)
    again = to_nearql(statement.tree)
    assert answer(items, again) == rows
    assert to_nearql(parse(again)[0].tree) == again  # type: ignore[attr-defined]


PARAMETERS = [
    ("embedding {} :q", {"q": [3, 1, 2]}),
    ("embedding {} $1", [[3, 1, 2]]),
    ("embedding {} ?", ["[3,1,2]"]),
    ("embedding {} $1::vector", ["[3,1,2]"]),
    ("embedding {} $1::vector(3)", [[3, 1, 2]]),
    ("embedding {} ARRAY[3,1,2]", None),
    ("embedding {} ARRAY[3,1,2]::vector", None),
]


@pytest.mark.parametrize("operator", ["<->", "<#>", "<=>", "<+>"])
@pytest.mark.parametrize(("form", "params"), PARAMETERS, ids=[form for form, _ in PARAMETERS])
def test_each_operator_with_each_kind_of_parameter(
    items: Sql, operator: str, form: str, params: Any
) -> None:
    """The same rows and distances as with the vector written out."""
    expected = f"SELECT id, embedding {operator} '[3,1,2]' AS d FROM items ORDER BY d LIMIT 3"
    text = f"SELECT id, {form.format(operator)} AS d FROM items ORDER BY d LIMIT 3"
    assert answer(items, text, params) == answer(items, expected)


@pytest.mark.parametrize("operator", ["<~>", "<%>"])
@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("embedding {} :q", {"q": "101"}),
        ("embedding {} $1", ["101"]),
        ("embedding {} ?::bit(3)", ["101"]),
        ("embedding {} B'101'", None),
        ("B'101' {} embedding", None),
    ],
)
def test_each_bit_operator_with_each_kind_of_parameter(
    items: Sql, operator: str, form: str, params: Any
) -> None:
    """The same rows and distances as with the bits written out."""
    expected = f"SELECT id, embedding {operator} '101' AS d FROM bits ORDER BY d LIMIT 3"
    text = f"SELECT id, {form.format(operator)} AS d FROM bits ORDER BY d LIMIT 3"
    assert answer(items, text, params) == answer(items, expected)


ACCEPTED = [
    ("SET hnsw.ef_search = 100; SHOW hnsw.ef_search", "100", None),
    ("BEGIN; SET LOCAL hnsw.ef_search = 100; SHOW hnsw.ef_search", "100", None),
    ("SET ivfflat.probes = 10; SHOW ivfflat.probes", "10", None),
    ("SET hnsw.ef_search TO DEFAULT; SHOW hnsw.ef_search", None, None),
    ("SET ivfflat.probes = 10; RESET ivfflat.probes; SHOW ivfflat.probes", None, None),
    ("SET hnsw.iterative_scan = strict_order", None, "filters never cost rows"),
    ("SET hnsw.iterative_scan = relaxed_order", None, "filters never cost rows"),
    ("SET hnsw.max_scan_tuples = 20000", None, "filters never cost rows"),
    ("SET hnsw.scan_mem_multiplier = 2", None, "filters never cost rows"),
    ("SET ivfflat.iterative_scan = relaxed_order", None, "filters never cost rows"),
    ("SET ivfflat.max_probes = 100", None, "filters never cost rows"),
    ("SET maintenance_work_mem = '8GB'", None, "engine.memory_limit"),
    ("SET max_parallel_maintenance_workers = 7", None, "every core"),
    ("SET max_parallel_workers_per_gather = 4", None, "every core"),
    ("SET min_parallel_table_scan_size = 1", None, "every core"),
    ("ALTER TABLE items ALTER COLUMN embedding SET STORAGE PLAIN", None, "one piece"),
    *(
        (f"CREATE INDEX ON {text}", None, says)
        for text, says in (
            ("items USING hnsw ((embedding::halfvec(3)) halfvec_cosine_ops)", "built"),
            (
                "items USING hnsw ((binary_quantize(embedding)::bit(3)) bit_hamming_ops)",
                "built in the background",
            ),
            (
                "items USING hnsw ((subvector(embedding, 1, 2)::vector(2)) vector_cosine_ops)",
                "built in the background",
            ),
            (
                "items USING hnsw (embedding vector_l2_ops) WHERE (category_id = 123)",
                "built in the background",
            ),
            ("bits USING hnsw (embedding bit_hamming_ops)", "built"),
            ("bits USING ivfflat (embedding bit_hamming_ops) WITH (lists = 10)", "built"),
            ("items (category_id)", "need no index"),
            ("items (category_id) WHERE id > 5", "need no index"),
        )
    ),
    ("CREATE EXTENSION vector", None, "built in"),
    ("ALTER EXTENSION vector UPDATE", None, "built in"),
    ("DROP EXTENSION IF EXISTS vector", None, "built in"),
    ("COMMIT", None, None),
]


HAS_FAISS = find_spec("faiss") is not None


@pytest.mark.parametrize(("text", "value", "says"), ACCEPTED, ids=[one[0] for one in ACCEPTED])
def test_what_is_accepted(items: Sql, text: str, value: str | None, says: str | None) -> None:
    """Where it changes nothing, a notice says so and why."""
    result = items.run(text)
    if result.table.num_columns:
        assert result.table.column(0).to_pylist() == [value]
    if text.startswith("CREATE INDEX") and "built" in (says or "") and not HAS_FAISS:
        says = "FAISS is not installed here, so searches are exact"
    assert (says or "") in " ".join(result.notices)
    assert bool(result.notices) == (says is not None)


def test_notices_of_every_statement_are_answered(items: Sql) -> None:
    """Not those of the last one alone."""
    result = items.run("SET maintenance_work_mem = '1GB'; SET max_parallel_workers = 2; SELECT 1")
    assert [notice.split()[1] for notice in result.notices] == [
        "maintenance_work_mem",
        "max_parallel_workers",
    ]


def test_a_transaction_answers_what_was_asked_in_it(items: Sql) -> None:
    """COMMIT does nothing, its answer included."""
    search = "SELECT id FROM items ORDER BY embedding <-> '[3,1,2]' LIMIT 1"
    setting = "SET LOCAL hnsw.ef_search = 100"
    for text in (f"BEGIN; {search}; COMMIT", f"BEGIN; {setting}; {search}; END"):
        assert items.rows(text) == [(1,)]
    result = items.run(f"BEGIN; SET maintenance_work_mem = '1GB'; {search}; COMMIT")
    assert len(result.notices) == 1
    assert items.run("BEGIN; COMMIT").columns == ()


REFUSED = [
    ("SELECT to_tsvector('english', 'a') @@ to_tsquery('a') FROM items", "bm25"),
    ("SELECT ts_rank_cd(to_tsvector('a'), plainto_tsquery('a'))", "bm25"),
    ("CREATE INDEX ON items USING gin (to_tsvector('english', embedding))", "bm25"),
    ("SELECT id FROM items WHERE '{}'::jsonb ? 'k'", "json_exists"),
    ("SELECT id FROM items WHERE '{}'::jsonb @> '{}'", "json_contains"),
    ("SELECT '{}'::jsonb #>> '{a,b}'", "'$.a.b'"),
    ("SELECT '{}'::jsonb #> '{a,b}'", "'$.a.b'"),
    ("SELECT pg_size_pretty(pg_relation_size('items'))", "nearql.tables"),
    ("SELECT current_user", "whoami"),
    ("SELECT jsonb_build_object('id', id) FROM items", "json_object"),
    ("SELECT to_char(now(), 'YYYY')", "strftime"),
    ("CREATE TABLE p (id bigint, v vector(3)) PARTITION BY LIST (id)", "shards"),
    ("COPY items (embedding) FROM STDIN WITH (FORMAT BINARY)", "/rows"),
    ("COPY items TO STDOUT", "Arrow stream"),
    ("SELECT phase FROM pg_stat_progress_create_index", "nearql.indexes"),
    ("VACUUM items", "background"),
    ("CREATE TABLE t (embedding sparsevec(5))", "VECTOR(n)"),
    ("SELECT '{1:1,3:2}/5'::sparsevec", "VECTOR(n)"),
    ("SELECT '{1:1,3:2}/5'::sparsevec(5)", "VECTOR(n)"),
    ("CREATE INDEX ON items USING hnsw (embedding sparsevec_l2_ops)", "vector_l2_ops"),
    ("SET hnsw.iterative_scan = sideways", "strict_order"),
    ("SET hnsw.ef_search = 0", "1 to 10000"),
    ("SET maintenance_work_mem = 'lots'", "64MB"),
    ("SET max_parallel_workers = -1", "0 to 1024"),
    ("SET hnsw.scan_mem_multiplier = 0.5", "1 to 1000"),
    ("SET hnsw.ef_serch = 5", "'hnsw.ef_search'"),
    ("SET enable_seqscan = off", "hnsw.ef_search"),
    ("SET LOCAL enable_indexscan = off", "target_recall"),
    ("SET statement_timeout = '5s'", "statement_timeout_ms"),
    ("SHOW shared_buffers", "engine.memory_limit"),
    ("SET diskann.query_rescore = 50", "exact distances"),
    ("SET vchordrq.probes = 5", "ivfflat.probes"),
    ("DROP EXTENSION vector CASCADE", "DROP COLUMN"),
    ("CREATE EXTENSION pg_trgm", "built in"),
    ("ALTER TABLE items ALTER COLUMN embedding TYPE vector(4)", "create a new table"),
    ("ALTER TABLE items ALTER COLUMN embeding SET STORAGE PLAIN", "'embedding'"),
    ("CREATE INDEX ON items USING diskann (embedding vector_cosine_ops)", "hnsw"),
    ("SELECT embedding <~> '101' FROM items", "BIT"),
    ("SELECT id FROM bits ORDER BY embedding <-> '[1,0,1]' LIMIT 1", "BIT(3)"),
    ("SELECT embedding <~> '1011' FROM bits", "lengths"),
    ("INSERT INTO bits (embedding) VALUES ('10')", "expected 3 bits, got 2"),
    ("INSERT INTO bits (embedding) VALUES ('102')", "0 and 1"),
    ("CREATE TABLE t (b bit(64001))", "1 to 64000"),
    ("CREATE TABLE t (v vector(16385))", "1 to 16384"),
    ("SELECT '[70000]'::halfvec", "float16"),
    ("SELECT '[1,2]'::vector(3)", "expected 3 dimensions"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_is_refused(items: Sql, text: str, says: str) -> None:
    """By name, with the alternative."""
    with pytest.raises(NearQLError) as caught:
        items.run(text)
    assert says in caught.value.detail
    assert caught.value.http_status < 500


def test_writes(sql: Sql) -> None:
    """ON CONFLICT, RETURNING, UPDATE and DELETE, with every type of vector."""
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, v vector(2), h halfvec(2), b bit(9))")
    values = "VALUES (1, '[1,2]', '[1,2]', '101010101'), (2, '[3,4]', '[0.1,4]', B'111111111')"
    sql.run(f"INSERT INTO t {values}")
    made = answer(
        sql,
        "INSERT INTO t (id, v, b) VALUES (1, '[5,6]', '000000001') ON CONFLICT (id) DO UPDATE SET "
        "v = EXCLUDED.v, b = EXCLUDED.b RETURNING id, v, h, b",
    )
    assert made == [(1, [5.0, 6.0], [1.0, 2.0], "000000001")]
    kept = "INSERT INTO t VALUES (1, '[0,0]') ON CONFLICT DO NOTHING"
    assert sql.run(kept).row_count == 0
    sql.run("UPDATE t SET b = ~b, v = v + '[1,1]' WHERE id = 2")
    assert answer(sql, "SELECT v, b FROM t WHERE id = 2") == [([4.0, 5.0], "000000000")]
    assert answer(sql, "DELETE FROM t WHERE b <~> '000000000' < 1 RETURNING id") == [2]
    sql.run("INSERT INTO t SELECT id + 10, v, h, b FROM t")
    sql.run("CREATE TABLE u AS SELECT * FROM t")
    assert answer(sql, "SELECT id, b FROM u ORDER BY id") == [(1, "000000001"), (11, "000000001")]
    kinds = answer(sql, "DESCRIBE u")
    assert [kind for _, kind, *_ in kinds] == ["BIGINT", "VECTOR(2)", "HALFVEC(2)", "BIT(9)"]

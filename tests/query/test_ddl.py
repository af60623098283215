"""DDL: what is proposed to the catalog, and that nothing is proposed when anything is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import pyarrow as pa
import pytest

from nearql.engine.errors import (
    Conflict,
    InvalidValue,
    NearQLError,
    NotFound,
    SqlError,
    UndefinedColumn,
    Unsupported,
)
from nearql.engine.schema import IndexDef, TableDef, TableSchema
from nearql.engine.types import KEY_COLUMN, Metric
from nearql.query.ddl import run_ddl
from nearql.query.dialect import parse
from nearql.query.ports import CatalogView
from nearql.query.result import Result
from support.access import RecordedAccess
from support.sql import Sql


class Definitions:
    """A catalog without data: implements `query.ports.Database` as far as DDL goes."""

    def __init__(self, nodes: int = 1) -> None:
        self.tables: dict[str, TableDef] = {}
        self.nodes = nodes
        self.changes = 0
        self.access = RecordedAccess()
        self.rebuilt: list[list[str]] = []

    def catalog(self) -> CatalogView:
        return CatalogView(self.changes, dict(self.tables))

    def system_table(self, name: str) -> pa.Table | None:
        return (
            pa.table({"name": [f"n{at}" for at in range(self.nodes)]}) if name == "nodes" else None
        )

    def create_table(self, definition: TableDef, *, if_not_exists: bool) -> bool:
        assert definition.name.lower() not in self.tables
        self._put(definition)
        return True

    def drop_table(self, name: str, *, if_exists: bool, cascade: bool = False) -> bool:
        self.changes += 1
        return self.tables.pop(name.lower(), None) is not None

    def create_view(self, *_: Any, **__: Any) -> NoReturn:
        raise AssertionError("tested with a node")

    drop_view = check_table = set_replicas = create_view

    def alter_table(self, name: str, schema: TableSchema, new_name: str | None = None) -> None:
        old = self.tables.pop(name.lower())
        assert schema.version == old.schema.version + 1
        self._put(replace(old, schema=schema, name=new_name or old.name))

    def create_index(self, table: str, index: IndexDef, *, if_not_exists: bool) -> bool:
        found = self.tables[table.lower()]
        self._put(replace(found, indexes=(*found.indexes, index)))
        return True

    def drop_index(self, name: str, *, if_exists: bool) -> bool:
        for table in list(self.tables.values()):
            self._put(replace(table, indexes=tuple(i for i in table.indexes if i.name != name)))
        return True

    def rebuild_indexes(self, table: str, uuids: Sequence[str]) -> None:
        assert table in self.tables
        self.rebuilt.append(list(uuids))

    def _put(self, table: TableDef) -> None:
        self.tables[table.name.lower()] = table
        self.changes += 1

    def table(self, uuid: str) -> NoReturn:
        raise AssertionError("DDL reads no rows")

    def allocate(self, table_uuid: str, count: int) -> NoReturn:
        raise AssertionError("DDL takes no numbers")

    def describe_settings(self) -> Mapping[str, Any]:
        return {}

    def notice(self, text: str) -> None:
        raise AssertionError(text)


DOCS = (
    "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT NOT NULL DEFAULT 'x', "
    "price DOUBLE CHECK (price >= 0), vec VECTOR(3))"
)


@pytest.fixture
def catalog() -> Definitions:
    """With the table docs."""
    made = Definitions()
    run(made, DOCS)
    return made


def run(database: Definitions, text: str) -> Result:
    """Run one statement."""
    (statement,) = parse(text)
    return run_ddl(statement, database)


def refused(database: Definitions, text: str) -> NearQLError:
    """The error of a statement that must change nothing."""
    before, changes = dict(database.tables), database.changes
    with pytest.raises(NearQLError) as caught:
        run(database, text)
    assert (database.tables, database.changes) == (before, changes)
    return caught.value


# ---- CREATE TABLE -----------------------------------------------------------------------


def test_every_column_form() -> None:
    """Types, serials, identity, constraints, defaults, options: as recorded."""
    database = Definitions()
    run(
        database,
        """CREATE TABLE IF NOT EXISTS public.t (
            id bigserial, "Weird name" character varying(20) DEFAULT 'a,b' NOT NULL,
            n numeric(10, 2)[] DEFAULT [1.5], ts timestamp with time zone DEFAULT now(),
            at timestamp(3) NULL, d double precision CONSTRAINT positive CHECK (d > 0) DEFAULT 1 +
            1, v VECTOR(3), h halfvec(2), PRIMARY KEY (id), CONSTRAINT small CHECK (d < 100 AND id
            > 0)
        ) WITH (shards = 4, replicas = 1, write_concern = 'all')""",
    )
    table = database.tables["t"]
    assert (table.shards, table.replicas, table.write_concern) == (4, 1, "all")
    assert table.schema.key.name == "id"
    assert [(c.name, c.type.name, c.not_null, c.default) for c in table.schema.columns] == [
        ("id", "BIGINT", True, None),
        ("Weird name", "VARCHAR", True, "'a,b'"),
        ("n", "DECIMAL(10,2)[]", False, "[1.5]"),
        ("ts", "TIMESTAMP WITH TIME ZONE", False, "now()"),
        ("at", "TIMESTAMP", False, None),
        ("d", "DOUBLE", False, "1 + 1"),
        ("v", "VECTOR(3)", False, None),
        ("h", "HALFVEC(2)", False, None),
    ]
    assert table.schema.key.identity
    assert table.schema.checks == (("positive", "d > 0"), ("small", "d < 100 AND id > 0"))


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("smallserial", "SMALLINT"),
        ("serial", "INTEGER"),
        ("bigserial", "BIGINT"),
        ("INT GENERATED ALWAYS AS IDENTITY", "INTEGER"),
        ("BIGINT GENERATED BY DEFAULT AS IDENTITY", "BIGINT"),
    ],
)
def test_numbered_columns(written: str, stored: str) -> None:
    """Serial types and identity."""
    database = Definitions()
    run(database, f"CREATE TABLE t (id {written} PRIMARY KEY)")
    key = database.tables["t"].schema.key
    assert (key.type.name, key.identity, key.not_null) == (stored, True, True)


def test_a_table_without_key_has_a_hidden_one() -> None:
    """First, named apart, not shown."""
    database = Definitions()
    run(database, "CREATE TABLE t (a INT, b TEXT)")
    schema = database.tables["t"].schema
    assert schema.key.name == schema.columns[0].name == KEY_COLUMN
    assert [column.name for column in schema.visible] == ["a", "b"]
    assert len({column.number for column in schema.columns}) == 3


@pytest.mark.parametrize(
    ("nodes", "options", "replicas", "notice"),
    [
        (1, "", 1, None),
        (5, "", 3, None),
        (3, "WITH (replicas = 3)", 3, None),
        (1, "WITH (replicas = 3)", 3, "there is 1 node: 1 copy"),
        (2, "WITH (replicas = 3)", 3, "there are 2 nodes: 2 copies"),
    ],
)
def test_replicas(nodes: int, options: str, replicas: int, notice: str | None) -> None:
    """Three where there are nodes for them; more than nodes is accepted and said."""
    database = Definitions(nodes)
    notices = run(database, f"CREATE TABLE t (a INT) {options}").notices
    assert database.tables["t"].replicas == replicas
    assert [notice in one for one in notices] == [True] if notice else notices == ()


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("CREATE TABLE DOCS (a INT)", Conflict, "table named 'DOCS' already"),
        ("CREATE TABLE t (a INT, A TEXT)", SqlError, "declared twice"),
        ("CREATE TABLE t (a DOUBLE PRIMARY KEY)", Unsupported, "can't be a DOUBLE"),
        ("CREATE TABLE t (v VECTOR(3) PRIMARY KEY)", Unsupported, "can't be a VECTOR(3)"),
        (
            "CREATE TABLE t (a INT, b INT, PRIMARY KEY (a, b))",
            Unsupported,
            "one primary key column",
        ),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", Unsupported, "one primary key"),
        ("CREATE TABLE t (a INT, PRIMARY KEY (b))", SqlError, "'b'"),
        ("CREATE TABLE t (a INT UNIQUE)", Unsupported, "UNIQUE"),
        ("CREATE TABLE t (a INT, UNIQUE (a))", Unsupported, "UNIQUE"),
        ("CREATE TABLE t (a INT REFERENCES docs (id))", Unsupported, "REFERENCES"),
        (
            "CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES docs (id))",
            Unsupported,
            "FOREIGN KEY",
        ),
        (
            "CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (a + 1) STORED)",
            Unsupported,
            "Generated",
        ),
        ("CREATE TABLE t (a INT GENERATED ALWAYS AS IDENTITY (START 5))", Unsupported, "options"),
        (
            "CREATE TABLE t (a TEXT GENERATED ALWAYS AS IDENTITY)",
            Unsupported,
            "identity column 'a'",
        ),
        ("CREATE TABLE t (a serial, b serial)", Unsupported, "numbers one column"),
        ("CREATE TABLE t (a serial DEFAULT 5)", SqlError, "takes no DEFAULT"),
        ("CREATE TABLE t (__row INT)", SqlError, "reserved"),
        ("CREATE TABLE t (nq_a INT)", SqlError, "reserved"),
        ("CREATE TABLE nq0_t (a INT)", SqlError, "reserved"),
        ("CREATE TABLE nearql (a INT)", SqlError, "reserved"),
        ('CREATE TABLE "" (a INT)', SqlError, "name of a table"),
        ('CREATE TABLE t ("a\nb" INT)', SqlError, "name of a column"),
        (f"CREATE TABLE {'t' * 129} (a INT)", SqlError, "1 to 128"),
        ("CREATE TABLE t (a FOO)", Unsupported, "'a'"),
        ("CREATE TABLE t (a VECTOR)", InvalidValue, "number of dimensions"),
        ("CREATE TABLE t (a VECTOR(16385))", InvalidValue, "16384"),
        ("CREATE TABLE t (a INT DEFAULT 'x')", InvalidValue, "'a'"),
        ("CREATE TABLE t (a VECTOR(3) DEFAULT '[1,2]')", InvalidValue, "expected 3"),
        ("CREATE TABLE t (a INT DEFAULT b, b INT)", SqlError, "default of column 'a'"),
        ("CREATE TABLE t (a INT DEFAULT (SELECT 1))", SqlError, "may not hold a query"),
        ("CREATE TABLE t (a INT DEFAULT :p)", SqlError, "default of column 'a'"),
        ("CREATE TABLE t (a TEXT DEFAULT getenv('HOME'))", SqlError, "getenv"),
        ("CREATE TABLE t (a INT CHECK (b > 1))", UndefinedColumn, "'b'"),
        ("CREATE TABLE t (price INT CHECK (prize > 1))", UndefinedColumn, "Did you mean 'price'?"),
        ("CREATE TABLE t (a INT CHECK (a > (SELECT 1)))", SqlError, "may not hold a query"),
        ("CREATE TABLE t (a INT CHECK (sum(a) > 1))", SqlError, "aggregate sum"),
        ("CREATE TABLE t (a INT CHECK (lower(a) = 'x'))", SqlError, "CHECK"),
        (
            "CREATE TABLE t (a INT, CONSTRAINT c CHECK (a > 1), CONSTRAINT c CHECK (a < 9))",
            SqlError,
            "two",
        ),
        ("CREATE TABLE t (a INT) WITH (shard = 2)", SqlError, "Did you mean 'shards'?"),
        ("CREATE TABLE t (a INT) WITH (shards = 0)", InvalidValue, "1 to 64"),
        ("CREATE TABLE t (a INT) WITH (shards = 65)", InvalidValue, "1 to 64"),
        ("CREATE TABLE t (a INT) WITH (shards = 1.5)", InvalidValue, "1 to 64"),
        ("CREATE TABLE t (a INT) WITH (replicas = 0)", InvalidValue, "whole number"),
        ("CREATE TABLE t (a INT) WITH (write_concern = most)", InvalidValue, "majority"),
        ("CREATE TABLE t (a INT) WITH (write_concern = 0)", InvalidValue, "majority"),
    ],
)
def test_what_create_table_refuses(
    catalog: Definitions, text: str, kind: type[NearQLError], says: str
) -> None:
    """By name, with its place, and nothing is left."""
    error = refused(catalog, text)
    assert isinstance(error, kind)
    assert says in error.detail
    assert error.position is not None


def test_limits_at_their_edges() -> None:
    """64 shards, 128 characters, 1,000 columns fit; one column more doesn't."""
    database = Definitions()
    run(database, f"CREATE TABLE {'t' * 128} (a INT) WITH (shards = 64)")
    columns = ", ".join(f"c{at} INT" for at in range(1_000))
    run(database, f"CREATE TABLE wide ({columns})")
    assert refused(database, f"CREATE TABLE wider ({columns}, c INT)").code == "too_many_columns"
    assert refused(database, "ALTER TABLE wide ADD COLUMN c INT").code == "too_many_columns"


def test_if_not_exists_says_that_nothing_was_done(catalog: Definitions) -> None:
    """Whatever the columns are."""
    before = catalog.tables["docs"]
    notices = run(catalog, "CREATE TABLE IF NOT EXISTS Docs (a FLOAT)").notices
    assert "exists already" in notices[0]
    assert catalog.tables["docs"] is before


def test_checks_may_name_distances_and_strange_columns() -> None:
    """They are kept as DuckDB's SQL."""
    database = Definitions()
    run(
        database,
        'CREATE TABLE t ("a b" INT CHECK ("a b" > 1), v VECTOR(2) CHECK (v <-> \'[0,0]\' < 9))',
    )
    assert [condition for _, condition in database.tables["t"].schema.checks] == [
        '"a b" > 1', "nq_l2(v, '[0,0]') < 9",
    ]  # fmt: skip


# ---- DROP TABLE -------------------------------------------------------------------------


def test_drop_tables_all_or_none(catalog: Definitions) -> None:
    """A missing one keeps the others; IF EXISTS says which were missing."""
    run(catalog, "CREATE TABLE a (x INT)")
    error = refused(catalog, "DROP TABLE a, dosc")
    assert isinstance(error, NotFound)
    assert "Did you mean 'docs'?" in error.detail
    notices = run(catalog, "DROP TABLE IF EXISTS a, b, A").notices
    assert notices == ("There is no table 'b'; nothing was done.",)
    assert set(catalog.tables) == {"docs"}


# ---- ALTER TABLE ------------------------------------------------------------------------


def test_actions_are_applied_in_turn(catalog: Definitions) -> None:
    """As one new version of the schema."""
    run(
        catalog,
        "ALTER TABLE docs ADD COLUMN n INT DEFAULT 5, DROP COLUMN title, RENAME COLUMN id TO key",
    )
    schema = catalog.tables["docs"].schema
    assert [column.name for column in schema.columns] == ["key", "price", "vec", "n"]
    assert (schema.version, schema.key.name) == (2, "key")
    assert schema.column("n").default == "5"


def test_numbers_are_never_given_twice(catalog: Definitions) -> None:
    """Not to a column added after the last one was dropped: its data may still be on disk."""
    seen = {column.number for column in catalog.tables["docs"].schema.columns}
    for turn in range(5):
        run(catalog, f"ALTER TABLE docs ADD COLUMN a{turn} INT, ADD COLUMN b{turn} INT")
        schema = catalog.tables["docs"].schema
        added = {schema.column(f"{name}{turn}").number for name in "ab"}
        assert len(added) == 2
        assert not added & seen
        seen |= added
        run(catalog, f"ALTER TABLE docs DROP COLUMN a{turn}, DROP COLUMN b{turn}")


def test_renaming_a_column_renames_it_in_checks(catalog: Definitions) -> None:
    """Case-insensitively, and only there."""
    run(catalog, "ALTER TABLE docs RENAME PRICE TO cost")
    assert catalog.tables["docs"].schema.checks == (("check_1", '"cost" >= 0'),)


def test_renaming_a_table(catalog: Definitions) -> None:
    """To a free name, or the same in another case."""
    run(catalog, "CREATE TABLE notes (a INT)")
    assert refused(catalog, "ALTER TABLE docs RENAME TO Notes").code == "duplicate_table"
    run(catalog, "ALTER TABLE docs RENAME TO Docs")
    run(catalog, "ALTER TABLE docs RENAME TO papers")
    assert set(catalog.tables) == {"notes", "papers"}


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE IF EXISTS nope ADD COLUMN a INT",
        "ALTER TABLE docs ADD COLUMN IF NOT EXISTS Title TEXT",
        "ALTER TABLE docs DROP COLUMN IF EXISTS nope",
    ],
)
def test_alter_that_changes_nothing_says_so(catalog: Definitions, text: str) -> None:
    """And proposes nothing."""
    changes = catalog.changes
    (notice,) = run(catalog, text).notices
    assert "nothing was done" in notice
    assert catalog.changes == changes


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("ALTER TABLE dcos ADD a INT", "undefined_table", "'docs'"),
        ("ALTER TABLE docs ADD title TEXT", "duplicate_column", "'title'"),
        ("ALTER TABLE docs ADD a INT, ADD a INT", "duplicate_column", "'a'"),
        ("ALTER TABLE docs ADD a INT PRIMARY KEY", "unsupported", "primary key"),
        ("ALTER TABLE docs ADD a INT CHECK (a > 1)", "unsupported", "CHECK"),
        ("ALTER TABLE docs ADD a serial", "unsupported", "identity"),
        ("ALTER TABLE docs ADD a INT DEFAULT 'x'", "invalid_value", "'a'"),
        ("ALTER TABLE docs ADD __key INT", "reserved_name", "reserved"),
        ("ALTER TABLE docs DROP id", "dependent_object", "primary key"),
        ("ALTER TABLE docs DROP price", "dependent_object", "check_1"),
        ("ALTER TABLE docs DROP titlee", "undefined_column", "'title'"),
        ("ALTER TABLE docs DROP title CASCADE", "unsupported", "CASCADE"),
        ("ALTER TABLE docs RENAME titleq TO x", "undefined_column", "'title'"),
        ("ALTER TABLE docs RENAME title TO PRICE", "duplicate_column", "'PRICE'"),
        ("ALTER TABLE docs RENAME title TO nq_x", "reserved_name", "reserved"),
        ("ALTER TABLE docs ALTER title TYPE INT", "unsupported", "new table"),
        ("ALTER TABLE docs ADD CONSTRAINT c CHECK (price > 1)", "unsupported", "CREATE TABLE"),
        ("ALTER TABLE docs ADD UNIQUE (title)", "unsupported", "UNIQUE"),
        ("ALTER TABLE docs ADD a INT, RENAME TO x", "unsupported", "alone"),
    ],
)
def test_what_alter_table_refuses(catalog: Definitions, text: str, code: str, says: str) -> None:
    """By name; an action that is wrong keeps the others from happening."""
    error = refused(catalog, text)
    assert error.code == code
    assert says in error.detail
    assert error.position is not None


def test_the_last_column_stays() -> None:
    """A table without columns is no table."""
    database = Definitions()
    run(database, "CREATE TABLE t (a INT)")
    assert refused(database, "ALTER TABLE t DROP a").code == "dependent_object"


# ---- Indexes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "metric"),
    [
        ("USING hnsw (vec vector_l2_ops)", "hnsw", Metric.L2),
        ("USING hnsw (vec)", "hnsw", Metric.L2),
        ("USING ivfflat (vec vector_ip_ops) WITH (lists = 100)", "ivfflat", Metric.INNER_PRODUCT),
        ("USING auto (vec vector_cosine_ops) WITH (target_recall = 0.9)", "auto", Metric.COSINE),
        ("USING flat (vec vector_l1_ops)", "flat", Metric.L1),
        ("USING ivfpq (vec halfvec_l2_ops)", "ivfpq", Metric.L2),
        ("USING cagra (vec) WITH (graph_degree = 32)", "cagra", Metric.L2),
        ("(vec)", "auto", Metric.L2),
        ("(vec vector_cosine_ops)", "auto", Metric.COSINE),
    ],
)
def test_indexes_in_pgvectors_forms(
    catalog: Definitions, text: str, kind: str, metric: Metric
) -> None:
    """Recorded, and the answer says what becomes of them."""
    result = run(catalog, f"CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON docs {text}")
    (index,) = catalog.tables["docs"].indexes
    assert (index.name, index.column, index.kind, index.metric) == ("ix", "vec", kind, metric)
    assert "nearql.indexes" in result.notices[-1] or "exact" in result.notices[-1]


def test_names_of_indexes_are_made_and_kept_apart(catalog: Definitions) -> None:
    """As PostgreSQL makes them; across tables."""
    run(catalog, "CREATE TABLE other (vec VECTOR(2))")
    for _ in range(2):
        run(catalog, "CREATE INDEX ON docs USING hnsw (vec)")
    assert [i.name for i in catalog.tables["docs"].indexes] == ["docs_vec_idx", "docs_vec_idx1"]
    error = refused(catalog, "CREATE INDEX Docs_Vec_Idx ON other USING hnsw (vec)")
    assert error.code == "duplicate_index"
    text = "CREATE INDEX IF NOT EXISTS docs_vec_idx ON other USING hnsw (vec)"
    assert "exists already" in run(catalog, text).notices[0]


def test_scalar_indexes_do_nothing_and_say_so(catalog: Definitions) -> None:
    """Accepted, as PostgreSQL's schemas have them."""
    changes = catalog.changes
    for text in (
        "CREATE INDEX t ON docs (title)",
        "CREATE INDEX ON docs USING btree (title DESC, id)",
    ):
        assert "need no index" in run(catalog, text).notices[0]
    assert catalog.changes == changes


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("CREATE INDEX ON dosc USING hnsw (vec)", "undefined_table", "'docs'"),
        ("CREATE INDEX ON docs USING hnsw (vce)", "undefined_column", "'vec'"),
        ("CREATE INDEX ON docs USING hnsw (title)", "unsupported", "no vector"),
        ("CREATE INDEX ON docs USING hnws (vec)", "unsupported", "'hnsw'"),
        (
            "CREATE INDEX ON docs USING hnsw (vec vector_l3_ops)",
            "undefined_object",
            "'vector_l2_ops'",
        ),
        ("CREATE INDEX ON docs USING hnsw (vec bit_hamming_ops)", "wrong_type", "vector_l2_ops"),
        ("CREATE INDEX ON docs USING hnsw (vec sparsevec_l2_ops)", "unsupported", "SPARSEVEC(n)"),
        ("CREATE INDEX ON docs USING hnsw ((title) vector_l2_ops)", "unsupported", "VARCHAR"),
        (
            "CREATE INDEX ON docs USING hnsw ((binary_quantize(vec)::bit(2)) vector_l2_ops)",
            "wrong_type",
            "bit_hamming_ops",
        ),
        (
            "CREATE INDEX ON docs USING hnsw ((vce::halfvec(2)) halfvec_l2_ops)",
            "undefined_column",
            "'vec'",
        ),
        ("CREATE INDEX ON docs USING hnsw (vec) WHERE idd > 5", "undefined_column", "'id'"),
        ("CREATE INDEX ON docs USING hnsw (vec) WHERE count(*) > 5", "syntax_error", "aggregate"),
        (
            "CREATE INDEX ON docs USING hnsw ((load_it(vec)) vector_l2_ops)",
            "undefined_function",
            "load_it",
        ),
        ("CREATE INDEX ON docs USING hnsw (vec, vec)", "unsupported", "one column"),
        ("CREATE UNIQUE INDEX ON docs (title)", "unsupported", "UNIQUE"),
        (
            "CREATE INDEX ON docs USING hnsw (vec) WITH (lists = 5)",
            "invalid_option",
            "no option 'lists'",
        ),
        ("CREATE INDEX ON docs USING hnsw (vec) WITH (m = 'x')", "invalid_option", "2 to 100"),
        ("CREATE INDEX ON docs USING hnsw (vec) WITH (m = '8.5')", "invalid_option", "2 to 100"),
        ("CREATE INDEX ON docs USING hnsw (vec) WITH (m = '101')", "invalid_option", "2 to 100"),
        ("CREATE INDEX ON docs USING hnsw (vec) WITH (m = 1)", "invalid_option", "2 to 100"),
        ("CREATE INDEX ON docs USING hnsw (vec) WITH (m = 101)", "invalid_option", "2 to 100"),
        (
            "CREATE INDEX ON docs USING hnsw (vec) WITH (ef_construction = 31)",
            "invalid_option",
            "2 * m = 32",
        ),
        (
            "CREATE INDEX ON docs USING ivfflat (vec) WITH (lists = 0)",
            "invalid_option",
            "1 to 32768",
        ),
        (
            "CREATE INDEX ON docs USING auto (vec) WITH (target_recall = 1.5)",
            "invalid_option",
            "0.01 to 1",
        ),
        (
            "CREATE INDEX ON docs USING hnsw (vec) WITH (storage = 'sq4')",
            "invalid_option",
            "float32, float16, sq8",
        ),
        ("CREATE INDEX ON docs USING ivfpq (vec vector_l1_ops)", "unsupported", "hnsw and flat"),
        ("CREATE INDEX nq_i ON docs USING hnsw (vec)", "reserved_name", "reserved"),
        ("DROP INDEX nope", "undefined_index", "'nope'"),
        ("REINDEX INDEX nope", "undefined_index", "'nope'"),
        ("REINDEX TABLE dosc", "undefined_table", "'docs'"),
    ],
)
def test_what_index_ddl_refuses(catalog: Definitions, text: str, code: str, says: str) -> None:
    """By name, with the alternative or the nearest name."""
    error = refused(catalog, text)
    assert error.code == code
    assert says in error.detail
    assert error.position is not None


def test_indexed_columns_stay(catalog: Definitions) -> None:
    """Until the index is dropped; dropping takes all names or none."""
    run(catalog, "CREATE INDEX a ON docs USING hnsw (vec)")
    assert refused(catalog, "ALTER TABLE docs DROP vec").code == "dependent_object"
    assert refused(catalog, "ALTER TABLE docs RENAME vec TO v").code == "dependent_object"
    assert refused(catalog, "DROP INDEX a, b").code == "undefined_index"
    assert "built anew" in run(catalog, "REINDEX INDEX a").notices[0]
    assert catalog.rebuilt == [[catalog.tables["docs"].indexes[0].uuid]]
    assert run(catalog, "DROP INDEX IF EXISTS A, b").notices == (
        "There is no index 'b'; nothing was done.",
    )
    run(catalog, "ALTER TABLE docs DROP vec")


# ---- Through a session ------------------------------------------------------------------


def test_defaults_and_checks_work_on_rows(sql: Sql) -> None:
    """What was recorded is what an INSERT meets."""
    sql.run(
        "CREATE TABLE t (id bigserial PRIMARY KEY, a TEXT DEFAULT upper('x'), v "
        "VECTOR(2) DEFAULT '[1,2]', "
        "n INT CHECK (n < 10) DEFAULT 2 * 3)"
    )
    sql.run("INSERT INTO t (n) VALUES (1), (DEFAULT)")
    assert sql.rows("SELECT id, a, n FROM t ORDER BY id") == [(1, "X", 1), (2, "X", 6)]
    with pytest.raises(NearQLError) as caught:
        sql.run("INSERT INTO t (n) VALUES (10)")
    assert caught.value.code == "check_violation"


def test_added_column_fills_rows_that_are_there(docs: Sql) -> None:
    """With its default; a dropped column's data does not come back under its number."""
    docs.run("ALTER TABLE docs ADD COLUMN n INT DEFAULT 7")
    assert docs.rows("SELECT DISTINCT n FROM docs") == [(7,)]
    docs.run("ALTER TABLE docs DROP COLUMN n")
    docs.run("ALTER TABLE docs ADD COLUMN n INT")
    assert docs.rows("SELECT DISTINCT n FROM docs") == [(None,)]

"""What a request does is told by its parsed statements, never by its first word."""

from __future__ import annotations

import pytest

from nearql.engine.schema import Column, ColumnType, IndexDef, TableDef, TableSchema
from nearql.engine.types import Metric
from nearql.query.dialect import parse
from nearql.query.nature import nature_of
from nearql.query.ports import CatalogView

_SCHEMA = TableSchema((Column(1, "id", ColumnType("BIGINT"), True),), key_number=1)
CATALOG = CatalogView(
    1,
    {
        name: TableDef(f"uuid-{name}", name, _SCHEMA, indexes=indexes)
        for name, indexes in (
            ("docs", (IndexDef("i", "by_vec", "vec", "hnsw", Metric.L2),)),
            ("other", ()),
        )
    },
)


def nature(text: str) -> tuple[bool, set[str], set[str]]:
    """(writes, changed, read)."""
    found = nature_of(parse(text), CATALOG)
    return found.writes, set(found.changed), set(found.read)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("SELECT * FROM docs", {"docs"}),
        ("SELECT 'INSERT INTO docs' AS x", set()),
        ("WITH inserted AS (SELECT * FROM Docs) SELECT * FROM inserted JOIN other USING (id)",
         {"docs", "other"}),
        ("SELECT * FROM nearql.tables", set()),
        ("EXPLAIN INSERT INTO docs SELECT * FROM other", {"other"}),
        ("EXPLAIN ANALYZE SELECT * FROM docs", {"docs"}),
        ("SET write_concern = 'all'; SHOW TABLES; DESCRIBE docs", set()),
        ("WAIT 2 TIMEOUT 10", set()),
        ("KILL 7", set()),
        ("BEGIN; SELECT 1; COMMIT", set()),
        ("CREATE EXTENSION vector", set()),
    ],
)  # fmt: skip
def test_reads(text: str, read: set[str]) -> None:
    assert nature(text) == (False, set(), read)


@pytest.mark.parametrize(
    ("text", "changed", "read"),
    [
        ("INSERT INTO Docs VALUES (1)", {"docs"}, set()),
        ("WITH new AS (SELECT 1 AS id) INSERT INTO docs SELECT * FROM new", {"docs"}, set()),
        ("INSERT INTO docs SELECT id FROM other", {"docs"}, {"other"}),
        ("UPDATE docs SET id = 1 WHERE id IN (SELECT id FROM other)", {"docs"}, {"other"}),
        ("DELETE FROM docs", {"docs"}, set()),
        ("TRUNCATE docs", {"docs"}, set()),
        ("EXPLAIN ANALYZE DELETE FROM docs", {"docs"}, set()),
        ("ALTER TABLE docs RENAME TO papers", {"docs"}, set()),
        ("SELECT 1; INSERT INTO docs VALUES (1); DELETE FROM other", {"docs", "other"}, set()),
        ("CREATE TABLE new AS SELECT * FROM docs", set(), {"docs"}),
        ("CREATE TABLE new (id BIGINT PRIMARY KEY)", set(), set()),
        ("DROP TABLE docs", set(), set()),
        ("CREATE INDEX ON docs USING hnsw (vec vector_l2_ops)", set(), set()),
        ("DROP INDEX by_vec", set(), set()),
        ("REINDEX TABLE docs", set(), set()),
        ("CREATE VIEW v AS SELECT * FROM docs", set(), {"docs"}),
        ("GRANT SELECT ON docs TO alice", set(), set()),
        ("CREATE USER alice", set(), set()),
    ],
)
def test_writes(text: str, changed: set[str], read: set[str]) -> None:
    assert nature(text) == (True, changed, read)

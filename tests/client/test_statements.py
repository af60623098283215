"""Which statements may be repeated, and where one ends."""

from __future__ import annotations

import pytest

from nearql.client.statements import (
    PROTECTED,
    READ,
    UNPROTECTED,
    Nature,
    nature_of,
    split,
)


@pytest.mark.parametrize(
    ("text", "nature"),
    [
        ("SELECT 1", READ),
        ("  select 1;", READ),
        ("(SELECT 1) UNION (SELECT 2)", READ),
        ("-- drop everything\nSELECT 1", READ),
        ("/* a; b */ FROM t", READ),
        ("WITH a AS (SELECT 1) SELECT * FROM a", READ),
        ("SET target_recall = 0.9; SELECT 1", READ),
        ("INSERT INTO t VALUES (';')", PROTECTED),
        ("insert into t select 1", PROTECTED),
        ("UPDATE t SET a = 1", PROTECTED),
        ("DELETE FROM t", PROTECTED),
        ("TRUNCATE t", PROTECTED),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", UNPROTECTED),
        ("EXPLAIN ANALYZE DELETE FROM t", UNPROTECTED),
        ("EXPLAIN SELECT 1", READ),
        ("CREATE TABLE t (id BIGINT)", UNPROTECTED),
        ("DROP TABLE t", UNPROTECTED),
        ("ALTER TABLE t ADD COLUMN a TEXT", UNPROTECTED),
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)", UNPROTECTED),
        ("SELECT 1; DROP TABLE t", UNPROTECTED),
        ("SELECTION 1", UNPROTECTED),
        ("", READ),
    ],
)
def test_nature(text: str, nature: Nature) -> None:
    assert nature_of(text) == nature


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("SELECT 1", [], "SELECT 1"),
        ("SELECT 1;", ["SELECT 1"], ""),
        ("a; b;; c", ["a", "b"], "c"),
        ("SELECT ';'; x", ["SELECT ';'"], "x"),
        ("SELECT 'it''s;'; x", ["SELECT 'it''s;'"], "x"),
        ('SELECT ";"; x', ['SELECT ";"'], "x"),
        ("SELECT 1 -- ;\n; x", ["SELECT 1 -- ;"], "x"),
        ("/* ; */ x; y", ["x"], "y"),
        ("SELECT $$a;b$$; x", ["SELECT $$a;b$$"], "x"),
        ("SELECT 'open;", [], "SELECT 'open;"),
        ("-- only a comment;", [], ""),
    ],
)
def test_split(text: str, statements: list[str], rest: str) -> None:
    assert split(text) == (statements, rest)

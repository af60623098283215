"""What each rule makes of statements: tests/scripts/rules/<rule>.sql, a statement and its plan.

`NEARQL_REWRITE=1 pytest tests/query/test_rules.py` writes the plans anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.rules import INDEXES, SCHEMA, SCRIPTS, blocks
from support.sql import Sql


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sql")), ids=lambda path: path.stem)
def test_plans_are_those_of_the_script(path: Path, sql: Sql) -> None:
    """EXPLAIN of every statement gives the lines below it."""
    sql.run(SCHEMA)
    if path.stem == "indexes":
        sql.run(INDEXES)
    found = [(text, "\n".join(sql.explain(text))) for text, _ in blocks(path)]
    if os.environ.get("NEARQL_REWRITE"):
        path.write_text("\n\n".join(f"{text}\n----\n{plan}" for text, plan in found) + "\n")
    assert found == blocks(path)
    sql.database.close()

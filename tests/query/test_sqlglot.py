"""sqlglot around us: others in the process see no difference, and its compiled build is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlglot

from nearql.engine.errors import SqlError
from nearql.query.dialect import parse


def test_plain_duckdb_dialect_is_unaffected() -> None:
    """Another user of sqlglot in the process sees no difference: our tokens are only ours."""
    code = (
        "import sqlglot\n"
        "texts = ['SELECT a -> \\'x\\', list_sort(b), c <=> d, e ** 2, f @> [1] FROM t',"
        " 'SELECT list_transform(a, x -> x + 1)']\n"
        "def all(): return [sqlglot.parse_one(t, dialect='duckdb').sql('duckdb') for t in texts]\n"
        "before = all()\n"
        "import nearql.query.dialect\n"
        "nearql.query.dialect.parse('SELECT a <-> b FROM t')\n"
        "assert all() == before, (before, all())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_text_that_is_no_statement_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """sqlglot warns of what it takes for another's command, with its values."""
    for text in ("(SET VALUES (1)) UNION SELECT 1", "WITH a AS (SELECT 1) SET x VALUES ('secret')",
                 "(CREATE SELECT 'secret')"):  # fmt: skip
        with pytest.raises(SqlError):
            parse(text)
    assert not caplog.records
    sqlglot.parse_one("SET VALUES (1)", dialect="duckdb")
    assert "Falling back" in caplog.text  # that of others in the process is


def test_nothing_compiled_is_subclassed() -> None:
    """sqlglot's compiled build allows no subclass of Parser, Generator or an expression."""
    folder = Path(sys.modules[parse.__module__].__file__ or "").parent
    for path in folder.glob("*.py"):
        text = path.read_text()
        for name in ("Parser", "Generator", "Expr", "Expression", "Binary", "Func"):
            assert f"{name}):" not in text.replace("isinstance", ""), f"{path.name}: {name}"

"""The tables of docs/sql.md are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nearql
from nearql.engine import errors
from nearql.engine import schema as engine_schema
from nearql.engine.schema import ColumnType
from nearql.query import duck_errors, functions
from nearql.query.ddl.index import OPTIONS
from nearql.query.ddl.names import LIMITS
from nearql.query.dialect import utility
from nearql.query.dialect.index import OPCLASSES
from nearql.query.settings import VARIABLES, SessionSettings
from nearql.server.config import Config
from nearql.server.system_tables import TABLES
from support.doc_pages import ROOT, tables_below

PAGE = ROOT / "docs" / "sql.md"
TEXT = PAGE.read_text()

pytestmark = pytest.mark.docs


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_type_and_spelling_is_listed() -> None:
    rows = tables_below(PAGE, "## Types")
    # The page shows VARCHAR as people see it, and decimals, lists and vectors by their pattern.
    listed = {name for row in rows for name in quoted(row[0])} - {"DECIMAL(p, s)", "T[]"}
    vectors = {name for name in listed if name.endswith("(n)")}
    shown = {ColumnType.parse(name).display for name in engine_schema._STORAGE}
    assert listed - vectors == shown
    assert vectors == {"VECTOR(n)", "HALFVEC(n)", "BIT(n)"}
    aliases = {alias for row in rows for alias in quoted(row[1])}
    assert aliases - {"VARCHAR"} == set(engine_schema._ALIASES) - {"TEXT"}


def test_each_other_spelling_is_of_a_type_in_its_row() -> None:
    for name, other, _ in tables_below(PAGE, "## Types"):
        for alias in quoted(other):
            made = ColumnType.parse(alias).display
            assert made in quoted(name) or made.startswith("DECIMAL"), alias


def test_the_vector_functions_are_listed() -> None:
    cells = [cell for row in tables_below(PAGE, "## Vectors") for cell in row]
    named = {name for cell in cells for name in re.findall(r"(?<!::)\b(\w+)\(", cell)}
    assert functions.VECTOR | {"avg", "sum"} == named


def test_table_functions_are_listed() -> None:
    part = " ".join(TEXT.split()).partition("In `FROM`: ")[2].partition(".")[0]
    assert set(quoted(part)) == functions.TABLE


def test_index_kinds_and_options_are_listed() -> None:
    listed = {kind: row[1] for row in tables_below(PAGE, "## Indexes") for kind in quoted(row[0])}
    assert set(listed) == set(OPTIONS)
    for kind, options in OPTIONS.items():
        if kind != "auto":
            assert quoted(listed[kind]) == list(options), kind
            for limits in options.values():
                assert _shown_limits(limits) in listed[kind], kind
    for name, metric in OPCLASSES.items():
        assert name.startswith("halfvec") or f"`{name}`" in TEXT, (name, metric)


def _shown_limits(limits: Any) -> str:
    """As the page has them: a range, or one of some words."""
    if hasattr(limits, "values"):
        return ", ".join(limits.values)
    return f"{limits.low:g} to {limits.high:,g}"


def test_refused_statements_and_objects_are_listed() -> None:
    rows = tables_below(PAGE, "## Refused by name")
    listed = {row[0]: set(quoted(row[1])) for row in rows}
    assert listed["statements"] == set(utility.REFUSED)
    assert listed["`CREATE`, `ALTER`, `DROP` of"] == set(utility.REFUSED_OBJECTS)


def test_settings_have_their_defaults_and_meanings() -> None:
    rows = tables_below(PAGE, "## Settings")
    assert [quoted(row[0])[0] for row in rows] == list(VARIABLES)
    node = SessionSettings()
    for name, default, what in rows:
        variable = VARIABLES[quoted(name)[0]]
        value = getattr(node, variable.node) if variable.node else variable.default
        assert default == ("-" if value is None else f"`{value}`"), name
        assert what == variable.help, name


def test_system_tables_have_their_columns(tmp_path: Path) -> None:
    rows = tables_below(PAGE, "## System tables")
    listed = {quoted(name)[0].removeprefix("nearql."): columns for name, columns in rows}
    assert list(listed) == list(TABLES)
    with nearql.connect(str(tmp_path / "data")) as db:
        for name, columns in listed.items():
            found = db.sql(f"SELECT * FROM nearql.{name}").columns
            kinds = [column.type for column in found]
            described = db.sql(f"DESCRIBE nearql.{name}").fetchall()
            assert [(c, k) for c, k, *_ in described] == list(zip(found, kinds, strict=True))
            assert columns == ", ".join(f"`{c}` {k}" for c, k in zip(found, kinds, strict=True))


def test_limits_are_those_in_force() -> None:
    limits = {row[0]: row[1] for row in tables_below(PAGE, "## Limits")}
    lengths = f"{engine_schema.MAX_DIMENSIONS:,}; {engine_schema.MAX_BITS:,}"
    assert limits["dimensions; bits"] == lengths
    assert f"{Config().limits.max_limit:,}" in limits["k (`LIMIT` + `OFFSET`) of a search"]
    joined = limits["rows that a nearest-neighbour join finds"]
    assert joined == f"{SessionSettings().join_rows:,}"
    assert limits["shards of a table"] == f"{LIMITS.shards}"
    assert limits["characters of a name"] == f"{LIMITS.name_chars}"
    assert limits["tables; columns of one"].endswith(f"{LIMITS.columns:,}")
    for section, key in re.findall(r"`(limits|engine)\.(\w+)`", TEXT):
        assert hasattr(getattr(Config(), section), key), f"{section}.{key}"


# ---- Error codes ----------------------------------------------------------------------

# Not for users: a caller inside catches it, or it is told as a message before anything serves.
INSIDE = {
    "log_trimmed",
    "dimension_mismatch",
    "wrong_columns",
    "port_unavailable",
    "already_initialised",
    "duplicate_node",
    "call_lost",
    "code",  # a member's name: the code of an error that another node raised
    "join_refused",
    "join_token_needed",
}


def raised() -> Iterator[tuple[str, str]]:
    """(code, class) wherever the code names an error code."""
    for package in ("engine", "query", "server", "cluster"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield from ((code, called(node)) for code in codes_given(node))
                elif isinstance(node, ast.ClassDef):
                    yield from ((code, node.name) for code in class_code(node))
    yield from ((code, kind.__name__) for _, kind, code, _ in duck_errors._KINDS)
    text = (ROOT / "query" / "duck_functions.py").read_text()
    yield from ((code, "InvalidValue") for code in re.findall(r"\{ERROR\}(\w+):", text))


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def codes_given(node: ast.Call) -> Iterator[str]:
    """Strings given as `code=`, and the second argument of RowFailure."""
    values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
    if called(node) == "RowFailure":
        values += node.args[1:2]
    for value in values:
        for constant in ast.walk(value):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value


def class_code(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == "code" for target in targets)
        value = getattr(line, "value", None)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def listed_codes() -> dict[str, str]:
    return {code: row[1] for row in tables_below(PAGE, "## Error codes") for code in quoted(row[0])}


def test_every_error_code_is_listed_and_none_else() -> None:
    found = {code for code, _ in raised() if code} - INSIDE
    assert set(listed_codes()) == found


def test_codes_have_the_status_of_their_class() -> None:
    listed = listed_codes()
    for code, name in raised():
        kind = getattr(errors, name, None)
        if kind is None or code not in listed or code in ("duplicate_column", "undefined_table"):
            continue  # their rows tell both
        assert str(kind.http_status) == listed[code], (code, name)

"""Literal defaults, as the SQL layer spells them."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from nearql.engine.defaults import literal_default
from nearql.engine.errors import InvalidValue, Unsupported
from nearql.engine.schema import Column, ColumnType


def default(kind: str, text: str | None) -> Any:
    value = literal_default(Column(1, "c", ColumnType.parse(kind), default=text))
    return None if value is None else value.as_py()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("INTEGER", None, None),
        ("INTEGER", "NULL", None),
        ("INTEGER", "5", 5),
        ("INTEGER", "-5", -5),
        ("INTEGER", "CAST('5' AS INT)", 5),
        ("DOUBLE", "1.5e3", 1500.0),
        ("DECIMAL(6,2)", "12.5", Decimal("12.50")),
        ("BOOLEAN", "TRUE", True),
        ("BOOLEAN", "false", False),
        ("TEXT", "''", ""),
        ("TEXT", "'it''s'", "it's"),
        ("TEXT", "'a::b'", "a::b"),
        ("TEXT", "CAST(NULL AS TEXT)", None),
        ("TEXT", "5", "5"),
        ("DATE", "DATE_", ...),
        ("DATE", "CAST('2020-02-29' AS DATE)", datetime.date(2020, 2, 29)),
        ("TIMESTAMP", "'2020-02-29 12:00:00'::timestamp", datetime.datetime(2020, 2, 29, 12)),  # noqa: DTZ001
        ("JSON", "'{\"a\": 1}'", '{"a": 1}'),
    ],
)
def test_literals(kind: str, text: str | None, value: Any) -> None:
    if value is ...:
        with pytest.raises(Unsupported):
            default(kind, text)
    else:
        assert default(kind, text) == value


@pytest.mark.parametrize("text", ["now()", "1 + 1", "nextval('s')", "CURRENT_DATE", "'a' || 'b'"])
def test_expressions_are_refused_by_name(text: str) -> None:
    with pytest.raises(Unsupported, match="Column c: .* UPDATE"):
        default("TEXT", text)


@pytest.mark.parametrize(
    ("kind", "text"), [("INTEGER", "'x'"), ("INTEGER", "1.5"), ("TINYINT", "300"), ("DATE", "'no'")]
)
def test_a_literal_of_another_type_is_refused(kind: str, text: str) -> None:
    with pytest.raises(InvalidValue, match="column c is no"):
        default(kind, text)

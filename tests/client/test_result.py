"""Results: fetching, converting, and how they look."""

from __future__ import annotations

import datetime as dt
import math
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.client.errors import UsageError
from nearql.client.format import cell, text_table
from nearql.client.result import Column, Result

TABLE = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "title": ["one", None, "thrée"],
        "d": pa.array([0.5, math.nan, 12.25], pa.float32()),
        "vec": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
    }
)


def result(table: pa.Table = TABLE, **body: Any) -> Result:
    return Result(table, body)


def test_fetching_goes_on_where_it_stopped() -> None:
    rows = result()
    assert rows.fetchone() == (1, "one", 0.5, [1.0, 2.0])
    assert [row[0] for row in rows.fetchmany(1)] == [2]
    assert [row[0] for row in rows] == [3]
    assert rows.fetchone() is None
    assert rows.fetchall() == rows.fetchmany(5) == []
    assert len(rows) == rows.row_count == 3


def test_every_row_again_from_conversions() -> None:
    rows = result()
    rows.fetchall()
    assert rows.arrow() is TABLE
    assert list(rows.df().columns) == ["id", "title", "d", "vec"]
    assert rows.polars().shape == (3, 4)
    assert [row["id"] for row in rows.dicts()] == [1, 2, 3]


def test_numpy_columns() -> None:
    columns = result().numpy()
    assert columns["id"].tolist() == [1, 2, 3]
    assert columns["vec"].shape == (3, 2)
    assert columns["vec"].dtype == np.float32


def test_numpy_of_sliced_and_chunked_vectors() -> None:
    table = pa.concat_tables([TABLE.slice(1, 1), TABLE.slice(2, 1)])
    assert result(table).numpy()["vec"].shape == (2, 2)


def test_numpy_of_vectors_with_null() -> None:
    table = pa.table({"vec": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))})
    values = result(table).numpy()["vec"]
    assert values.shape == (2,)
    assert values[1] is None


def test_columns_are_names_that_know_their_type() -> None:
    field = pa.field("vec", pa.int8(), metadata={"nearql.type": "VECTOR(2)"})
    (column,) = result(pa.table([[1]], pa.schema([field]))).columns
    assert column == column.name == "vec"
    assert column.type == "VECTOR(2)"
    assert type(column.name) is str


def test_columns_of_the_same_name_are_kept() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    assert result(table).fetchall() == [(1, 2)]


def test_printed() -> None:
    assert repr(result()) == (
        "id | title | d     | vec\n"
        "---+-------+-------+-------\n"
        " 1 | one   |   0.5 | [1, 2]\n"
        " 2 | NULL  |   nan | [1, 2]\n"
        " 3 | thrée | 12.25 | [1, 2]\n"
        "(3 rows)"
    )


def test_long_results_are_cut_when_printed() -> None:
    lines = repr(result(pa.table({"n": range(1000)}))).splitlines()
    assert len(lines) == 43
    assert lines[-1] == "(1000 rows, 40 shown)"


def test_an_answer_without_rows() -> None:
    assert repr(result(pa.table({}))) == "OK"
    assert repr(result(pa.table({}), row_count=1, stats={"write": {}})) == "OK, 1 row affected"
    assert repr(result(pa.table({"a": pa.array([], pa.int8())}))) == "a\n-\n(0 rows)"
    assert result(pa.table({})).fetchall() == []
    assert result(pa.table({}))


def test_html_is_escaped() -> None:
    shown = result(pa.table({"<a>": ["<script>"]}))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<th>&lt;a&gt;</th>" in shown
    assert result(pa.table({}))._repr_html_() == "<p>OK</p>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"),
        (True, "true"),
        (1.23456789, "1.23457"),
        (1e-7, "1e-07"),
        (10**18, "1000000000000000000"),
        ([1.0] * 384, "[1, 1, 1, … 384 values]"),
        ("a\nb\x1b[31m", r"a\nb\x1b[31m"),
        ("x" * 100, "x" * 59 + "…"),
        ("字" * 40, "字" * 29 + "…"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (b"\x00\xab", r"\x00\xab"),
        (pa.MonthDayNano([14, -2, -3_500_000_000]), "14 months -2 days -00:00:03.5"),
        (pa.MonthDayNano([0, 0, 90_061 * 10**9]), "25:01:01"),
        (pa.MonthDayNano([0, 1, 0]), "1 day"),
        (pa.MonthDayNano([0, 0, 0]), "00:00:00"),
    ],
)
def test_cells(value: object, shown: str) -> None:
    assert cell(value, 60) == shown


def test_wide_characters_stay_aligned() -> None:
    lines = text_table(["name", "n"], [("字字", 1), ("e\u0301", 22)]).splitlines()
    assert lines[2:4] == ["字字 |  1", "e\u0301    | 22"]


def test_column_is_a_string() -> None:
    assert Column("a", "TEXT").upper() == "A"
    assert hash(Column("a", "TEXT")) == hash("a")


def test_the_only_column_is_shown_whole() -> None:
    """A plan's lines must be readable to their end."""
    line = "VectorSearch " + "x" * 200
    assert line in text_table(["plan"], [[line]])
    assert "…" in text_table(["plan", "n"], [[line, 1]])


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    convert = result().df if package == "pandas" else result().polars
    with pytest.raises(UsageError, match=rf"pip install 'nearql\[{package}\]'"):
        convert()


def test_a_result_without_statement_has_no_plan() -> None:
    with pytest.raises(UsageError, match="knows no statement"):
        result().explain()


def test_intervals_are_text_in_polars_which_has_none_of_months() -> None:
    """Its own reader panics on them, which no `except Exception` would hold."""
    intervals = pa.array([pa.MonthDayNano([1, 2, 0]), None])
    assert result(pa.table({"i": intervals})).polars()["i"].to_list() == ["1 month 2 days", None]
    with pytest.raises(UsageError, match="'l' holds INTERVAL"):
        result(pa.table({"l": pa.array([[pa.MonthDayNano([1, 2, 0])]])})).polars()


def test_polars_needs_different_names() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(UsageError, match="different names"):
        result(table).polars()

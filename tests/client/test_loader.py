"""Rows of any kind become Arrow batches: in order, complete, of the wanted size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.client.errors import UsageError
from nearql.client.loader import cut, regrouped, source_of

N = 10
TABLE = pa.table({"id": range(N), "title": [f"t{i}" for i in range(N)]})


@dataclass
class Doc:
    """A row."""

    id: int
    title: str


ROWS: list[dict[str, Any]] = [{"id": i, "title": f"t{i}"} for i in range(N)]


def data() -> dict[str, Any]:
    """The same rows in every form."""
    return {
        "table": TABLE,
        "batch": TABLE.to_batches()[0],
        "reader": TABLE.to_reader(3),
        "pandas": TABLE.to_pandas(),
        "polars": pl.from_arrow(TABLE),
        "columns": {"id": np.arange(N), "title": [f"t{i}" for i in range(N)]},
        "arrow columns": {"id": TABLE["id"], "title": TABLE["title"]},
        "dicts": ROWS,
        "generator": (row for row in ROWS),
        "dataclasses": [Doc(**row) for row in ROWS],
        "batches": TABLE.to_batches(3),
        "tables": (TABLE.slice(i, 3) for i in range(0, N, 3)),
    }


@pytest.mark.parametrize("form", list(data()))
def test_every_form_gives_the_rows(form: str) -> None:
    source = source_of(data()[form])
    rows = pa.concat_tables(source.batches(1 << 20), promote_options="permissive").to_pylist()
    assert rows == ROWS
    assert source.rows in (N, None, len(TABLE.to_batches(3)))


def test_matrices_are_vectors_without_a_copy() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    (table,) = source_of({"vec": vectors}).tables
    assert table["vec"].type == pa.list_(pa.float32(), 3)
    assert table["vec"].chunk(0).flatten().to_numpy().ctypes.data == vectors.ctypes.data


def test_numpy_rows_in_dicts() -> None:
    (table,) = source_of([{"vec": np.ones(3, "f4")}, {"vec": None}]).tables
    assert table["vec"].to_pylist() == [[1.0, 1.0, 1.0], None]


def test_what_a_masked_array_hides_is_null() -> None:
    (table,) = source_of({"a": np.ma.array([1.0, 2.0], mask=[False, True])}).tables
    assert table["a"].to_pylist() == [1.0, None]
    (table,) = source_of({"vec": np.ma.array([[1.0, 2.0]])}).tables
    assert table["vec"].to_pylist() == [[1.0, 2.0]]


def test_a_missing_value_is_null_and_new_columns_appear() -> None:
    (table,) = source_of([{"a": 1}, {"b": 2}]).tables
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_pandas_index_is_left_out() -> None:
    (table,) = source_of(pd.DataFrame({"a": [1, 2]}, index=[7, 8])).tables
    assert table.column_names == ["a"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (5, "can't read data of type int"),
        ("text", "can't read data of type str"),
        ([1, 2], "Row 0 is of type int"),
        ([{"a": 1}, (2,)], "Row 1 is of type tuple"),
        ({"a": [1], "b": [1, 2]}, "different lengths"),
        ({"a": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"),
        ({"a": 5}, "Column 'a' is of type int"),
        ({"a": [1, object()]}, "Row 1: column 'a' holds a value of type object"),
        ([{"a": 1}, {"a": {"b": object()}}], "Row 1: column 'a' holds a value of type object"),
        ({"a": np.array([1 + 2j])}, "Column 'a' can't be sent"),
        ({"a": np.array([[1 + 2j]])}, "Column 'a' can't be sent"),
        ({"a": np.zeros((2, 0))}, r"Column 'a' has the shape \(2, 0\)"),
        (
            {"a": np.ma.array([[1.0, 2.0]], mask=[[False, True]])},
            "Column 'a' hides elements of vectors",
        ),
        ([{"a": "x"}, {"a": "\ud800"}], "Row 1: column 'a' holds text that is no Unicode"),
        ([{"a": {"b": "\ud800"}}], "Row 0: column 'a' holds text that is no Unicode"),
        (pd.Series([1, 2], name="a"), "can't read data of type Series"),
        (pl.Series("a", [1, 2]), "can't read data of type Series"),
    ],
)
def test_wrong_data_is_named(wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list(source_of(wrong).batches(100))


@pytest.mark.parametrize("batch_bytes", [1, 50, 200, 1 << 20])
def test_cut_keeps_rows_and_size(batch_bytes: int) -> None:
    pieces = list(cut(TABLE, batch_bytes))
    assert pa.concat_tables(pieces) == TABLE
    assert all(piece.num_rows for piece in pieces)
    row_bytes = TABLE.nbytes // N
    assert all(piece.num_rows <= max(1, batch_bytes // row_bytes) for piece in pieces)


def test_nothing_is_no_batch() -> None:
    assert not list(source_of(TABLE.slice(0, 0)).batches(100))
    assert not list(source_of([]).batches(100))


def test_values_of_several_kinds_become_text() -> None:
    values = [1, "x", 2.5, True, None, [1, "a"], np.zeros(2), {"b": 1}, b"\x00", float("nan")]
    (table,) = source_of({"a": values}).tables
    texts = ["1", "x", "2.5", "true", None, '[1, "a"]', "[0.0, 0.0]", '{"b": 1}', "\\x00", None]
    assert table["a"].to_pylist() == texts


def test_regrouped_joins_columns_of_several_kinds() -> None:
    tables = [pa.table({"a": [1, 2], "b": [[1.5], None]}), pa.table({"a": ["x"], "b": ["[2]"]}),
              pa.table({"a": [None]})]  # fmt: skip
    (whole,) = regrouped(tables, 4)
    assert whole.to_pydict() == {"a": ["1", "2", "x", None], "b": ["[1.5]", None, "[2]", None]}


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 12))
def test_regrouped_keeps_order_and_size(sizes: list[int], rows: int) -> None:
    tables, start = [], 0
    for size in sizes:
        tables.append(pa.table({"a": pa.array(range(start, start + size), pa.int64())}))
        start += size
    groups = list(regrouped(tables, rows))
    assert [x for group in groups for x in group["a"].to_pylist()] == list(range(start))
    assert all(group.num_rows == rows for group in groups[:-1])
    assert all(0 < group.num_rows <= rows for group in groups)

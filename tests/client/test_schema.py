"""CREATE TABLE from data: each Arrow type has its SQL type, or an error that names the column."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from nearql.client.errors import UsageError
from nearql.client.schema import create_table, quoted, sql_type


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1], pa.int64()), "BIGINT"),
        (pa.array([1], pa.uint8()), "UTINYINT"),
        (pa.array([1.0], pa.float32()), "FLOAT"),
        (pa.array([True]), "BOOLEAN"),
        (pa.array(["a"]), "TEXT"),
        (pa.array(["a"], pa.large_string()), "TEXT"),
        (pa.array(["a"]).dictionary_encode(), "TEXT"),
        (pa.array([None]), "TEXT"),
        (pa.array([b"a"]), "BLOB"),
        (pa.array([0], pa.date32()), "DATE"),
        (pa.array([0], pa.time64("us")), "TIME"),
        (pa.array([0], pa.timestamp("us")), "TIMESTAMP"),
        (pa.array([0], pa.timestamp("ns")), "TIMESTAMP_NS"),
        (pa.array([0], pa.timestamp("ms", "UTC")), "TIMESTAMP WITH TIME ZONE"),
        (pa.array([Decimal("1.25")]), "DECIMAL(3,2)"),
        (pa.array([["a"], []]), "TEXT[]"),
        (pa.array([[1], [2]]), "BIGINT[]"),
        (pa.array([[1.0, 2.0], [3.0, 4.0], None]), "VECTOR(2)"),
        (pa.array([[1.0, 2.0], [3.0]]), "DOUBLE[]"),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float16(), 2)), "HALFVEC(2)"),
        (pa.array([[1, 2]], pa.list_(pa.uint8(), 2)), "VECTOR(2)"),
        (pa.array(["[1,2,3]", None, " [4, 5e-1, -6] "]), "VECTOR(3)"),
        (pa.array(["[1,2]", "[1]"]), "TEXT"),
        (pa.array(["[1,2]", "[draft]"]), "TEXT"),
    ],
)
def test_types(values: Any, expected: str) -> None:
    assert sql_type("c", pa.chunked_array([values])) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([[1, 0], [0, 1], None]), "VECTOR(2)"),
        (pa.array([[1, 0], [0, 1, 2]]), "BIGINT[]"),
        (pa.array([[1], [2]]), "BIGINT[]"),
        (pa.array([["a", "b"]]), "TEXT[]"),
        (pa.array([1]), "BIGINT"),
    ],
)
def test_whole_numbers_in_untyped_data_may_be_vectors(values: Any, expected: str) -> None:
    assert sql_type("c", pa.chunked_array([values]), typed=False) == expected


@pytest.mark.parametrize(
    "values",
    [pa.array([{"a": 1}]), pa.array([[[(1, 2)]]], pa.list_(pa.map_(pa.int8(), pa.int8())))],
)
def test_a_type_without_a_column_type_names_the_column(values: Any) -> None:
    with pytest.raises(UsageError, match="Column 'c' has the type"):
        sql_type("c", pa.chunked_array([values]))


@pytest.mark.parametrize(
    ("name", "text"), [("id", "id"), ("Id", '"Id"'), ("a b", '"a b"'), ('a"b', '"a""b"')]
)
def test_quoted(name: str, text: str) -> None:
    assert quoted(name) == text


def test_create_table() -> None:
    sample = pa.table({"id": [1], "My Title": ["a"]})
    assert create_table("docs", sample, "id") == (
        'CREATE TABLE IF NOT EXISTS docs (id BIGINT PRIMARY KEY, "My Title" TEXT)'
    )
    assert "PRIMARY" not in create_table("docs", sample, None)


def test_a_key_that_is_no_column() -> None:
    with pytest.raises(UsageError, match="--key ident: the columns are id, x"):
        create_table("docs", pa.table({"id": [1], "x": [1]}), "ident")

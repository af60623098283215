"""Values into storage types: what fits, what is rounded, what is refused and how that is told."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column, ColumnType
from nearql.query.casting import Cast, cast_column, cast_values

UUID_TEXT = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def column(kind: str) -> Column:
    """A column x of this type."""
    return Column(1, "x", ColumnType.parse(kind))


def told(cast: Cast) -> list[tuple[int, str]]:
    """Rows that failed, and their codes."""
    return [(failure.row, failure.code) for failure in cast.failures]


@pytest.mark.parametrize(
    ("kind", "given", "stored"),
    [
        ("BIGINT", [1, None, -(2**63)], [1, None, -(2**63)]),
        ("BIGINT", [1.6, "7", True], [2, 7, 1]),
        ("DOUBLE", [1, 2.5], [1.0, 2.5]),
        ("DECIMAL(5,1)", [decimal.Decimal("1.25"), "3"],
         [decimal.Decimal("1.3"), decimal.Decimal("3.0")]),
        ("BOOLEAN", ["t", False, 1], [True, False, True]),
        ("TEXT", [1, "x", None], ["1", "x", None]),
        ("DATE", ["2020-01-02", datetime.date(2020, 1, 3)],
         [datetime.date(2020, 1, 2), datetime.date(2020, 1, 3)]),
        ("TIMESTAMP", ["2020-01-02 03:04:05"],
         [datetime.datetime(2020, 1, 2, 3, 4, 5)]),  # noqa: DTZ001  a TIMESTAMP has no zone
        ("UUID", [UUID_TEXT.upper(), uuid.UUID(UUID_TEXT)], [UUID_TEXT, UUID_TEXT]),
        ("JSON", ['{"a": 1}', {"b": [1]}, [1, 2]], ['{"a": 1}', '{"b": [1]}', "[1, 2]"]),
        ("INTEGER[]", [[1, 2], None, []], [[1, 2], None, []]),
        ("BLOB", [b"ab"], [b"ab"]),
        ("VECTOR(2)", ["[1,2]", [3, 4], None, np.array([5, 6])], [[1, 2], [3, 4], None, [5, 6]]),
        ("HALFVEC(2)", [[1, 2]], [[1, 2]]),
    ],
)  # fmt: skip
def test_values_that_fit(kind: str, given: list[Any], stored: list[Any]) -> None:
    cast = cast_values(given, column(kind))
    assert (cast.array.type, cast.array.to_pylist(), cast.failures) == (
        column(kind).type.storage, stored, [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "given", "failed"),
    [
        ("INTEGER", ["a", "5", "b"], [(0, "invalid_value"), (2, "invalid_value")]),
        ("TINYINT", [1, 300], [(1, "out_of_range")]),
        ("FLOAT", [1e300], [(0, "out_of_range")]),
        ("TIMESTAMP", ["soon"], [(0, "invalid_value")]),
        ("UUID", ["x"], [(0, "invalid_value")]),
        ("JSON", ["{"], [(0, "invalid_value")]),
        ("VECTOR(2)", [[1, 2], [1]], [(1, "wrong_dimensions")]),
        ("VECTOR(2)", [[1, float("inf")], "x", 5],
         [(0, "invalid_vector"), (1, "invalid_vector"), (2, "invalid_vector")]),
        ("HALFVEC(2)", [[1, 2], [1e5, 1]], [(1, "invalid_vector")]),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_told_by_row(
    kind: str, given: list[Any], failed: list[tuple[int, str]]
) -> None:
    cast = cast_values(given, column(kind))
    assert told(cast) == failed
    assert [cast.array[row].as_py() for row, _ in failed] == [None] * len(failed)
    assert all("'x'" in failure.detail for failure in cast.failures)


def lists(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column of lists."""
    return pa.array(values, kind)


@pytest.mark.parametrize(
    "given",
    [
        lists([[1, 2], None], pa.list_(pa.float64())),
        lists([[1, 2], None], pa.large_list(pa.float32())),
        lists([[1, 2], None], pa.list_(pa.float16(), 2)),
        lists([[1, 2], None], pa.list_(pa.int32())),
        lists([[decimal.Decimal(1), decimal.Decimal(2)], None], pa.list_(pa.decimal128(5, 1))),
        pa.array(["[1, 2]", None]),
        pa.array([np.array([1, 2], "<f4").tobytes(), None]),
        pa.chunked_array([[[1.0, 2.0]], [None]], pa.list_(pa.float32())),
    ],
)  # fmt: skip
def test_vectors_come_in_every_arrow_type(given: pa.Array) -> None:
    cast = cast_column(given, column("VECTOR(2)"))
    assert (cast.array.to_pylist(), cast.failures) == ([[1.0, 2.0], None], [])
    assert cast.array.type == column("VECTOR(2)").type.storage


def test_vectors_of_the_right_type_are_not_copied() -> None:
    flat = pa.array(np.ones(8, np.float32))
    given = pa.FixedSizeListArray.from_arrays(flat, 4)
    cast = cast_column(given, column("VECTOR(4)"))
    assert cast.array.flatten().buffers()[1].address == flat.buffers()[1].address


def test_vectors_with_wrong_elements_are_told() -> None:
    given = pa.array([[1.0, 2.0], [1.0, None], [float("nan"), 1.0], [1e39, 1.0], [1.0]])
    cast = cast_column(given, column("VECTOR(2)"))
    assert told(cast) == [
        (1, "invalid_vector"), (2, "invalid_vector"), (3, "invalid_vector"),
        (4, "wrong_dimensions"),
    ]  # fmt: skip
    assert cast.array.to_pylist() == [[1.0, 2.0], None, None, None, None]


def test_large_finite_vectors_are_stored_though_their_sum_overflows() -> None:
    big = float(np.finfo(np.float32).max)
    cast = cast_column(pa.array([[big, big]]), column("VECTOR(2)"))
    assert (cast.array.to_pylist(), cast.failures) == ([[big, big]], [])


@pytest.mark.parametrize(
    ("given", "kind", "stored"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), "TEXT", ["a", "b", "a"]),
        # As polars sends its Categorical and Enum columns.
        (pa.DictionaryArray.from_arrays(
            pa.array([1, None, 0], pa.uint32()), pa.array(["a", "b"], pa.string_view())
        ), "TEXT", ["b", None, "a"]),
        (pa.DictionaryArray.from_arrays(
            pa.array([0], pa.uint8()), pa.array([b"a"], pa.binary_view())
        ), "BLOB", [b"a"]),
        (pa.array(["a"], pa.large_string()), "TEXT", ["a"]),
        (pa.array([1, 2], pa.uint8()), "BIGINT", [1, 2]),
        (pa.array([1.5], pa.float16()), "DOUBLE", [1.5]),
        (pa.array([1.0, 2.0]), "INTEGER", [1, 2]),
        (pa.array([1.4, 2.6]), "INTEGER", [1, 3]),
        (pa.array([b"ab"], pa.large_binary()), "BLOB", [b"ab"]),
        (pa.array(["12:00:00"]), "TIME", [datetime.time(12)]),
        (pa.nulls(2), "BIGINT", [None, None]),
        (pa.array([], pa.string()), "BIGINT", []),
        (pa.array([10**9], pa.timestamp("s")), "TIMESTAMP",
         [datetime.datetime(2001, 9, 9, 1, 46, 40)]),  # noqa: DTZ001  a TIMESTAMP has no zone
    ],
)  # fmt: skip
def test_arrow_columns_are_cast(given: pa.Array, kind: str, stored: list[Any]) -> None:
    cast = cast_column(given, column(kind))
    assert (cast.array.to_pylist(), cast.failures) == (stored, [])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (pa.array([1, 2]), "VECTOR(2)"),
        (pa.array([["a"]]), "VECTOR(1)"),
    ],
)
def test_types_that_never_fit_are_refused_as_a_whole(given: pa.Array, kind: str) -> None:
    with pytest.raises(InvalidValue, match="can't be stored"):
        cast_column(given, column(kind))

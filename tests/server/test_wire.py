"""Values in JSON answers: every type, its edges, NULLs, slices; and what encoding costs."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.errors import TooLarge
from nearql.server import wire
from nearql.server.wire_values import iso_interval, json_values
from support.http_node import rows_result


def shown(array: pa.Array) -> Any:
    """The column as a client reads it."""
    text = orjson.dumps(json_values(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(text)


def text(array: pa.Array) -> str:
    """The column's JSON text."""
    return orjson.dumps(json_values(array), option=orjson.OPT_SERIALIZE_NUMPY).decode()


UTC_2026 = datetime(2026, 11, 23, 6, 15, 0, 500_000, tzinfo=UTC)
CASES: list[tuple[pa.Array, list[Any]]] = [
    (pa.array([True, None, False]), [True, None, False]),
    (pa.array([-(2**63), 2**63 - 1, None]), [-(2**63), 2**63 - 1, None]),
    (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    (pa.array([0.1, None], pa.float32()), [0.1, None]),
    (pa.array([float("nan"), float("inf"), -float("inf")], pa.float32()), [None] * 3),
    (pa.array([float("nan"), float("inf"), 0.1, None]), [None, None, 0.1, None]),
    (pa.array(["é", None, '"\\\n']), ["é", None, '"\\\n']),
    (pa.array([b"\x00\xff", None]), ["AP8=", None]),
    (pa.array([date(2026, 11, 23), None]), ["2026-11-23", None]),
    (pa.array([2**31 - 1, -(2**31 - 1)], pa.int32()).cast(pa.date32()), ["infinity", "-infinity"]),
    (pa.array([clock(6, 15), clock(6, 15, 0, 500_000), None]), ["06:15:00", "06:15:00.5", None]),
    (pa.array([UTC_2026, None], pa.timestamp("us", "UTC")), ["2026-11-23T06:15:00.5+00:00", None]),
    (pa.array([UTC_2026], pa.timestamp("us", "Europe/Zurich")), ["2026-11-23T06:15:00.5+00:00"]),
    (pa.array([UTC_2026.replace(tzinfo=None)], pa.timestamp("ms")), ["2026-11-23T06:15:00.5"]),
    (pa.array([0], pa.timestamp("s")), ["1970-01-01T00:00:00"]),
    (pa.array([1], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001"]),
    (pa.array([2**63 - 1, -(2**63 - 1)]).cast(pa.timestamp("us")), ["infinity", "-infinity"]),
    (pa.array([timedelta(seconds=90), None]), ["PT90S", None]),
    (pa.array([[1, 2], [], None]), [[1, 2], [], None]),
    (pa.array([[0.1, None]], pa.list_(pa.float32())), [[0.1, None]]),
    (pa.array([[[0.1], None], []], pa.list_(pa.list_(pa.float32()))), [[[0.1], None], []]),
    (pa.array([{"a": 1, "b": None}, None]), [{"a": 1, "b": None}, None]),
    (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"]),
    (pa.array(["v"], pa.string_view()), ["v"]),
    (pa.array([b"v"], pa.binary_view()), ["dg=="]),
    (pa.nulls(2), [None, None]),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), [{"k": 1}, None]),
    (pa.array([[(7, 1)]], pa.map_(pa.int64(), pa.int64())), [{"7": 1}]),
    (pa.array([(14, 3, 5_500_000_000), None], pa.month_day_nano_interval()),
     ["P14M3DT5.5S", None]),
]  # fmt: skip


@pytest.mark.parametrize(("array", "expected"), CASES)
def test_each_type_has_its_form(array: pa.Array, expected: list[Any]) -> None:
    assert shown(array) == expected


@pytest.mark.parametrize(("array", "expected"), CASES)
def test_slices_show_their_own_rows_only(array: pa.Array, expected: list[Any]) -> None:
    doubled = pa.concat_arrays([array, array])
    size = len(array)
    assert shown(doubled.slice(size)) == expected
    assert shown(doubled.slice(1, size)) == (expected + expected)[1 : size + 1]
    assert shown(array.slice(0, 0)) == []


def test_decimals_keep_every_digit_as_numbers() -> None:
    values = [Decimal("12.30"), None, Decimal("-0.01"), Decimal("9" * 36 + ".99")]
    array = pa.array(values, pa.decimal128(38, 2))
    assert text(array) == f"[12.30,null,-0.01,{'9' * 36}.99]"
    whole = pa.array([Decimal(2**100)], pa.decimal128(38, 0))
    assert text(whole) == f"[{2**100}]"


def test_float32_is_written_in_its_own_shortest_digits() -> None:
    assert text(pa.array([0.2134, 1e-7, 3.4e38], pa.float32())) == "[0.2134,1e-7,3.4e+38]"


def vectors(rows: list[list[float] | None], width: int) -> pa.Array:
    """A VECTOR column."""
    return pa.array(rows, pa.list_(pa.float32(), width))


def test_vectors_are_lists_and_null_vectors_null() -> None:
    array = vectors([[0.1, 2.0], None, [3.0, -4.0]], 2)
    assert shown(array) == [[0.1, 2.0], None, [3.0, -4.0]]
    assert shown(array.slice(1, 2)) == [None, [3.0, -4.0]]
    half = pa.array([[0.5, 2.0], None], pa.list_(pa.float16(), 2))
    assert shown(half) == [[0.5, 2.0], None]


def test_elements_that_are_missing_or_not_finite_are_null() -> None:
    array = pa.array([[1.0, None], [float("nan"), float("inf")]], pa.list_(pa.float32(), 2))
    assert shown(array) == [[1.0, None], [None, None]]
    names = pa.array([["a", None]], pa.list_(pa.string(), 2))
    assert shown(names) == [["a", None]]


def test_uuids_of_the_arrow_extension_are_text() -> None:
    value = UUID("6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e")
    array = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([value.bytes, None], pa.binary(16)))
    assert shown(array) == [str(value), None]


@given(st.lists(st.floats(width=32) | st.none()))
def test_any_float32_reads_back_as_itself(values: list[float | None]) -> None:
    array = pa.array(values, pa.float32())
    for value, got in zip(values, shown(array), strict=True):
        if value is None or not np.isfinite(value):
            assert got is None
        else:
            assert np.float32(got) == np.float32(value)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0, 0, 0), "PT0S"),
        ((12, 0, 0), "P12M"),
        ((-1, 2, -1), "P-1M2DT-0.000000001S"),
        ((0, 0, 3_600_000_000_000), "PT3600S"),
    ],
)
def test_intervals_are_iso_durations(parts: tuple[int, int, int], expected: str) -> None:
    assert iso_interval(*parts) == expected


def document(table: pa.Table, limit: int = 1 << 30) -> Any:
    """The whole JSON answer."""
    result = rows_result(table, *["X"] * table.num_columns)
    return orjson.loads(b"".join(wire.json_answer(result, {"node": "n1"}, limit)))


def test_an_answer_in_many_pieces_is_one_document() -> None:
    rng = np.random.default_rng(7)
    matrix = rng.standard_normal((3000, 64)).astype(np.float32)
    vec = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), 64)
    table = pa.table({"id": range(3000), "vec": vec})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 1499), table.slice(1500)])
    body = document(chunked)
    assert [row[0] for row in body["rows"]] == list(range(3000))
    got = np.array([row[1] for row in body["rows"]], dtype=np.float32)
    np.testing.assert_array_equal(got, matrix)
    assert body["row_count"] == 3000


def test_empty_answers_are_documents() -> None:
    assert document(pa.table({}))["rows"] == []
    body = document(pa.table({"a": pa.array([], pa.int64())}))
    assert (body["columns"], body["rows"]) == ([{"name": "a", "type": "X"}], [])


def test_columns_of_one_name_are_all_shown() -> None:
    table = pa.table([[1], [2]], names=["a", "a"])
    assert document(table)["rows"] == [[1, 2]]


def test_an_answer_beyond_the_byte_limit_is_refused_before_its_first_byte() -> None:
    table = pa.table({"a": ["x" * 1000] * 100})
    size = len(b",".join(wire.row_pieces(table)))
    assert len(document(table, size)["rows"]) == 100
    with pytest.raises(TooLarge, match=r"limits\.result_bytes"):
        document(table, size - 1)
    result = rows_result(table, "TEXT")
    assert wire.arrow_answer(result, {}, table.nbytes)
    with pytest.raises(TooLarge, match=r"limits\.result_bytes"):
        wire.arrow_answer(result, {}, table.nbytes - 1)


@pytest.mark.parametrize(
    ("accept", "arrow"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/vnd.apache.arrow.stream", True),
        ("application/json;q=0.5, Application/Vnd.Apache.Arrow.Stream ;q=1", True),
        ("application/vnd.apache.arrow.stream;q=0", False),
        ("application/vnd.apache.arrow.stream;q=0.0", False),
    ],
)
def test_arrow_is_for_those_who_ask_for_it(accept: str, arrow: bool) -> None:
    assert wire.wants_arrow(accept) is arrow

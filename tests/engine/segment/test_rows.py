"""The door through which rows enter: what passes is stored, what doesn't is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.segment.rows import Rows, same_type
from support.tables import SCHEMA, row, rows_of, table_of


def one_column(kind: str, **options: Any) -> TableSchema:
    key = Column(1, "id", ColumnType("BIGINT"))
    return TableSchema((key, Column(2, "x", ColumnType.parse(kind), **options)), key_number=1)


def test_rows_are_kept_by_column_number() -> None:
    rows = Rows.of(SCHEMA, rows_of([5, 6]))
    assert rows.count == 2
    assert rows.key(1).to_pylist() == [5, 6]
    assert rows.scalars.schema.names == ["1", "2"]
    assert rows.vectors[3].data.tolist() == [[5, 0, 1], [6, 0, 1]]
    assert np.allclose(rows.vectors[3].norms, [26**0.5, 37**0.5])
    assert rows.vectors[3].valid is None


def test_vectors_are_copied_because_the_log_writes_them_later() -> None:
    floats = np.array([1, 2, 3], np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(floats), 3)
    given = pa.table([pa.array([1]), pa.array(["t"]), vectors], SCHEMA.storage_schema())
    rows = Rows.of(SCHEMA, given)
    floats[:] = 9
    assert rows.vectors[3].data.tolist() == [[1, 2, 3]]


def test_a_slice_of_a_larger_array_brings_its_own_vectors() -> None:
    rows = Rows.of(SCHEMA, rows_of(range(10)).slice(4, 3))
    assert rows.vectors[3].data[:, 0].tolist() == [4, 5, 6]


def test_chunks_are_put_together() -> None:
    table = pa.concat_tables([rows_of([1, 2]), rows_of([3])])
    assert Rows.of(SCHEMA, table).vectors[3].data[:, 0].tolist() == [1, 2, 3]


def test_no_rows_are_fine() -> None:
    assert Rows.of(SCHEMA, rows_of([])).count == 0


def test_null_vectors_are_masked_and_stored_as_zeros() -> None:
    rows = Rows.of(SCHEMA, table_of([row(1), row(2) | {"vec": None}]))
    block = rows.vectors[3]
    assert block.valid is not None
    assert block.valid.tolist() == [True, False]
    assert block.data[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_vector_that_is_not_finite_is_named(bad: float) -> None:
    given = table_of([row(1), row(2) | {"vec": [1.0, bad, 2.0]}])
    with pytest.raises(InvalidValue, match=r"Row 1: element 1 .* column vec .* finite") as caught:
        Rows.of(SCHEMA, given)
    assert caught.value.extra == {"row": 1, "column": "vec"}


def test_huge_finite_vectors_are_accepted_though_their_norm_overflows() -> None:
    big = float(np.finfo(np.float32).max)
    rows = Rows.of(SCHEMA, table_of([row(1) | {"vec": [big, big, big]}]))
    assert rows.vectors[3].data[0].tolist() == [big, big, big]


def test_a_null_element_inside_a_vector_is_named() -> None:
    given = table_of([row(1) | {"vec": [1.0, None, 2.0]}])
    with pytest.raises(InvalidValue, match="Row 0: element 1 .* column vec is NULL"):
        Rows.of(SCHEMA, given)


def test_null_elements_of_a_null_vector_do_not_matter() -> None:
    items = pa.array([1.0, 2.0, 3.0, None, None, None], pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(items, 3, mask=pa.array([False, True]))
    given = pa.table([pa.array([1, 2]), pa.array(["a", "b"]), vectors], SCHEMA.storage_schema())
    valid = Rows.of(SCHEMA, given).vectors[3].valid
    assert valid is not None
    assert valid.tolist() == [True, False]


@pytest.mark.parametrize(("column", "what"), [("id", "primary key"), ("x", "NOT NULL")])
def test_null_where_none_may_be_is_named(column: str, what: str) -> None:
    schema = one_column("TEXT", not_null=True)
    values: dict[str, Any] = {"id": [1, 2], "x": ["a", "b"]}
    values[column][1] = None
    given = pa.table(values, pa.schema([("id", pa.int64()), ("x", pa.string())]))
    with pytest.raises(InvalidValue, match=f"Row 1: column {column} is .*{what}") as caught:
        Rows.of(schema, given)
    assert caught.value.code == "not_null_violation"
    assert caught.value.extra == {"row": 1, "column": column}


def test_wrong_columns_are_named() -> None:
    with pytest.raises(InvalidValue, match="exactly the columns id, title, vec; given id, title"):
        Rows.of(SCHEMA, rows_of([1]).select(["id", "title"]))


def test_a_wrong_type_is_named() -> None:
    given = rows_of([1]).set_column(0, "id", pa.array([1], pa.int32()))
    with pytest.raises(InvalidValue, match="Column id is BIGINT: rows must bring int64, not int32"):
        Rows.of(SCHEMA, given)


def test_a_wrong_dimension_is_a_wrong_type() -> None:
    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
    with pytest.raises(InvalidValue, match=r"Column vec is VECTOR\(3\)"):
        Rows.of(SCHEMA, rows_of([1]).set_column(2, "vec", vectors))


def test_text_that_is_not_utf8_is_refused() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    with pytest.raises(InvalidValue, match="not valid Arrow data"):
        Rows.of(SCHEMA, rows_of([1]).set_column(1, "title", broken))


def test_uuids_get_one_spelling() -> None:
    spellings = ["{0F0E0D0C-0B0A-0908-0706-050403020100}", "0f0e0d0c0b0a09080706050403020100", None]
    given = pa.table({"id": [1, 2, 3], "x": pa.array(spellings, pa.string())})
    rows = Rows.of(one_column("UUID"), given)
    canonical = "0f0e0d0c-0b0a-0908-0706-050403020100"
    assert rows.scalars.column("2").to_pylist() == [canonical, canonical, None]


def test_what_is_no_uuid_is_named() -> None:
    given = pa.table({"id": [1], "x": ["zzz"]})
    with pytest.raises(InvalidValue, match="Row 0: 'zzz' in column x is no UUID"):
        Rows.of(one_column("UUID"), given)


def test_half_vectors_stay_half() -> None:
    schema = one_column("HALFVEC(2)")
    rows = Rows.of(schema, table_of([{"id": 1, "x": [1.5, 2.5]}], schema))
    assert rows.vectors[2].data.dtype == np.float16
    assert rows.vectors[2].data.tolist() == [[1.5, 2.5]]


def test_list_items_may_have_any_name() -> None:
    schema = one_column("BIGINT[]")
    lists = pa.array([[1, 2]], pa.list_(pa.field("element", pa.int64())))
    rows = Rows.of(schema, pa.table({"id": [1], "x": lists}))
    assert rows.scalars.column("2").type == pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("given", "stored", "same"),
    [
        (pa.int64(), pa.int64(), True),
        (pa.int32(), pa.int64(), False),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 3), True),
        (pa.list_(pa.float32(), 2), pa.list_(pa.float32(), 3), False),
        (pa.list_(pa.float32()), pa.list_(pa.float32(), 3), False),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), False),
    ],
)
def test_same_type(given: pa.DataType, stored: pa.DataType, same: bool) -> None:
    assert same_type(given, stored) is same


def test_take_and_slice() -> None:
    rows = Rows.of(SCHEMA, table_of([row(1), row(2) | {"vec": None}, row(3)]))
    taken = rows.take(np.array([2, 1]))
    assert taken.key(1).to_pylist() == [3, 2]
    assert taken.vectors[3].valid is not None
    assert taken.vectors[3].valid.tolist() == [True, False]
    part = rows.slice(1, 3)
    assert part.count == 2
    assert part.key(1).to_pylist() == [2, 3]
    assert part.vectors[3].data[:, 0].tolist() == [0, 3]

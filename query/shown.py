"""Vectors in answers: DuckDB says FLOAT[n], FLOAT[] or BIT; people asked for VECTOR(n), HALFVEC(n),
BIT(n).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from nearql.engine.schema import ColumnType
from nearql.query.binder import Binding, from_items, unwrapped
from nearql.query.result import ResultColumn
from nearql.query.rules.vector_arithmetic import is_vector

VECTOR = "VECTOR"  # a vector whose number of dimensions only the answer tells


def vector_outputs(select: exp.Select | None, binding: Binding) -> dict[int, str]:
    """Which columns of the answer are vectors, by place, and the type to show for them."""
    found: dict[int, str] = {}
    place = 0
    for item in select.expressions if select is not None else []:
        if item.is_star:
            types = _star(item, select, binding)
            if types is None:
                return {}  # where the later columns stand isn't known
        else:
            types = [_type(item, binding)]
        found |= {place + at: one for at, one in enumerate(types) if one is not None}
        place += len(types)
    return found


def _type(item: exp.Expr, binding: Binding) -> str | None:
    column = binding.column(unwrapped(item))
    if column is not None:
        return _display(column[1].type)
    return VECTOR if is_vector(item, binding) else None


def _star(item: exp.Expr, select: exp.Select | None, binding: Binding) -> list[str | None] | None:
    """The columns that a star stands for; None where that can't be told."""
    star = item.this if isinstance(item, exp.Column) else item
    if select is None or any(star.args.get(key) for key in ("except_", "replace", "rename")):
        return None
    wanted = item.table.lower() if isinstance(item, exp.Column) else ""
    items = from_items(select)
    if not wanted and len(items) > 1:
        return None  # USING and NATURAL merge columns
    for one in items:
        source = binding.source_of(one)
        if source is not None and not source.opaque and wanted in ("", one.alias_or_name.lower()):
            columns = [column.type for column in source.table.schema.visible]
            return [_display(kind) for kind in columns]
    return None


def _display(kind: ColumnType) -> str | None:
    """The type of a vector or bit string, which DuckDB's doesn't tell."""
    return kind.display if kind.is_vector or kind.bits is not None else None


def show_vectors(
    columns: tuple[ResultColumn, ...], table: pa.Table, vectors: Mapping[int, str]
) -> tuple[tuple[ResultColumn, ...], pa.Table]:
    """The answer with vectors under their own types, fixed-size lists where they have one size."""
    shown = list(columns)
    for place, kind in vectors.items():
        array = table.column(place)
        if kind != VECTOR:
            shown[place] = ResultColumn(columns[place].name, kind)
        elif (size := _one_size(array)) is not None:
            table = table.set_column(place, table.field(place).name, _fixed(array, size))
            shown[place] = ResultColumn(columns[place].name, f"VECTOR({size})")
    for place, column in enumerate(shown):
        if column.type == "BIT" and (size := _one_length(table.column(place))) is not None:
            shown[place] = ResultColumn(column.name, f"BIT({size})")
    return tuple(shown), table


def _one_length(texts: pa.ChunkedArray) -> int | None:
    lengths = pc.unique(pc.binary_length(texts.drop_null()))
    return lengths[0].as_py() if len(lengths) == 1 else None


def _one_size(array: pa.ChunkedArray) -> int | None:
    if not pa.types.is_list(array.type) or array.type.value_type != pa.float32():
        return None
    lengths = pc.unique(pc.list_value_length(array.drop_null()))
    return lengths[0].as_py() or None if len(lengths) == 1 else None


def _fixed(array: pa.ChunkedArray, size: int) -> pa.Array:
    valid = array.is_valid().to_numpy()
    flat = array.drop_null().combine_chunks().flatten()
    if valid.all():
        return pa.FixedSizeListArray.from_arrays(flat, size)
    filled = np.zeros((len(array), size), np.float32)
    filled[valid] = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
    values = pa.array(filled.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(~valid))

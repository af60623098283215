"""What searches find, and relations' rows, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.types import ROW_COLUMN, SearchHits, SearchStats
from nearql.query.plan import Relation

Vector = NDArray[np.float32]
_NOTHING = SearchStats("exact", "none")


def nothing() -> SearchHits:
    """What a search for no row, or to a NULL vector, finds."""
    return SearchHits(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32), _NOTHING)


def found_rows(hits: SearchHits) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row numbers and distances of the first query, without the empty places."""
    rows, distances = hits.rows[0], hits.distances[0]
    found = rows >= 0
    return (rows, distances) if found.all() else (rows[found], distances[found])


def dense(column: pa.ChunkedArray, dimensions: int) -> tuple[Vector, NDArray[np.bool_] | None]:
    """Vectors as float32 (n, d), and which are not NULL (None = all)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not array.null_count:
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), dimensions), None
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    filled = np.zeros((len(array), dimensions), np.float32)
    filled[valid] = (
        array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dimensions)
    )
    return filled, valid


def renamed(table: pa.Table, step: Relation) -> pa.Table:
    """With the plan's names for the row number and the key, and nothing that it doesn't name."""
    arrays: dict[str, Any] = {name: table.column(name) for name in step.columns}
    if step.row:
        arrays[step.row] = table.column(ROW_COLUMN)
    if step.key:
        arrays[step.key] = table.column(step.table.schema.key.name)
    for name in [one.name for one in step.distances] + [one.name for one in step.texts]:
        arrays[name] = table.column(name)
    if not arrays:
        arrays[ROW_COLUMN] = table.column(ROW_COLUMN)
    return pa.Table.from_arrays(list(arrays.values()), names=list(arrays))

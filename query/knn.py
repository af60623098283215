"""The batched kNN join: nearest rows of one table to every row of another, widened until enough
satisfy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.errors import InvalidValue, TooLarge
from nearql.engine.types import RowSet, SearchRequest
from nearql.query.plan import KnnJoin, Relation

if TYPE_CHECKING:
    from nearql.query.executor import Execution

_EXTRA = 8  # rows fetched beyond k at first, where conditions may drop some
_WIDEN = 4  # how many times more are fetched when too few satisfied them


def knn_rows(run: Execution, step: Relation, access: KnnJoin) -> pa.Table:
    """The relation of a kNN join: per left row its nearest rows, with `left_name` and the distance.

    Raises:
        InvalidValue: left vectors of another dimension. TooLarge: more rows than `join_rows`.
    """
    lefts, vectors = _left(run, step, access)
    count = run.count(access.limit, access.offset)
    rows = run.filter(step, access.filter)
    if access.survivors is None or not len(lefts) or not count:
        return _table(run, step, access, _search(run, step, access, lefts, vectors, count, rows))
    return _widened(run, step, access, lefts, vectors, count, rows)


Found = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]
]  # left ids, rows, distances


def _left(
    run: Execution, step: Relation, access: KnnJoin
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and vectors of the left rows that have one."""
    table = run.query(access.left).table
    ids, column = table.column(0), table.column(1)
    valid = column.is_valid()
    ids, column = ids.filter(valid), column.filter(valid)
    dimensions = step.table.schema.column(access.column).type.dimensions or 0
    lengths = np.asarray(pa.compute.list_value_length(column).to_numpy())
    wrong = lengths[lengths != dimensions]
    if len(wrong):
        raise InvalidValue(
            f"The left side of the join has vectors of {wrong[0]} dimensions; "
            f"{step.table.name}.{access.column} has {dimensions}.",
            code="wrong_dimensions", expected=dimensions, got=int(wrong[0]),
        )  # fmt: skip
    flat = column.combine_chunks().flatten() if len(column) else pa.array([], pa.float32())
    vectors = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False), np.float32)
    return ids.to_numpy(), vectors.reshape(len(ids), dimensions)


def _search(
    run: Execution, step: Relation, access: KnnJoin, lefts: NDArray[np.int64],
    vectors: NDArray[np.float32], count: int, rows: RowSet | None,
) -> Found:  # fmt: skip
    view = run.view(step.table)
    count = min(count, view.row_count)
    if not len(lefts) or not count:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    if len(lefts) * count > run.settings.join_rows:
        raise TooLarge(
            f"The kNN join would find {len(lefts)} * {count} rows; at most "
            f"{run.settings.join_rows} are allowed (join_rows). Restrict the left side or lower "
            "LIMIT.",
            code="join_too_large", setting="join_rows",
        )  # fmt: skip
    hits = view.search(SearchRequest(access.column, access.metric, vectors, count, rows))
    run.trace.searches[step.name] = hits.stats
    found = hits.rows >= 0
    return np.repeat(lefts, found.sum(axis=1)), hits.rows[found], hits.distances[found]


def _table(run: Execution, step: Relation, access: KnnJoin, found: Found) -> pa.Table:
    lefts, rows, distances = found
    table = run.rows_table(step, rows, {})
    table = table.append_column(access.name, pa.array(distances, pa.float32()))
    return table.append_column(access.left_name, pa.array(lefts, pa.int64()))


def _widened(
    run: Execution, step: Relation, access: KnnJoin, lefts: NDArray[np.int64],
    vectors: NDArray[np.float32], count: int, rows: RowSet | None,
) -> pa.Table:  # fmt: skip
    """Fetch more rows for the left rows that have too few satisfying ones, until none has."""
    assert access.survivors is not None
    eligible = run.view(step.table).row_count if rows is None else rows.count
    fetched = min(count + _EXTRA, eligible)
    kept: list[Found] = []
    while True:
        found = _search(run, step, access, lefts, vectors, fetched, rows)
        short = (
            _short(run, step, access, found, count) if fetched < eligible else np.empty(0, np.int64)
        )
        more = np.isin(lefts, short)
        done = ~np.isin(found[0], short)
        kept.append((found[0][done], found[1][done], found[2][done]))
        if not more.any():
            return _table(run, step, access, _concatenated(kept))
        lefts, vectors = lefts[more], vectors[more]
        fetched = min(fetched * _WIDEN, eligible)


def _concatenated(parts: list[Found]) -> Found:
    lefts, rows, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    return lefts, rows, distances


def _short(
    run: Execution, step: Relation, access: KnnJoin, found: Found, count: int
) -> NDArray[np.int64]:
    """Left rows with fewer than `count` satisfying rows among those found."""
    assert access.survivors is not None
    run.cursor.register(step.name, _table(run, step, access, found))
    answer = run.query(access.survivors).table
    enough = answer.column(0).to_numpy()[answer.column(1).to_numpy() >= count]
    return np.setdiff1d(np.unique(found[0]), enough)

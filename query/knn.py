"""The batched kNN join: the nearest rows of one table to every row of another.

Where further conditions name both sides, rows are fetched until enough satisfy them for each left
row: more, and only for the left rows that have too few, until they do or there are no more rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nearql.engine.errors import InvalidValue, TooLarge
from nearql.engine.types import Patience, RowSet, SearchRequest
from nearql.query.plan import KnnJoin, Relation

if TYPE_CHECKING:
    from nearql.query.executor import Execution

_EXTRA = 8  # rows fetched beyond k at first, where conditions may drop some
_WIDEN = 4  # how many times more are fetched when too few satisfied them
_BATCH = 1 << 14  # left rows per search; more would save nothing


@dataclass(frozen=True)
class _Left:
    """Left rows that have a vector. ids: int64 (n,); vectors: float32 (n, d)."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def only(self, chosen: NDArray[np.bool_]) -> _Left:
        """Those chosen."""
        return _Left(self.ids[chosen], self.vectors[chosen])

    def slice(self, start: int, end: int) -> _Left:
        """Those from `start` to before `end`."""
        return _Left(self.ids[start:end], self.vectors[start:end])


@dataclass(frozen=True)
class _Found:
    """Pairs: left ids, row numbers of the table, distances; nearest first for each left row."""

    lefts: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]

    def only(self, chosen: NDArray[np.bool_]) -> _Found:
        """Those chosen."""
        return _Found(self.lefts[chosen], self.rows[chosen], self.distances[chosen])


_NONE = _Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def knn_rows(run: Execution, step: Relation, access: KnnJoin) -> pa.Table:
    """The relation of a kNN join: per left row its nearest rows, with `left_name` and the distance.

    Raises:
        InvalidValue: left vectors of another dimension. TooLarge: more rows than `join_rows`.
    """
    join = _KnnJoin(run, step, access)
    return join.table(join.found())


class _KnnJoin:
    """One join of one run."""

    def __init__(self, run: Execution, step: Relation, access: KnnJoin) -> None:
        self.run = run
        self.step = step
        self.access = access
        self.view = run.view(step.table)
        self.count = run.count(access.limit, access.offset)
        self.filter: RowSet | None = run.filter(step, access.filter)

    def found(self) -> _Found:
        """The pairs that the statement needs, or more."""
        left = self._left()
        if not len(left.ids) or not self.count:
            return _NONE
        if self.access.survivors is None:
            return self._search(left, self.count)
        return self._widened(left)

    def table(self, found: _Found) -> pa.Table:
        """The pairs as the relation."""
        table = self.run.rows_table(self.step, found.rows, {})
        table = table.append_column(self.access.name, pa.array(found.distances, pa.float32()))
        return table.append_column(self.access.left_name, pa.array(found.lefts, pa.int64()))

    def _left(self) -> _Left:
        table = self.run.query(self.access.left).table
        valid = table.column(1).is_valid()
        ids, column = table.column(0).filter(valid), table.column(1).filter(valid)
        dimensions = self.step.table.schema.column(self.access.column).type.dimensions or 0
        lengths = pc.list_value_length(column).to_numpy()
        wrong = lengths[lengths != dimensions]
        if len(wrong):
            raise InvalidValue(
                f"The left side of the join has vectors of {wrong[0]} dimensions; "
                f"{self.step.table.name}.{self.access.column} has {dimensions}.",
                code="wrong_dimensions", expected=dimensions, got=int(wrong[0]),
            )  # fmt: skip
        flat = column.combine_chunks().flatten() if len(column) else pa.array([], pa.float32())
        vectors = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False), np.float32)
        return _Left(ids.to_numpy(), vectors.reshape(len(ids), dimensions))

    def _search(self, left: _Left, count: int) -> _Found:
        count = min(count, self.view.row_count)
        if not count:
            return _NONE
        limit = self.run.settings.join_rows
        if len(left.ids) * count > limit:
            raise TooLarge(
                f"The kNN join would find {len(left.ids)} * {count} rows; at most {limit} are "
                "allowed (join_rows). Restrict the left side or lower LIMIT.",
                code="join_too_large", setting="join_rows",
            )  # fmt: skip
        starts = range(0, len(left.ids), _BATCH)
        return _together([self._batch(left.slice(at, at + _BATCH), count) for at in starts])

    def _batch(self, left: _Left, count: int) -> _Found:
        self.run.check_time()
        access = self.access
        request = SearchRequest(
            access.column, access.metric, left.vectors, count, self.filter,
            patience=Patience(0, self.run.check_time), tuning=self.run.tuning(),
        )  # fmt: skip
        hits = self.run.search(self.step.name, self.view, request)
        self.run.trace.add_search(self.step.name, hits.stats)
        found = hits.rows >= 0
        lefts = np.repeat(left.ids, found.sum(axis=1))
        return _Found(lefts, hits.rows[found], hits.distances[found])

    def _widened(self, left: _Left) -> _Found:
        eligible = self.view.row_count if self.filter is None else self.filter.count
        fetched = min(self.count + _EXTRA, eligible)
        kept: list[_Found] = []
        while True:
            found = self._search(left, fetched)
            short = self._short(found) if fetched < eligible else np.empty(0, np.int64)
            kept.append(found.only(~np.isin(found.lefts, short)))
            if not len(short):
                return _together(kept)
            left = left.only(np.isin(left.ids, short))
            fetched = min(fetched * _WIDEN, eligible)

    def _short(self, found: _Found) -> NDArray[np.int64]:
        """Left rows of which fewer than `count` pairs satisfy the conditions."""
        assert self.access.survivors is not None
        self.run.cursor.register(self.step.name, self.table(found))
        answer = self.run.query(self.access.survivors).table
        enough = answer.column(0).to_numpy()[answer.column(1).to_numpy() >= self.count]
        return np.setdiff1d(np.unique(found.lefts), enough)


def _together(parts: list[_Found]) -> _Found:
    return _Found(
        np.concatenate([part.lefts for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )

"""Relations that a function over a whole table makes: `kmeans(...)` and `mmr(...)` in FROM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nearql.engine.diversity import diversified
from nearql.engine.errors import InvalidValue, TooLarge
from nearql.engine.kmeans import kmeans
from nearql.engine.types import ROW_COLUMN, Metric, Patience, SearchRequest
from nearql.query.found import dense, found_rows
from nearql.query.guard import placed
from nearql.query.plan import Made, Relation, Value

if TYPE_CHECKING:
    from nearql.query.executor import Execution

LEAST_FETCHED = 50  # rows from which mmr() chooses, if nothing else is said ...
FETCHED_PER_ROW = 4  # ... and for each that it chooses
BALANCE = 0.5


def made_rows(run: Execution, step: Relation, access: Made) -> pa.Table:
    """The rows that the function gives, with its own two columns.

    Raises:
        InvalidValue, TooLarge: a count or a balance that can't be.
    """
    if access.function == "kmeans":
        return _clusters(run, step, access)
    return _diverse(run, step, access)


def _with(
    run: Execution, step: Relation, access: Made, rows: NDArray[np.int64],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> pa.Table:  # fmt: skip
    table = run.rows_table(step, rows, {})
    for name, values in zip(access.names, columns, strict=True):
        table = table.append_column(name, pa.array(values))
    return table


def _clusters(run: Execution, step: Relation, access: Made) -> pa.Table:
    key = step.table.schema.key.name
    k = run.count(access.count, None)
    table = run.view(step.table).scan([key, access.column])
    _check_size(run, step, access, table.num_rows)
    rows = table.column(ROW_COLUMN).to_numpy()
    vectors, able = dense(table.column(access.column), _dimensions(step, access))
    order = pc.sort_indices(table.column(key)).to_numpy()  # whatever was moved, the same clusters
    if able is not None:
        order = order[able[order]]
    if access.metric is Metric.COSINE:
        order = order[(vectors != 0).any(axis=1)[order]]  # a zero vector has no direction
    order = order if k else order[:0]
    rows, vectors = rows[order], vectors[order]
    found = kmeans(vectors, max(k, 1), access.metric, run.check_time)
    return _with(run, step, access, rows, (found.number, found.distances))


def _check_size(run: Execution, step: Relation, access: Made, rows: int) -> None:
    """The vectors are copied, sorted by key."""
    size, most = rows * _dimensions(step, access) * 4, run.settings.result_bytes
    if size > most:
        raise TooLarge(
            f"kmeans() works on a copy of {step.table.name}.{access.column}, {size} bytes; at most "
            f"{most} are allowed (result_bytes). Cluster a table of some of the rows.",
            code="result_too_large", setting="result_bytes",
        )  # fmt: skip


def _diverse(run: Execution, step: Relation, access: Made) -> pa.Table:
    assert access.query is not None
    query = run.vector(access.query)
    count = run.count(access.count, None)
    balance = _balance(run, access.balance)
    fetched = max(count, _fetched(run, access, count))
    if query is None or not count:
        nothing = np.empty(0, np.int64)
        return _with(run, step, access, nothing, (nothing, np.empty(0, np.float32)))
    request = SearchRequest(
        access.column, access.metric, query[np.newaxis], fetched,
        patience=Patience(0, run.check_time), tuning=run.tuning(),
    )  # fmt: skip
    hits = run.search(step.name, run.view(step.table), request)
    run.trace.add_search(step.name, hits.stats)
    rows, distances = found_rows(hits)
    column = run.view(step.table).take([access.column], rows).column(0)
    vectors, _ = dense(column, _dimensions(step, access))
    chosen = diversified(
        vectors, distances, access.metric, count=count, balance=balance, check=run.check_time
    )
    ranks = np.arange(1, len(chosen) + 1)
    return _with(run, step, access, rows[chosen], (ranks, distances[chosen]))


def _dimensions(step: Relation, access: Made) -> int:
    return step.table.schema.column(access.column).type.dimensions or 0


def _fetched(run: Execution, access: Made, count: int) -> int:
    if access.fetch is not None:
        return run.count(access.fetch, None)
    most = run.settings.max_limit
    return min(most, max(LEAST_FETCHED, FETCHED_PER_ROW * count))


def _balance(run: Execution, value: Value | None) -> float:
    if value is None:
        return BALANCE
    with placed(value.position):
        number = run.number(value)
        if number is None or not 0 <= number <= 1:
            raise InvalidValue(
                f"{value.where} must be a number from 0 to 1, not "
                f"{'NULL' if number is None else f'{number:g}'}.",
                sqlstate="22023",
            )
        return number

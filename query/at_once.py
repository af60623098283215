"""The hot path: one search for plain columns is answered from the arrays, without DuckDB.

Several of them that differ in their query vectors alone (`repeats`) are one look-up of columns, and
one answer each:

    given     q1         q2         q3
    hits      (3, k) rows and distances, -1 where a query has fewer than k
    taken     columns of all found rows, one after the other
    answers   slices of them
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.query.plan import Nearest, Output, Plan, Relation
from nearql.query.ports import TableView
from nearql.query.result import Result, ResultColumn

if TYPE_CHECKING:
    from nearql.query.executor import Execution
    from nearql.query.plan_cache import Prepared

Vector = NDArray[np.float32]
_SCALARS = (str, int, float, bool, type(None))


def run_direct(run: Execution, plan: Plan) -> Result:
    """The answer of a plan whose `direct` says that it is one search for plain columns."""
    step, access = search_of(plan)
    hits = run.timed("search", lambda: run.hits(step, access))
    run.trace.add_search(step.name, hits.stats)
    skipped = run.count(access.offset, None) if access.offset else 0
    return _shown(run, plan, hits.rows[:, skipped:], hits.distances[:, skipped:])[0]


def shared_key(prepared: Prepared, params: Any) -> Hashable | None:
    """Equal for requests of a known search whose query vectors alone differ, and no filter asks for
    these; None where that can't be said.
    """
    kept = prepared.plans.get((0, "select"))
    if kept is None:
        return None
    access = search_of(kept[1])[1]
    if access.distance.query.bits is not None:
        return None  # a bit string isn't read as a vector
    name = access.distance.query.parameter
    if access.filter is not None and name in access.filter.parameters:
        return None
    given = params if isinstance(params, dict) else dict(enumerate(params or (), 1))
    others = [(key, value) for key, value in given.items() if str(key).lstrip(":$") != name]
    if name is None or not all(isinstance(value, _SCALARS) for _, value in others):
        return None
    return tuple((key, repr(value)) for key, value in others)  # tells 1 from true, 0.0 from -0.0


def has_constant_size(plan: Plan) -> bool:
    """Whether neither a parameter nor a sub-query changes how much a direct search is to do."""
    step = plan.query.steps[0]
    if not isinstance(step, Relation) or not isinstance(step.access, Nearest):
        return False
    access = step.access
    sizes = [access.limit, *([access.offset] if access.offset else [])]
    return access.distance.query.query is None and all(size.literal is not None for size in sizes)


def search_of(plan: Plan) -> tuple[Relation, Nearest]:
    """The search of a direct plan, and the relation that it makes."""
    step = plan.query.steps[0]
    assert isinstance(step, Relation)
    assert isinstance(step.access, Nearest)
    return step, step.access


def _shown(run: Execution, plan: Plan, rows: NDArray[np.int64], distances: Vector) -> list[Result]:
    step = search_of(plan)[0]
    outputs = plan.direct or ()
    run.trace.rows[step.name] = int(np.count_nonzero(rows >= 0))
    return shown(run.view(step.table), outputs, columns_of(step, outputs), rows, distances)


def shown(
    view: TableView,
    outputs: Sequence[Output],
    columns: tuple[ResultColumn, ...],
    rows: NDArray[np.int64],
    distances: Vector,
) -> list[Result]:
    """One answer for each row of `rows`, (nq, k), without its empty places.

    columns: from `columns_of`. distances: float32, (nq, k).
    """
    found = rows >= 0
    ends = [0, *np.cumsum(found.sum(axis=1)).tolist()]
    rows, distances = rows[found], distances[found]
    names = [output.column for output in outputs if output.column is not None]
    taken = iter(view.take(names, rows).columns)
    arrays = [
        pa.array(shown_distances(distances, o)) if o.column is None else next(taken)
        for o in outputs
    ]
    table = pa.Table.from_arrays(arrays, names=[column.name for column in columns])
    return [
        Result(columns, table.slice(start, end - start), end - start, "select")
        for start, end in zip(ends, ends[1:], strict=False)
    ]


def columns_of(step: Relation, outputs: Sequence[Output]) -> tuple[ResultColumn, ...]:
    """Names and types of the answer's columns."""
    return tuple(
        ResultColumn(o.name, "FLOAT" if o.column is None else _display(step, o.column))
        for o in outputs
    )


def shown_distances(distances: Vector, output: Output) -> Vector:
    """The distances, or what they are subtracted from less them, in float32 as DuckDB does it."""
    return distances if output.minuend is None else np.float32(output.minuend) - distances


def _display(step: Relation, name: str) -> str:
    return step.table.schema.column(name).type.display

"""Distances between a table's vector column and a constant, wherever they stand: a column of the
scan.

In a SELECT that groups, a distance outside WHERE and aggregate calls would have to be a grouping
key under its new name, so it calls the canonical function instead; the value is the same.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.engine.errors import SqlError
from nearql.query.binder import Binding, own_nodes, unwrapped
from nearql.query.dialect import distance_of
from nearql.query.rules.common import (
    aggregates,
    distance_column,
    is_aggregate,
    put_column,
    searchable,
)


def computed_distances(select: exp.Select, binding: Binding) -> None:
    """Replace every distance that can be a column of its source."""
    for node in own_nodes(select):
        _check_operands(node, binding)
    if any(isinstance(node, exp.Columns) for node in own_nodes(select)):
        return
    grouped = aggregates(select, binding)
    for node in [one for one in own_nodes(select) if distance_of(one)]:
        if grouped and not _before_grouping(node, select, binding):
            continue
        found = searchable(node, binding)
        if found is not None and not found.source.opaque and _is_own(found.source, select, binding):
            distance = distance_column(found, binding)
            put_column(node, found.source.refer(distance.name))


def _check_operands(node: exp.Expr, binding: Binding) -> None:
    """A distance takes vectors; a table's column of another type is told by name.

    Raises:
        SqlError: code `wrong_type`, with the column's position.
    """
    for side in (distance_of(node) or ())[1:]:
        found = binding.column(side) if isinstance(side, exp.Expr) else None
        if found is None or found[1].type.is_vector or found[1].type.name.endswith("[]"):
            continue
        source, column = found
        start = unwrapped(side).this.meta.get("start")
        raise SqlError(
            f"Column {column.name!r} of {source.table.name!r} is {column.type.display}; "
            "a distance needs vectors.",
            code="wrong_type", sqlstate="42804", position=None if start is None else start + 1,
        )  # fmt: skip


def _is_own(source: object, select: exp.Select, binding: Binding) -> bool:
    return any(entry.source is source for entry in binding.entries(select).values())


def _before_grouping(node: exp.Expr, select: exp.Select, binding: Binding) -> bool:
    parent = node.parent
    while parent is not None and parent is not select:
        if isinstance(parent, exp.Where | exp.Join) or is_aggregate(parent, binding):
            return True
        parent = parent.parent
    return False

"""`WHERE vec <-> :q < r`, alone or with more conditions: the table becomes its rows within the
radius.

The condition stays in the statement over those rows, so that the comparison itself is DuckDB's, to
the last bit. It drops the NULLs of outer joins, so the rule is right whatever else the FROM clause
joins.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingWithin, enclosing, own_nodes
from nearql.query.rules.common import (
    Found,
    conjuncts,
    distance_column,
    pending_value,
    replace_distances,
    searchable,
)
from nearql.query.trees import nodes_of


def range_search(select: exp.Select, binding: Binding) -> None:
    """Restrict tables to the rows within a radius."""
    where = select.args.get("where")
    for condition in conjuncts(where.this if where else None):
        bound = upper_bound(condition, binding) or _between(condition, binding)
        if bound is None or not _applies(select, bound[0], binding):
            continue
        found, radius = bound
        distance = distance_column(found, binding)
        found.source.access = PendingWithin(distance, pending_value(radius, "the radius"))
        if not _is_grouped(select):
            replace_distances(own_nodes(select), distance, binding)
        else:
            replace_distances(nodes_of(condition), distance, binding)


def upper_bound(condition: exp.Expr, binding: Binding) -> tuple[Found, exp.Expr] | None:
    """(distance, radius) where the condition is `distance < constant`, in any spelling."""
    if isinstance(condition, exp.LT | exp.LTE):
        distance, radius = condition.this, condition.expression
    elif isinstance(condition, exp.GT | exp.GTE):
        distance, radius = condition.expression, condition.this
    else:
        return None
    found = searchable(distance, binding)
    return (found, radius) if found and binding.is_constant(radius) else None


def _between(condition: exp.Expr, binding: Binding) -> tuple[Found, exp.Expr] | None:
    """The same for `distance BETWEEN constant AND constant`, whose upper end is the radius."""
    if not isinstance(condition, exp.Between) or condition.args.get("symmetric"):
        return None
    found, radius = searchable(condition.this, binding), condition.args["high"]
    return (found, radius) if found and binding.is_constant(radius) else None


def _applies(select: exp.Select, found: Found, binding: Binding) -> bool:
    source = found.source
    return (
        source.is_free
        and not source.opaque
        and any(entry.source is source for entry in binding.entries(select).values())
        and not any(select is outer for outer in list(enclosing(select))[1:])
    )


def _is_grouped(select: exp.Select) -> bool:
    return bool(select.args.get("group") or select.args.get("having"))

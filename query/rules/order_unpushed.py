"""`ORDER BY distance LIMIT k` that runs in DuckDB: the same rows as a search would give.

Rows with a NULL vector are left out, and ties break by the primary key.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingKnnJoin, PendingNearest, Source, own_nodes
from nearql.query.rules.common import (
    aggregates,
    conjuncts,
    distance_in,
    distance_to,
    set_where,
    sort_key,
)


def order_unpushed(select: exp.Select, binding: Binding) -> None:
    """Leave out NULL distances and add the key as last sort key."""
    key = sort_key(select)
    if key is None or not select.args.get("limit") or aggregates(select, binding):
        return
    distance = distance_in(key[0])
    if distance is None or select.args.get("sample"):
        return
    found = distance_to(distance, binding)
    if found is not None and isinstance(found.source.access, PendingNearest | PendingKnnJoin):
        return
    _leave_out_nulls(select, distance)
    helpers = not any(isinstance(node, exp.Columns) for node in own_nodes(select))
    if (
        found is not None
        and not found.source.opaque
        and helpers
        and not select.args.get("distinct")
    ):
        _append_key(select, found.source)


def _leave_out_nulls(select: exp.Select, distance: exp.Expr) -> None:
    """By WHERE; where a window function must see every row first, by QUALIFY."""
    present = exp.Not(this=exp.Is(this=exp.paren(distance.copy()), expression=exp.Null()))
    if any(isinstance(node, exp.Window) for node in own_nodes(select)):
        qualify = select.args.get("qualify")
        condition = exp.and_(qualify.this, present, copy=False) if qualify else present
        select.set("qualify", exp.Qualify(this=condition))
        return
    where = select.args.get("where")
    set_where(select, [*conjuncts(where.this if where else None), present])


def _append_key(select: exp.Select, source: Source) -> None:
    select.args["order"].append(
        "expressions", exp.Ordered(this=source.key_reference(), nulls_first=False)
    )

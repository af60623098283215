"""`ORDER BY distance LIMIT k` that runs in DuckDB: the same rows as a search would give.

Rows with a NULL vector are left out, and ties break by the primary key.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingKnnJoin, PendingNearest, Source, own_nodes
from nearql.query.dialect import bit_distance_of, to_nearql
from nearql.query.rules.common import (
    aggregates,
    conjunction,
    conjuncts,
    distance_in,
    distance_to,
    nulls_first,
    set_where,
    sort_key,
)
from nearql.query.trees import all_of, copy_of


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
    if bit_distance_of(distance):
        binding.note(f"{to_nearql(distance)[:80]}: bit strings, computed exactly for every row")
    if not nulls_first(select):
        _leave_out_nulls(select, distance)
    helpers = not any(isinstance(node, exp.Columns) for node in own_nodes(select))
    source = _measured(distance, select, binding) if found is None else found.source
    if source is not None and not source.opaque and helpers and not select.args.get("distinct"):
        _append_key(select, source)


def _measured(distance: exp.Expr, select: exp.Select, binding: Binding) -> Source | None:
    """The one table of this FROM clause that a distance of expressions is about, as in `bits <~>
    B'101'`.
    """
    own = [entry.source for entry in binding.entries(select).values() if entry.source is not None]
    found = [binding.column(node) for node in all_of(distance, exp.Column)]
    about = [one for one in own if any(each is not None and each[0] is one for each in found)]
    return about[0] if len(about) == 1 and None not in found else None


def _leave_out_nulls(select: exp.Select, distance: exp.Expr) -> None:
    """By WHERE; where a window function must see every row first, by QUALIFY."""
    present = exp.Not(
        this=exp.Is(this=exp.paren(copy_of(distance), copy=False), expression=exp.Null())
    )
    if any(isinstance(node, exp.Window) for node in own_nodes(select)):
        qualify = select.args.get("qualify")
        condition = conjunction([qualify.this, present] if qualify else [present])
        select.set("qualify", exp.Qualify(this=condition))
        return
    where = select.args.get("where")
    set_where(select, [*conjuncts(where.this if where else None), present])


def _append_key(select: exp.Select, source: Source) -> None:
    select.args["order"].append(
        "expressions", exp.Ordered(this=source.key_reference(), nulls_first=False)
    )

"""`ORDER BY distance LIMIT k` that runs in DuckDB: the same rows as a search would give.

Rows with a NULL vector are left out, and ties break by the primary key.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingKnnJoin, PendingNearest, Source
from nearql.query.rules.common import (
    conjuncts,
    distance_in,
    distance_to,
    row_obstacle,
    set_where,
    sort_key,
)


def order_unpushed(select: exp.Select, binding: Binding) -> None:
    """Leave out NULL distances and add the key as last sort key."""
    key = sort_key(select)
    if key is None or not select.args.get("limit"):
        return
    distance = distance_in(key[0])
    if distance is None or row_obstacle(select, binding) is not None:
        return
    found = distance_to(distance, binding)
    if found is not None and isinstance(found.source.access, PendingNearest | PendingKnnJoin):
        return
    where = select.args.get("where")
    present = exp.Not(this=exp.Is(this=exp.paren(distance.copy()), expression=exp.Null()))
    set_where(select, [*conjuncts(where.this if where else None), present])
    if found is not None and not found.source.opaque:
        _append_key(select, found.source)


def _append_key(select: exp.Select, source: Source) -> None:
    select.args["order"].append(
        "expressions", exp.Ordered(this=source.key_reference(), nulls_first=False)
    )

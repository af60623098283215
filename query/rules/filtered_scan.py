"""Distances computed for a scan: first find the rows that WHERE leaves, then compute for those
alone.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingScan, own_nodes
from nearql.query.plan import INTERNAL
from nearql.query.rules.common import (
    conjuncts,
    filter_query,
    is_volatile,
    movable,
    only_source,
    set_where,
)
from nearql.query.trees import all_of


def filtered_scan(select: exp.Select, binding: Binding) -> None:
    """Evaluate WHERE apart where the scan computes distances that WHERE doesn't need."""
    source = only_source(select, binding)
    where = select.args.get("where")
    if source is None or not source.is_free or not source.distances or where is None:
        return
    if any(isinstance(node, exp.Columns) for node in own_nodes(select)):
        return
    conditions = [one for one in conjuncts(where.this) if not _names_helpers(one)]
    conditions = [
        one for one in conditions if not is_volatile(one) and movable([one], source, binding)
    ]
    if not conditions:
        return
    kept = [one for one in conjuncts(where.this) if not any(one is moved for moved in conditions)]
    source.access = PendingScan(filter_query(select, source, conditions, binding))
    set_where(select, kept)


def _names_helpers(condition: exp.Expr) -> bool:
    return any(column.name.startswith(INTERNAL) for column in all_of(condition, exp.Column))

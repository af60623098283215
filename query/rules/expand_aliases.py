"""`SELECT vec <-> :q AS d ... WHERE d < 0.5`: DuckDB lets WHERE name an alias; put its expression
there.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, own_nodes
from nearql.query.dialect import distance_of
from nearql.query.trees import copy_of, nodes_of


def expand_aliases(select: exp.Select, binding: Binding) -> None:
    """Replace aliases of distances in WHERE, where no column has the name, by the distance."""
    where = select.args.get("where")
    if where is None:
        return
    distances = {
        item.alias.lower(): item.this
        for item in select.expressions
        if isinstance(item, exp.Alias) and any(distance_of(node) for node in nodes_of(item.this))
    }
    if not distances:
        return
    entries = binding.entries(select).values()
    for node in [one for one in own_nodes(select) if isinstance(one, exp.Column)]:
        name = node.name.lower()
        taken = any(entry.names is None or name in entry.names for entry in entries)
        if (
            name in distances
            and not node.table
            and not taken
            and node.find_ancestor(exp.Where) is where
        ):
            node.replace(exp.paren(copy_of(distances[name]), copy=False))

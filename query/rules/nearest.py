"""`ORDER BY vec <-> :q LIMIT k [OFFSET o]` over one table: the table becomes its k + o nearest
rows.

What WHERE asks is evaluated first, over the columns it names, into row numbers. Only `distance < r`
with the same distance stays in the statement: the rows that it keeps are a prefix of the nearest
ones.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingNearest, from_items, own_nodes
from nearql.query.rules.common import (
    Found,
    conjuncts,
    distance_column,
    distance_in,
    distance_to,
    filter_query,
    limit_of,
    movable,
    nearest_first,
    pending_value,
    replace_distances,
    row_obstacle,
    searchable,
    set_where,
    sort_by,
    sort_key,
    ties_by_key,
)
from nearql.query.rules.range_search import upper_bound


def nearest(select: exp.Select, binding: Binding) -> None:
    """Restrict the table to the nearest rows, or note why not."""
    key = nearest_first(select)
    if key is None or not select.args.get("limit"):
        _note_unsearched(select, binding)
        return
    found = searchable(key, binding)
    if found is None:
        _note_other(select, key, binding)
        return
    why = _obstacle(select, found, binding)
    if why is not None:
        binding.note(
            f"{found.text}: not pushed down, because {why}; computed exactly for every row"
        )
        return
    _push(select, found, binding)


def _note_unsearched(select: exp.Select, binding: Binding) -> None:
    """Why a distance among the sort keys asks for no search."""
    key = sort_key(select)
    distance = distance_in(key[0]) if key is not None else None
    found = distance_to(distance, binding) if distance is not None else None
    bounds = [upper_bound(one, binding) for one in conjuncts(_condition(select))]
    if found is None or any(bounds):
        return
    why = "the order isn't that of rising distances" if select.args.get("limit") else "no LIMIT"
    binding.note(f"{found.text}: {why}, so it is computed exactly for every row")


def _note_other(select: exp.Select, key: exp.Expr, binding: Binding) -> None:
    found = distance_to(key, binding)
    noted = found is not None and any(note.startswith(found.text) for note in binding.notes)
    if found is not None and found.source.is_free and not noted:
        binding.note(
            f"{found.text}: not pushed down, because the other side is no constant; "
            "computed exactly for every row"
        )


def _obstacle(select: exp.Select, found: Found, binding: Binding) -> str | None:
    items = from_items(select)
    if not items or binding.source_of(items[0]) is not found.source:
        return "the vector's table is not the first of the FROM clause"
    if not found.source.is_free or found.source.opaque:
        return "the table is already restricted"
    if not _keeps_every_row(select):
        return "the table is joined in a way that can drop or repeat its nearest rows"
    if (why := row_obstacle(select, binding)) is not None:
        return why
    if limit_of(select, binding) is None:
        return "LIMIT is not a constant number"
    if not ties_by_key(select, found.source):
        return "further sort keys than the primary key decide between equal distances"
    if not movable(conjuncts(_condition(select)), found.source, binding):
        return "WHERE depends on more than this table"
    return None


def _keeps_every_row(select: exp.Select) -> bool:
    """A LEFT JOIN gives each left row at least once: the first k rows come from the k nearest."""
    return not select.args.get("laterals") and all(
        join.args.get("side") == "LEFT"
        and not join.args.get("kind")
        and not join.args.get("method")
        for join in select.args.get("joins") or []
    )


def _condition(select: exp.Select) -> exp.Expr | None:
    where = select.args.get("where")
    return where.this if where else None


def _push(select: exp.Select, found: Found, binding: Binding) -> None:
    source = found.source
    limits = limit_of(select, binding)
    assert limits is not None
    distance = distance_column(found, binding)
    kept: list[exp.Expr] = []
    moved: list[exp.Expr] = []
    for condition in conjuncts(_condition(select)):
        (kept if _is_prefix(condition, distance.identity, binding) else moved).append(condition)
    filtered = filter_query(select, source, moved, binding)
    limit = pending_value(limits[0], "LIMIT")
    offset = pending_value(limits[1], "OFFSET") if limits[1] is not None else None
    source.access = PendingNearest(distance, limit, offset, filtered)
    set_where(select, kept)
    replace_distances(own_nodes(select), distance, binding)
    sort_by(select, source.refer(distance.name), source.key_reference())


def _is_prefix(condition: exp.Expr, identity: str, binding: Binding) -> bool:
    bound = upper_bound(condition, binding)
    if bound is None:
        return False
    found = bound[0]
    return binding.identity(found.metric, found.source, found.column.name, found.other) == identity

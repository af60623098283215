"""`ORDER BY vec <-> :q LIMIT k [OFFSET o]` over one table: the table becomes its k + o nearest
rows.

Under a LEFT JOIN the same rows will do. Where other joins may drop some of them, more rows are
fetched until the statement makes as many rows as it should: each row that it makes stands at its
vector's row's place in the order, so further rows only add to the end.

What WHERE asks is evaluated first, over the columns it names, into row numbers. Only `distance < r`
with the same distance stays in the statement: the rows that it keeps are a prefix of the nearest
ones.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, PendingNearest, Source, from_items, own_nodes
from nearql.query.rules.common import (
    Found,
    bits_first,
    conjuncts,
    detachable,
    distance_column,
    distance_in,
    distance_to,
    filter_query,
    is_volatile,
    limit_of,
    movable,
    nearest_first,
    nulls_first,
    pending_value,
    replace_distances,
    row_obstacle,
    searchable,
    set_where,
    sort_by,
    sort_key,
    ties_by_key,
    with_ctes,
)
from nearql.query.rules.indexes import (
    note_unindexed,
    permitted_indexes,
    replace_expressions,
    searchable_by_index,
)
from nearql.query.rules.range_search import upper_bound
from nearql.query.trees import all_of, copy_of


def nearest(select: exp.Select, binding: Binding) -> None:
    """Restrict the table to the nearest rows, or note why not."""
    key = nearest_first(select) or bits_first(select)
    if key is None or not select.args.get("limit"):
        _note_unsearched(select, binding)
        return
    found = searchable(key, binding) or searchable_by_index(key, binding)
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
    why = "NULLS FIRST asks for rows that no search finds" if nulls_first(select) else why
    binding.note(f"{found.text}: {why}, so it is computed exactly for every row")


def _note_other(select: exp.Select, key: exp.Expr, binding: Binding) -> None:
    found = distance_to(key, binding)
    if found is None:
        note_unindexed(key, binding)
    noted = found is not None and any(note.startswith(found.text) for note in binding.notes)
    if found is not None and found.source.is_free and not noted:
        binding.note(
            f"{found.text}: not pushed down, because the other side is no constant; "
            "computed exactly for every row"
        )


def _obstacle(select: exp.Select, found: Found, binding: Binding) -> str | None:
    if not any(binding.source_of(item) is found.source for item in from_items(select)):
        return "the vector's table is not of this FROM clause"
    if not found.source.is_free or found.source.opaque:
        return "the table is already restricted"
    if not _is_row_by_row(select, found, binding):
        return "the kind of join needs every row of the table"
    if (why := row_obstacle(select, binding)) is not None:
        return why
    if limit_of(select, binding) is None:
        return "LIMIT is not a constant number"
    if not ties_by_key(select, found.source):
        return "further sort keys than the primary key decide between equal distances"
    if _must_widen(select, found, binding) and not _is_repeatable(select, binding):
        return "WHERE depends on more than this table"
    return None


_KINDS = (None, "", "INNER", "CROSS", "OUTER", "SEMI", "ANTI")


def _is_row_by_row(select: exp.Select, found: Found, binding: Binding) -> bool:
    """Whether each of the table's rows makes its rows of the answer whatever others there are."""
    joins = select.args.get("joins") or []
    nested = any(item.args.get("joins") for item in from_items(select))
    if select.args.get("laterals") or nested or any(join.this.find(exp.Lateral) for join in joins):
        return False
    return all(
        join.args.get("side") in (None, "", "LEFT")
        and join.args.get("kind") in _KINDS
        and join.args.get("method") in (None, "", "NATURAL")
        and (_is_inner(join) or not _holds(join.this, found.source, binding))
        for join in joins
    )


def _is_inner(join: exp.Join) -> bool:
    return not join.args.get("side") and join.args.get("kind") not in ("SEMI", "ANTI", "OUTER")


def _holds(item: exp.Expr, source: Source, binding: Binding) -> bool:
    return any(binding.source_of(table) is source for table in all_of(item, exp.Table))


def _must_widen(select: exp.Select, found: Found, binding: Binding) -> bool:
    """Whether the statement may make fewer rows than the table gives it."""
    conditions = conjuncts(_condition(select))
    return not _keeps_every_row(select, found, binding) or not movable(
        conditions, found.source, binding
    )


def _is_repeatable(select: exp.Select, binding: Binding) -> bool:
    """Whether its rows may be counted apart: nothing from outside, nothing that varies."""
    return not binding.free(select) and detachable(select, binding) and not is_volatile(select)


def _keeps_every_row(select: exp.Select, found: Found, binding: Binding) -> bool:
    """A LEFT JOIN gives each left row at least once: the first k rows come from the k nearest."""
    joins = select.args.get("joins") or []
    is_first = binding.source_of(from_items(select)[0]) is found.source
    return is_first and all(
        join.args.get("side") == "LEFT" and join.args.get("kind") not in ("SEMI", "ANTI")
        for join in joins
    )


def _condition(select: exp.Select) -> exp.Expr | None:
    where = select.args.get("where")
    return where.this if where else None


def _push(select: exp.Select, found: Found, binding: Binding) -> None:
    source = found.source
    limits = limit_of(select, binding)
    assert limits is not None
    widens = _must_widen(select, found, binding)
    distance = distance_column(found, binding)
    prefix: list[exp.Expr] = []
    moved: list[exp.Expr] = []
    rest: list[exp.Expr] = []
    for condition in conjuncts(_condition(select)):
        if _is_prefix(condition, distance.identity, binding):
            prefix.append(condition)
        else:
            (moved if movable([condition], source, binding) else rest).append(condition)
    permitted = permitted_indexes(found, moved, binding)
    access = PendingNearest(
        distance,
        pending_value(limits[0], "LIMIT"),
        pending_value(limits[1], "OFFSET") if limits[1] is not None else None,
        filter_query(select, source, moved, binding),
        partial=permitted.partial,
        index=permitted.whole,
    )
    source.access = access
    if found.derived is None:
        replace_distances(own_nodes(select), distance, binding)
    else:
        replace_expressions(own_nodes(select), distance, binding)
    set_where(select, rest)
    if widens:
        access.survivors = _survivors(select, binding)
    set_where(select, [*rest, *prefix])
    sort_by(select, source.refer(distance.name), source.key_reference())


def _survivors(select: exp.Select, binding: Binding) -> exp.Select:
    """How many rows the statement makes, its order, its LIMIT and the distance's bound left out."""
    count = exp.Anonymous(this="count", expressions=[exp.Star()])
    query = exp.Select(expressions=[count])
    query.set("from_", copy_of(select.args["from_"]))
    query.set("joins", [copy_of(join) for join in select.args.get("joins") or []])
    where = select.args.get("where")
    query.set("where", copy_of(where) if where else None)
    for condition in [select.args["from_"], *(select.args.get("joins") or []), where]:
        if condition is not None:
            with_ctes(condition, query)
    binding.rewrite(query)
    return query


def _is_prefix(condition: exp.Expr, identity: str, binding: Binding) -> bool:
    bound = upper_bound(condition, binding)
    if bound is None:
        return False
    found = bound[0]
    return binding.identity(found.metric, found.source, found.column.name, found.other) == identity

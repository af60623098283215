"""`FROM queries q, LATERAL (SELECT ... FROM docs d ORDER BY d.vec <-> q.vec LIMIT k)`: one batched
search.

The left side's rows get ids: a base table's row numbers, or the row numbers of its kept result
where it is a sub-query or a common table expression. The batch finds the k nearest rows of `docs`
to each left row; `docs` becomes those n * k rows, each with its left row's id, and the sub-query
asks for its own left row's.

Conditions that name the left row (`d.id <> q.id`) can't be part of the batch's filter. Rows are
then fetched until k of them satisfy the conditions for every left row, or there are no more; the
sub-query keeps the conditions, its ORDER BY and its LIMIT.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from nearql.engine.schema import TableDef, TableSchema
from nearql.query.binder import (
    META,
    TEXT,
    Binding,
    Entry,
    PendingKnnJoin,
    Source,
    enclosing,
    from_items,
    own_nodes,
)
from nearql.query.dialect import to_nearql
from nearql.query.plan import INTERNAL
from nearql.query.rules.common import (
    Found,
    aggregates,
    conjunction,
    conjuncts,
    detachable,
    distance_to,
    filter_query,
    is_volatile,
    limit_of,
    movable,
    nearest_first,
    only_source,
    pending_value,
    put_column,
    row_obstacle,
    set_where,
    sort_by,
    ties_by_key,
    with_ctes,
)
from nearql.query.trees import all_of, copy_of
from nearql.query.vector_types import duck_type


@dataclass(frozen=True)
class _Join:
    """A recognised join. item: the left side's node in the outer SELECT's FROM clause."""

    found: Found
    outer: exp.Select
    item: exp.Expr
    moved: list[exp.Expr]
    kept: list[exp.Expr]


def knn_join(select: exp.Select, binding: Binding) -> None:
    """Turn a correlated nearest-neighbour sub-query into a batch."""
    key = nearest_first(select)
    found = distance_to(key, binding) if key is not None and select.args.get("limit") else None
    if (
        found is None
        or only_source(select, binding) is not found.source
        or not found.source.is_free
    ):
        return
    outer, item = _left_side(select, found, binding)
    if outer is None or item is None:
        return
    why, join = _recognise(select, _Join(found, outer, item, [], []), binding)
    if why is not None:
        binding.note(
            f"{found.text}: not batched, because {why}; computed exactly for every pair of rows"
        )
        return
    _push(select, join, binding)


def _left_side(
    select: exp.Select, found: Found, binding: Binding
) -> tuple[exp.Select | None, exp.Expr | None]:
    """The SELECT around this one whose FROM clause has the distance's other side, and that item."""
    for outer in enclosing(select):
        item = _left_item(found, outer, binding)
        if item is not None:
            return outer, item
    return None, None


def _left_item(found: Found, outer: exp.Select, binding: Binding) -> exp.Expr | None:
    """The FROM item of the outer SELECT that the distance's other side names; None for none or
    several.
    """
    items: dict[int, exp.Expr] = {}
    for column in binding.free(found.other):
        owner = binding.owner(column)
        for item in from_items(outer):
            if _is_of(column, owner, item, binding):
                items[id(item)] = item
                break
        else:
            return None
    return next(iter(items.values())) if len(items) == 1 else None


def _is_of(
    column: exp.Column, owner: tuple[exp.Select, Entry] | None, item: exp.Expr, binding: Binding
) -> bool:
    """Whether a column belongs to this FROM item of the outer SELECT."""
    if column.table:
        return column.table.lower() == item.alias_or_name.lower()
    if owner is None:
        return False
    source = binding.source_of(item)
    return owner[1].source is source if source else owner[1].item is item


def _recognise(select: exp.Select, join: _Join, binding: Binding) -> tuple[str | None, _Join]:
    source = join.found.source
    where = select.args.get("where")
    conditions = conjuncts(where.this if where else None)
    moved = [one for one in conditions if movable([one], source, binding)]
    kept = [one for one in conditions if not any(one is other for other in moved)]
    join = _Join(join.found, join.outer, join.item, moved, kept)
    if (why := row_obstacle(select, binding)) is not None:
        return why, join
    if limit_of(select, binding) is None:
        return "LIMIT is not a constant number", join
    if not ties_by_key(select, source):
        return "further sort keys than the primary key decide between equal distances", join
    if not _in_from_clause(select, join.outer) and aggregates(join.outer, binding):
        return "the sub-query stands in a grouped SELECT", join
    if not _left_is_known(join, binding):
        return "the left side is no table, sub-query or common table expression of its own", join
    if not all(_is_about_both(one, join, binding) for one in kept):
        return "WHERE names more than the two sides of the join", join
    return None, join


def _in_from_clause(select: exp.Select, outer: exp.Select) -> bool:
    """Whether the sub-query stands, at any depth, in the FROM clause of the outer SELECT."""
    node: exp.Expr | None = select
    while node is not None and node.parent is not outer:
        node = node.parent
    return isinstance(node, exp.Join | exp.From)


def _left_is_known(join: _Join, binding: Binding) -> bool:
    source = binding.source_of(join.item)
    if source is not None:
        return not source.opaque
    if join.item.find_ancestor(exp.Lateral) or isinstance(join.item, exp.Lateral):
        return False
    known = isinstance(join.item, exp.Subquery | exp.Table | exp.Values) and bool(
        join.item.alias_or_name
    )
    plain = not any(join.item.args.get(key) for key in ("pivots", "sample", "joins", "laterals"))
    return (
        known
        and plain
        and not binding.free(join.item)
        and not is_volatile(join.item)
        and detachable(join.item, binding)
    )


def _is_about_both(condition: exp.Expr, join: _Join, binding: Binding) -> bool:
    if is_volatile(condition) or condition.find(exp.Query):
        return False
    for column in binding.free(condition):
        owner = binding.owner(column)
        if owner is not None and owner[1].source is join.found.source:
            continue
        if not _is_of(column, owner, join.item, binding):
            return False
    return True


def _push(select: exp.Select, join: _Join, binding: Binding) -> None:
    source, limits = join.found.source, limit_of(select, binding)
    assert limits is not None
    left = _left_source(join, binding)
    left_name = f"{source.name}_left"
    name = f"{source.name}_d{len(source.distances)}k"
    filtered = filter_query(select, source, join.moved, binding)
    access = PendingKnnJoin(
        name=name, column=join.found.column.name, metric=join.found.metric,
        left=_left_query(join, left, binding), left_name=left_name,
        limit=pending_value(limits[0], "LIMIT"),
        offset=pending_value(limits[1], "OFFSET") if limits[1] is not None else None,
        filter=filtered, survivors=None,
    )  # fmt: skip
    source.access = access
    equality = exp.EQ(this=source.refer(left_name), expression=left.row_reference())
    if join.kept:
        access.survivors = _survivors(join, left, equality, binding)
    _replace(select, join.found, source.refer(name))
    set_where(select, [*join.kept, equality])
    sort_by(select, source.refer(name), source.key_reference())


def _replace(select: exp.Select, found: Found, column: exp.Column) -> None:
    for node in list(own_nodes(select)):
        if node == found.node and not node.find_ancestor(exp.Where, exp.Order):
            put_column(node, copy_of(column))


def _left_source(join: _Join, binding: Binding) -> Source:
    """The left side as a source that has row numbers; a query's result is kept under them."""
    source = binding.source_of(join.item)
    if source is not None:
        return source
    name = binding.fresh()
    alias = join.item.alias_or_name
    kept = exp.select(_row_number(name), exp.Star())
    item = copy_of(join.item)
    kept.meta[TEXT] = to_nearql(join.item)
    kept.set("from_", exp.From(this=item))
    with_ctes(join.item, kept)
    names = binding.entries(join.outer)[alias.lower()].names
    table = TableDef("", alias, TableSchema((), 0))
    source = Source(name, table, alias, materialized=kept, names=names, wants_row=True)
    binding.add(source)
    node = exp.Table(
        this=exp.to_identifier(name),
        alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True)),
    )
    node.meta[META] = name
    join.item.replace(node)
    return source


def _row_number(name: str) -> exp.Expr:
    window = exp.Window(this=exp.Anonymous(this="row_number", expressions=[]))
    return exp.alias_(exp.Sub(this=window, expression=exp.Literal.number(1)), f"{name}_row")


def _left_query(join: _Join, left: Source, binding: Binding) -> exp.Select:
    """The left rows' ids and vectors, those left out that the outer WHERE drops anyway."""
    table = exp.Table(
        this=exp.to_identifier(left.name), alias=exp.to_identifier(left.alias, quoted=True)
    )
    if left.materialized is None:
        table = exp.Table(
            this=exp.to_identifier(left.table.name, quoted=True), alias=table.args["alias"]
        )
    else:
        table.meta[META] = left.name
    other = exp.Cast(this=copy_of(join.found.other), to=duck_type(None))
    query = exp.select(other)
    query.set("from_", exp.From(this=table))
    binding.bind(query)
    own = binding.source_of(table)
    assert own is not None
    query.set("expressions", [own.row_reference(), other])
    query.meta[TEXT] = f"{to_nearql(join.found.other)} of every row of {left.alias}"
    wanted = _left_conditions(join, left, binding)
    set_where(query, [copy_of(one) for one in wanted])
    return query


def _left_conditions(join: _Join, left: Source, binding: Binding) -> list[exp.Expr]:
    """Conditions of the outer WHERE about the left side alone, where they hold for every row of the
    answer.
    """
    where = join.outer.args.get("where")
    if where is None or left.materialized is not None:
        return []
    if any(one.args.get("side") in ("RIGHT", "FULL") for one in join.outer.args.get("joins") or []):
        return []
    return [
        one
        for one in conjuncts(where.this)
        if not one.find(exp.Query)
        and not is_volatile(one)
        and not _names_helpers(one)
        and movable([one], left, binding)
    ]


def _names_helpers(condition: exp.Expr) -> bool:
    return any(column.name.startswith(INTERNAL) for column in all_of(condition, exp.Column))


def _survivors(join: _Join, left: Source, equality: exp.Expr, binding: Binding) -> exp.Select:
    """How many rows fetched so far satisfy the conditions, for each left row that has any."""
    source = join.found.source
    query = exp.select(left.row_reference(), exp.Anonymous(this="count", expressions=[exp.Star()]))
    query.set("from_", exp.From(this=_tied(left)))
    conditions = [copy_of(equality), *(copy_of(one) for one in join.kept)]
    query.append("joins", exp.Join(this=_tied(source), on=conjunction(conditions)))
    query.set("group", exp.Group(expressions=[left.row_reference()]))
    return query


def _tied(source: Source) -> exp.Table:
    table = exp.Table(
        this=exp.to_identifier(source.name),
        alias=exp.TableAlias(this=exp.to_identifier(source.alias, quoted=True)),
    )
    table.meta[META] = source.name
    return table

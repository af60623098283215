"""`FROM (SELECT ... FROM docs WHERE ...) AS sub ORDER BY sub.vec <-> :q LIMIT k`, or the same by a
common table expression: the sub-query only names columns and filters, so its table takes its place
and the search is one over that table.

    WITH red AS (SELECT * FROM docs WHERE color = 'red')
    SELECT id FROM red WHERE price < 9 ORDER BY vec <-> :q LIMIT 5
        ->  SELECT id FROM docs AS red WHERE color = 'red' AND price < 9 ORDER BY ... LIMIT 5
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, Source, common, from_items, visible_ctes
from nearql.query.rules.common import (
    conjuncts,
    is_volatile,
    nearest_first,
    only_source,
    set_where,
)

_PLAIN = frozenset({"expressions", "from_", "where"})  # clauses of a sub-query that can go


def merge_subquery(select: exp.Select, binding: Binding) -> None:
    """Put the table in place of the only sub-query of the FROM clause."""
    if nearest_first(select) is not None and select.args.get("limit"):
        _merge(select, binding)


def _merge(select: exp.Select, binding: Binding) -> None:
    items = from_items(select)
    if len(items) != 1 or select.args.get("laterals") or items[0].args.get("joins"):
        return
    item = items[0]
    inner = _plain_select(item, binding)
    if inner is None:
        return
    _merge(inner, binding)
    source = only_source(inner, binding)
    if source is None or not _is_untouched(source):
        return
    alias = item.alias_or_name or source.alias
    conditions = _conditions(inner, source, alias)
    names = _column_names(inner, source)
    if conditions is None or names == []:
        return
    if names is not None and not _restrict(select, item, source, names):
        return
    table = exp.Table(
        this=exp.to_identifier(source.table.name, quoted=True),
        alias=exp.TableAlias(this=exp.to_identifier(alias, quoted=True)),
    )
    cte = common(item) if isinstance(item, exp.Table) else None
    item.replace(table)
    where = select.args.get("where")
    set_where(select, [*conditions, *conjuncts(where.this if where else None)])
    binding.bind(table)
    if cte is not None:
        _drop_unused(cte)


def _drop_unused(cte: exp.CTE) -> None:
    """Take out a common table expression that nothing names any more, or it would be read."""
    clause = cte.parent
    assert clause is not None
    assert clause.parent is not None
    if any(common(table) is cte for table in clause.parent.root().find_all(exp.Table)):
        return
    left = [one for one in clause.expressions if one is not cte]
    clause.set("expressions", left)
    if not left:
        clause.parent.set("with_", None)


def _plain_select(item: exp.Expr, binding: Binding) -> exp.Select | None:
    """The sub-query behind an item of a FROM clause, if it has nothing but columns and WHERE."""
    renamed = item.args.get("alias") and item.args["alias"].args.get("columns")
    if renamed or any(item.args.get(key) for key in ("pivots", "sample", "with_", "laterals")):
        return None
    query = item.this if isinstance(item, exp.Subquery) else _definition(item)
    if not isinstance(query, exp.Select) or is_volatile(query) or binding.free(query):
        return None
    return query if all(key in _PLAIN for key, value in query.args.items() if value) else None


def _definition(item: exp.Expr) -> exp.Expr | None:
    cte = common(item) if isinstance(item, exp.Table) and _is_bare(item) else None
    if cte is None or cte.args["alias"].args.get("columns"):
        return None
    names = [one.alias.lower() for one in visible_ctes(item)]
    has_query = cte.this.args.get("where") and cte.this.args["where"].find(exp.Query)
    return None if has_query or names.count(cte.alias.lower()) > 1 else cte.this


def _is_bare(item: exp.Table) -> bool:
    """Whether the item is nothing but a name."""
    return all(key in ("this", "alias") for key, value in item.args.items() if value)


def _is_untouched(source: Source) -> bool:
    return source.is_free and not source.system and not source.hidden()


def _column_names(inner: exp.Select, source: Source) -> list[str] | None:
    """The columns that the sub-query lists; None for all of them; [] where it renames or
    computes.
    """
    items = inner.expressions
    if len(items) == 1 and _is_star(items[0]):
        return None
    columns = source.table.schema.by_name
    names = [
        item.name
        for item in items
        if isinstance(item, exp.Column) and item.name.lower() in columns and not item.is_star
    ]
    return names if len({name.lower() for name in names}) == len(items) else []


def _is_star(item: exp.Expr) -> bool:
    star = item.this if isinstance(item, exp.Column) else item
    return isinstance(star, exp.Star) and not any(star.args.values())


def _restrict(select: exp.Select, item: exp.Expr, source: Source, names: list[str]) -> bool:
    """Leave out of `*` what the sub-query doesn't list; False where other names would come to mean
    such columns.
    """
    alias = item.alias_or_name.lower()
    stars = [one for one in select.expressions if _is_star(one)]
    listed = {name.lower() for name in names}
    hidden = {column.name.lower() for column in source.table.schema.columns} - listed
    for node in select.find_all(exp.Star, exp.Columns, exp.Column):
        if _inside(node, item) or any(node is star or node.parent is star for star in stars):
            continue
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return False
        if node.table.lower() in ("", alias) and node.name.lower() in hidden | {alias}:
            return False
    if stars and names != [c.name for c in source.table.schema.visible if c.name in names]:
        return False
    for star in stars:
        for column in source.table.schema.visible:
            if column.name not in names:
                named = exp.column(exp.to_identifier(column.name, quoted=True))
                (star.this if isinstance(star, exp.Column) else star).append("except_", named)
    return True


def _inside(node: exp.Expr, item: exp.Expr) -> bool:
    parent: exp.Expr | None = node
    while parent is not None:
        if parent is item:
            return True
        parent = parent.parent
    return False


def _conditions(inner: exp.Select, source: Source, alias: str) -> list[exp.Expr] | None:
    """The sub-query's conditions, naming the table by its new alias; None where that is unsafe."""
    where = inner.args.get("where")
    if where is None:
        return []
    condition = where.this.copy()
    taken = {source.alias.lower(), alias.lower()}
    if any(table.alias_or_name.lower() in taken for table in condition.find_all(exp.Table)):
        return None
    for column in condition.find_all(exp.Column):
        if column.table.lower() == source.alias.lower():
            column.set("table", exp.to_identifier(alias, quoted=True))
    return conjuncts(condition)

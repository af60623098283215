"""A distance over a sub-query, a common table expression or a view that only names, computes and
filters: its FROM clause takes its place, so that the search is one over the table itself.

    WITH red AS (SELECT id AS number, vec FROM docs d WHERE color = 'red')
    SELECT number FROM red WHERE number < 9 ORDER BY vec <-> :q LIMIT 5
        ->  SELECT red.id AS number FROM docs AS red WHERE color = 'red' AND red.id < 9 ORDER BY ...

This comes before all other rules, for every SELECT, so that what is inside is still as written. A
SELECT that reads nothing else may take joins over; beside other items of a FROM clause only a
sub-query over one item is merged, and only where WHERE may as well be asked after the joins.

Names are what can go wrong. After the merge each column of the sub-query's FROM clause is in reach
where only its outputs were; so every name that meant an output is replaced by what it stood for,
every other name is given its qualifier, and where one could come to mean something else nothing is
merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from nearql.query.binder import (
    META,
    Binding,
    common,
    from_items,
    own_nodes,
    qualify,
    unwrapped,
    visible_ctes,
)
from nearql.query.dialect import distance_of
from nearql.query.rules.common import (
    aggregates,
    conjuncts,
    is_volatile,
    multiplies,
    set_where,
    shown_text,
    sort_key,
)
from nearql.query.trees import all_of, below, copy_of, nodes_of

_PLAIN = frozenset({"expressions", "from_", "joins", "where", "order"})
_WHY = {
    "with_": "it has common table expressions of its own", "limit": "it limits rows",
    "offset": "it limits rows", "group": "it groups rows", "having": "it groups rows",
    "distinct": "it merges rows", "qualify": "it has QUALIFY", "windows": "it has WINDOW",
    "sample": "it takes a SAMPLE", "laterals": "it has a LATERAL",
}  # fmt: skip
_COMPARED = (exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between)


@dataclass(frozen=True)
class _Output:
    """A column of the sub-query. value: over its FROM clause, every column in it qualified."""

    name: str
    value: exp.Expr

    @property
    def is_movable(self) -> bool:
        """Whether the value may stand wherever its name did."""
        node = unwrapped(self.value)
        return isinstance(node, exp.Column) or (
            node.find(exp.Column) is not None and node.find(exp.Query) is None
        )


@dataclass(frozen=True)
class _Merge:
    """A sub-query about to be merged. outputs: by lower-case name, in order.

    exposed: lower-case names that come into reach; None of an item whose columns aren't known.
    """

    select: exp.Select
    item: exp.Expr
    inner: exp.Select
    alias: str
    outputs: dict[str, _Output]
    exposed: frozenset[str]


class _Refused(Exception):
    """Why a sub-query can't be merged, in words that follow `the sub-query can't be merged: `."""


def merge_subquery(select: exp.Select, binding: Binding) -> None:
    """Put the FROM clauses of sub-queries in their place where a distance needs them."""
    refused: set[int] = set()
    while (item := _wanted(select, refused, binding)) is not None:
        try:
            _merge(select, item, binding)
        except _Refused as why:
            refused.add(id(item))
            _note(select, item, str(why), binding)


def _note(select: exp.Select, item: exp.Expr, why: str, binding: Binding) -> None:
    for node in _asked(select):
        if distance_of(node) and _reads(node, item, binding):
            binding.note(
                f"{shown_text(node)}: not pushed down, because the sub-query "
                f"{item.alias_or_name} can't be merged: {why}; computed exactly for every row"
            )


# ---- which ----------------------------------------------------------------------------


def _wanted(select: exp.Select, refused: set[int], binding: Binding) -> exp.Expr | None:
    """The first sub-query of the FROM clause that a distance asks for."""
    asked = _asked(select)
    distances = [node for node in nodes_of(select) if distance_of(node)]  # those of a LATERAL too
    if not asked and not distances:
        return None
    for item in from_items(select):
        if id(item) in refused or _definition(item) is None:
            continue
        if any(_reads(node, item, binding) for node in distances):
            return item
        if any(_is_distance_inside(node, item, binding) for node in asked):
            return item
    return None


def _asked(select: exp.Select) -> list[exp.Expr]:
    """What a search could be made of: the first sort key under LIMIT, and what WHERE compares."""
    found = []
    key = sort_key(select)
    if key is not None and select.args.get("limit"):
        found.append(key[0])
    where = select.args.get("where")
    for condition in conjuncts(where.this if where else None):
        if isinstance(condition, _COMPARED):
            found += [unwrapped(side) for side in below(condition)]
    return found


def _reads(node: exp.Expr, item: exp.Expr, binding: Binding) -> bool:
    return any(_is_of(column, item, binding) for column in all_of(node, exp.Column))


def _is_of(column: exp.Column, item: exp.Expr, binding: Binding) -> bool:
    owner = binding.owner(column)
    return owner is not None and owner[1].item is item


def _is_distance_inside(node: exp.Expr, item: exp.Expr, binding: Binding) -> bool:
    """Whether the node names a column of the sub-query that is a distance there."""
    if not isinstance(node, exp.Column) or not _is_of(node, item, binding):
        return False
    inner = _definition(item)
    items = inner.expressions if isinstance(inner, exp.Select) else []
    return any(
        isinstance(one, exp.Alias)
        and one.alias.lower() == node.name.lower()
        and distance_of(unwrapped(one.this)) is not None
        for one in items
    )


def _definition(item: exp.Expr) -> exp.Query | None:
    """The query behind an item of a FROM clause."""
    if isinstance(item, exp.Table):
        cte = common(item)
        return cte.this if cte is not None and isinstance(cte.this, exp.Query) else None
    query = item.this if isinstance(item, exp.Subquery) else None
    while isinstance(query, exp.Subquery):
        query = query.this
    return query if isinstance(query, exp.Query) else None


# ---- whether --------------------------------------------------------------------------


def _merge(select: exp.Select, item: exp.Expr, binding: Binding) -> None:
    inner = _plain(item, binding)
    alone = len(from_items(select)) == 1 and not select.args.get("laterals")
    if not alone:
        _check_place(select, item, inner)
    own = copy_of(inner)  # a common table expression may be named again
    own.parent = inner.parent
    qualify(own)  # where it will stand, a name of WITH could hide its tables
    for node in from_items(own):
        if node.meta.pop(META, None) is not None:
            binding.bind(node)
    alias = item.alias_or_name
    if len(from_items(own)) == 1:
        _rename(own, alias, binding)
    else:
        _check_aliases(select, item, own)
    merge = _Merge(select, item, own, alias, _outputs(own, item, binding), _exposed(own, binding))
    _replace_names(merge, binding)
    _put(merge)


def _plain(item: exp.Expr, binding: Binding) -> exp.Select:
    """The sub-query, if it only names, computes and filters."""
    if any(item.args.get(key) for key in ("pivots", "sample", "laterals", "with_", "joins")):
        raise _Refused("it stands in a PIVOT, a SAMPLE or a join of its own")
    inner = _definition(item)
    if not isinstance(inner, exp.Select):
        raise _Refused("it unites rows")
    for key, value in inner.args.items():
        if value and key not in _PLAIN:
            raise _Refused(_WHY.get(key, f"it has {key.upper()}"))
    if not from_items(inner):
        raise _Refused("it reads no table")
    if aggregates(inner, binding):
        raise _Refused("it groups rows")
    if any(isinstance(node, exp.Window) for node in own_nodes(inner)):
        raise _Refused("it has a window function")
    if any(multiplies(node) for node in own_nodes(inner)):
        raise _Refused("it has UNNEST")
    if is_volatile(inner):
        raise _Refused("it may answer differently each time")
    if binding.free(inner):
        raise _Refused("it names columns from outside itself")
    if isinstance(item, exp.Table):
        _check_definition(item)
    return inner


def _check_definition(item: exp.Table) -> None:
    """A common table expression sees other names than the place where it is named."""
    cte = common(item)
    assert cte is not None
    names = [one.alias.lower() for one in visible_ctes(item)]
    if len(set(names)) < len(names):
        raise _Refused("a name of WITH is given twice")
    clause = cte.parent
    if clause is not None and clause.args.get("recursive"):
        raise _Refused("it is recursive")


def _check_place(select: exp.Select, item: exp.Expr, inner: exp.Select) -> None:
    """Beside other items its conditions must hold as well after the joins."""
    if len(from_items(inner)) > 1:
        raise _Refused("it joins tables, and is joined itself")
    joins = select.args.get("joins") or []
    if select.args.get("laterals") or item.parent is None:
        raise _Refused("it stands beside a LATERAL VIEW")
    for join in joins:
        if join.args.get("side") in ("RIGHT", "FULL"):
            raise _Refused("it stands beside an outer join")
        if join.args.get("method") or join.args.get("using"):
            raise _Refused("it is joined by NATURAL or USING")
    if isinstance(item.parent, exp.Join):
        kind = item.parent.args.get("kind") or ""
        if item.parent.args.get("side") or kind not in ("", "INNER", "CROSS"):
            raise _Refused("it stands on the right of an outer join")
    elif not isinstance(item.parent, exp.From):
        raise _Refused("it stands inside a nested join")


def _check_aliases(select: exp.Select, item: exp.Expr, inner: exp.Select) -> None:
    """The tables of a join keep their aliases, which nothing around may have too."""
    for join in inner.args.get("joins") or []:
        if join.args.get("using") or join.args.get("method"):
            raise _Refused("it joins by NATURAL or USING")
    taken = {one.alias_or_name.lower() for one in from_items(inner)}
    for node in all_of(select.root(), exp.Table, exp.Subquery, exp.CTE, exp.Lateral):
        is_within = _inside(node, item) or _inside(node, _cte_of(item))
        if node.alias_or_name.lower() in taken and not is_within:
            raise _Refused(f"the name {node.alias_or_name!r} is used around it too")


def _cte_of(item: exp.Expr) -> exp.Expr | None:
    return common(item) if isinstance(item, exp.Table) else None


def _inside(node: exp.Expr, outer: exp.Expr | None) -> bool:
    parent: exp.Expr | None = node
    while parent is not None and outer is not None:
        if parent is outer:
            return True
        parent = parent.parent
    return False


# ---- what its names stand for -----------------------------------------------------------


def _rename(inner: exp.Select, alias: str, binding: Binding) -> None:
    """Give the only table of the sub-query the sub-query's own alias."""
    [item] = from_items(inner)
    old = item.alias_or_name.lower()
    for table in all_of(inner, exp.Table, exp.Subquery):
        is_twice = table.alias_or_name.lower() in (old, alias.lower())
        if is_twice and not _inside(table, item):
            raise _Refused(f"the name {table.alias_or_name!r} is used twice")
    mine = [
        column
        for column in all_of(inner, exp.Column)
        if not _inside(column, item) and _is_of(column, item, binding)
    ]
    columns = item.args["alias"].args.get("columns") if item.args.get("alias") else None
    name = exp.to_identifier(alias, quoted=True)
    item.set("alias", exp.TableAlias(this=name, columns=columns))
    source = binding.source_of(item)
    if source is not None:
        source.alias = alias
    for column in mine:
        column.set("table", copy_of(name))
    for star in [one for one in inner.expressions if isinstance(one, exp.Column) and one.is_star]:
        star.set("table", copy_of(name))


def _outputs(inner: exp.Select, item: exp.Expr, binding: Binding) -> dict[str, _Output]:
    _qualify(inner, binding)
    found: list[_Output] = []
    for one in inner.expressions:
        found += _of_item(one, inner, binding)
    renamed = item.args["alias"].args.get("columns") if item.args.get("alias") else None
    cte = _cte_of(item)
    renamed = renamed or (cte.args["alias"].args.get("columns") if cte is not None else None)
    if renamed:
        names = [identifier.name for identifier in renamed]
        names += [output.name for output in found[len(names) :]]
        found = [_Output(name, one.value) for name, one in zip(names, found, strict=True)]
    outputs = {output.name.lower(): output for output in found}
    if len(outputs) < len(found):
        raise _Refused("two of its columns have one name")
    return outputs


def _qualify(inner: exp.Select, binding: Binding) -> None:
    """Say of each column of the sub-query itself whose it is."""
    for column in own_nodes(inner):
        if not isinstance(column, exp.Column) or isinstance(column.this, exp.Star):
            continue
        if column.find_ancestor(exp.Order) is inner.args.get("order"):
            continue
        owner = binding.owner(column)
        if owner is None or owner[0] is not inner:
            raise _Refused(f"whose column {column.name!r} is can't be told")
        if not column.table:
            alias = exp.to_identifier(owner[1].item.alias_or_name, quoted=True)
            column.set("table", alias)
    inner.set("order", None)  # without LIMIT an order inside means nothing
    alone = inner.args["from_"] if len(from_items(inner)) == 1 else None
    for node in all_of(inner, exp.Query):
        if node is not inner and not _inside(node, alone) and binding.free(node):
            _qualify_free(node, inner, binding)


def _qualify_free(query: exp.Expr, inner: exp.Select, binding: Binding) -> None:
    for column in binding.free(query):
        owner = binding.owner(column)
        if owner is None:
            raise _Refused(f"whose column {column.name!r} is can't be told")
        if not column.table and owner[0] is inner:
            column.set("table", exp.to_identifier(owner[1].item.alias_or_name, quoted=True))


def _of_item(item: exp.Expr, inner: exp.Select, binding: Binding) -> list[_Output]:
    if isinstance(item, exp.Alias):
        return [_Output(item.alias, item.this)]
    if not item.is_star:
        if not isinstance(item, exp.Column):
            raise _Refused("it has a column without a name")
        return [_Output(item.name, item)]
    star = item.this if isinstance(item, exp.Column) else item
    if any(star.args.values()):
        raise _Refused("its * is changed")
    wanted = item.table.lower() if isinstance(item, exp.Column) else ""
    found = []
    for one in from_items(inner):
        if wanted in ("", one.alias_or_name.lower()):
            found += _all_of(one, binding)
    return found


def _all_of(item: exp.Expr, binding: Binding) -> list[_Output]:
    """The columns of one item of the sub-query's FROM clause, in order."""
    alias = exp.to_identifier(item.alias_or_name, quoted=True)
    return [
        _Output(name, exp.column(exp.to_identifier(name, quoted=True), table=copy_of(alias)))
        for name in _names_of(item, binding)
    ]


def _names_of(item: exp.Expr, binding: Binding) -> list[str]:
    """The names of an item's columns, in order."""
    source = binding.source_of(item)
    if source is not None and not source.opaque and not source.system:
        return [column.name for column in source.table.schema.visible]
    query = _definition(item)
    renamed = item.args.get("alias") and item.args["alias"].args.get("columns")
    if not isinstance(query, exp.Select) or renamed or _is_renamed(_cte_of(item)):
        raise _Refused("the columns of its * can't be told")
    names: list[str] = []
    for one in query.expressions:
        if not one.is_star and not isinstance(one, exp.Alias | exp.Column):
            raise _Refused("the columns of its * can't be told")
        names += _starred(one, query, binding) if one.is_star else [one.alias_or_name]
    return names


def _starred(star: exp.Expr, query: exp.Select, binding: Binding) -> list[str]:
    """The names that a star stands for."""
    node = star.this if isinstance(star, exp.Column) else star
    if any(node.args.values()):
        raise _Refused("the columns of its * can't be told")
    wanted = star.table.lower() if isinstance(star, exp.Column) else ""
    items = [one for one in from_items(query) if wanted in ("", one.alias_or_name.lower())]
    return [name for one in items for name in _names_of(one, binding)]


def _is_renamed(cte: exp.Expr | None) -> bool:
    return cte is not None and bool(cte.args["alias"].args.get("columns"))


def _exposed(inner: exp.Select, binding: Binding) -> frozenset[str]:
    names: set[str] = set()
    for name, entry in binding.entries(inner).items():
        if entry.names is None:
            raise _Refused("the columns that it reads can't be told")
        names |= entry.names | {name}
    return frozenset(names)


# ---- doing it -----------------------------------------------------------------------------


def _replace_names(merge: _Merge, binding: Binding) -> None:
    """Outputs become what they stand for, other names get their qualifiers."""
    select, changes = merge.select, []
    for node in _around(merge):
        if isinstance(node, exp.Columns):
            raise _Refused("COLUMNS(...) stands around it")
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            changes.append((node, _meaning(node, merge, binding)))
    stars = _stars(merge)
    for node, value in changes:
        if value is not None:
            _substitute(node, value, select)
    items: list[exp.Expr] = []
    for one in select.expressions:
        items += stars.get(id(one), [one])
    select.set("expressions", items)


def _around(merge: _Merge) -> Iterator[exp.Expr]:
    """The nodes of the SELECT, the sub-query and the common table expressions left out."""
    stack = [node for node in below(merge.select) if node.arg_key != "with_"]
    while stack:
        node = stack.pop()
        if node is merge.item:
            continue
        yield node
        stack.extend(below(node))


def _meaning(column: exp.Column, merge: _Merge, binding: Binding) -> exp.Expr | None:
    """What stands for the column after the merge; None where it stays as it is."""
    owner = binding.owner(column)
    name = column.name.lower()
    if owner is not None and owner[1].item is merge.item:
        output = merge.outputs.get(name)
        if output is None:
            raise _Refused(f"whose column {column.name!r} is can't be told")
        if not column.table and _is_alias(column, merge, binding):
            return None
        if not output.is_movable:
            raise _Refused(f"its column {output.name!r} is a constant or a query")
        return output.value
    if column.table:
        return None
    if owner is None:
        own = _is_alias(column, merge, binding)
        if name in merge.exposed or (name in merge.outputs and not own) or name == merge.alias:
            raise _Refused(f"whose column {column.name!r} is can't be told")
        return None
    if name in merge.exposed and owner[1].item.alias_or_name:
        alias = exp.to_identifier(owner[1].item.alias_or_name, quoted=True)
        return exp.column(copy_of(column.this), table=alias)
    return None


def _is_alias(column: exp.Column, merge: _Merge, binding: Binding) -> bool:
    """Whether an unqualified name is that of an item of the SELECT's own list.

    Raises:
        _Refused: it is, and a column of the sub-query that means something else has it too.
    """
    name = column.name.lower()
    named = [one for one in merge.select.expressions if isinstance(one, exp.Alias)]
    named = [one for one in named if one.alias.lower() == name]
    if not named or _inside(column, named[0]):
        return False
    this = unwrapped(named[0].this)
    if isinstance(this, exp.Column) and this.name.lower() == name and len(named) == 1:
        return False  # AS changes nothing: both mean the column
    if name in merge.outputs or name in merge.exposed:
        raise _Refused(f"{column.name!r} is a column and an alias")
    return True


def _stars(merge: _Merge) -> dict[int, list[exp.Expr]]:
    """Items of the SELECT's list that are stars, and what they stand for."""
    found: dict[int, list[exp.Expr]] = {}
    alone = len(from_items(merge.select)) == 1
    for node in _around(merge):
        if not isinstance(node, exp.Star) or _is_counted(node):
            continue
        item = node.parent if isinstance(node.parent, exp.Column) else node
        qualifier = item.table.lower() if isinstance(item, exp.Column) else ""
        if qualifier not in ("", merge.alias.lower()):
            continue
        if item.parent is not merge.select or item.arg_key != "expressions":
            if qualifier or next(_selects(item), None) is merge.select:
                raise _Refused("* stands inside an expression around it")
            continue
        if not qualifier and not alone:
            raise _Refused("* stands for more than its columns")
        found[id(item)] = _listed(node, merge)
    return found


def _is_counted(node: exp.Star) -> bool:
    parent = node.parent
    return isinstance(parent, exp.Anonymous) and str(parent.this).lower() == "count"


def _selects(node: exp.Expr) -> Iterator[exp.Expr]:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, exp.Select):
            yield parent
        parent = parent.parent


def _listed(star: exp.Star, merge: _Merge) -> list[exp.Expr]:
    if any(star.args.get(key) for key in ("replace", "rename", "ilike")):
        raise _Refused("* around it is changed")
    left_out = {one.name.lower() for one in star.args.get("except_") or []}
    if not left_out <= set(merge.outputs):
        raise _Refused("* around it leaves out a column that isn't there")
    return [
        exp.alias_(copy_of(one.value), one.name, quoted=True, copy=False)
        for name, one in merge.outputs.items()
        if name not in left_out
    ]


def _substitute(column: exp.Column, value: exp.Expr, select: exp.Select) -> None:
    new = copy_of(value)
    if not isinstance(new, exp.Column):
        new = exp.paren(new, copy=False)
    is_item = isinstance(column.parent, exp.Select) and column.arg_key == "expressions"
    column.replace(exp.alias_(new, column.name, quoted=True, copy=False) if is_item else new)


def _put(merge: _Merge) -> None:
    """The sub-query's FROM clause and conditions in place of the sub-query."""
    select, inner = merge.select, merge.inner
    cte = _cte_of(merge.item)
    mine, where = inner.args.get("where"), select.args.get("where")
    own = conjuncts(where.this if where else None)
    conditions = [*conjuncts(mine.this if mine else None), *own]
    merge.item.replace(inner.args["from_"].this)
    if inner.args.get("joins"):
        select.set("joins", [*inner.args["joins"], *(select.args.get("joins") or [])])
    set_where(select, conditions)
    if cte is not None:
        _drop_unused(cte)


def _drop_unused(cte: exp.Expr) -> None:
    """Take out a common table expression that nothing names any more, or it would be read."""
    clause = cte.parent
    assert clause is not None
    assert clause.parent is not None
    if any(common(table) is cte for table in all_of(clause.parent.root(), exp.Table)):
        return
    left = [one for one in clause.expressions if one is not cte]
    clause.set("expressions", left)
    if not left:
        clause.parent.set("with_", None)

"""What several rules ask of a SELECT."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from sqlglot import exp

from nearql.engine.derived import Derivation
from nearql.engine.schema import Column
from nearql.engine.types import Metric
from nearql.query.binder import (
    META,
    TEXT,
    Binding,
    PendingDistance,
    PendingValue,
    Source,
    common,
    from_items,
    own_nodes,
    unwrapped,
    visible_ctes,
)
from nearql.query.dialect import bit_distance_of, distance_of, to_nearql
from nearql.query.trees import all_of, copy_of, nodes_of

VOLATILE = frozenset(
    {"random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "setseed", "nextval", "currval",
     "now", "current_timestamp", "get_current_timestamp", "transaction_timestamp", "current_date",
     "current_time", "get_current_time", "today", "localtimestamp", "localtime",
     "current_localtime", "current_localtimestamp", "age"}
)  # fmt: skip
PARAMETER = re.compile(r"\$([A-Za-z_]\w*)")
NAME = "nearql_name"  # in the meta of an item without an alias: how it was written
_MULTIPLYING = frozenset({"unnest", "generate_subscripts"})


@dataclass(frozen=True)
class Found:
    """A distance between a base table's vector column and something else. ascending: smaller is
    nearer. derived: what an expression makes of the column, which is compared instead.
    """

    node: exp.Expr
    metric: Metric
    source: Source
    column: Column
    other: exp.Expr
    ascending: bool = True
    derived: Derivation | None = None

    @property
    def text(self) -> str:
        """As written, for notes and messages; long vectors shortened."""
        return shown_text(self.node)


def shown_text(node: exp.Expr) -> str:
    """A part of a statement for notes and messages; long vectors shortened."""
    text = PARAMETER.sub(r":\1", to_nearql(node))
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def distance_to(node: exp.Expr, binding: Binding) -> Found | None:
    """The distance that this node is, between a base table's vector column and anything."""
    parts = distance_of(unwrapped(node))
    if parts is None:
        return None
    metric, left, right = parts
    for mine, other in ((left, right), (right, left)):
        found = binding.column(mine)
        if found is not None and found[1].type.is_vector:
            return Found(unwrapped(node), metric, found[0], found[1], other)
    return None


def searchable(node: exp.Expr, binding: Binding) -> Found | None:
    """The distance that this node is, between a base table's vector column and a constant."""
    parts = distance_of(unwrapped(node))
    if parts is None:
        return None
    metric, left, right = parts
    for mine, other in ((left, right), (right, left)):
        found = binding.column(mine)
        if found is not None and found[1].type.is_vector and binding.is_constant(other):
            return Found(unwrapped(node), metric, found[0], found[1], other)
    return None


def sort_key(select: exp.Select) -> tuple[exp.Expr, bool] | None:
    """(expression, descending) of the first ORDER BY key, aliases and ordinals resolved."""
    order = select.args.get("order")
    if not order or not order.expressions or not isinstance(order.expressions[0], exp.Ordered):
        return None
    first = order.expressions[0]
    key = unwrapped(first.this)
    if isinstance(key, exp.Literal) and not key.is_string and key.name.isdigit():
        position = int(key.name) - 1
        items = select.expressions
        if any(item.is_star for item in items[: position + 1]) or position >= len(items):
            return None
        key = items[position]
    elif isinstance(key, exp.Column) and not key.table:
        named = [item for item in select.expressions if item.alias.lower() == key.name.lower()]
        key = named[0] if len(named) == 1 else key
    return unwrapped(key), bool(first.args.get("desc"))


def nulls_first(select: exp.Select) -> bool:
    """Whether ORDER BY asks in words for rows without a value first."""
    order = select.args.get("order")
    first = order.expressions[0] if order and order.expressions else None
    return isinstance(first, exp.Ordered) and bool(first.args.get("nulls_first"))


def nearest_first(select: exp.Select) -> exp.Expr | None:
    """The distance by which ORDER BY sorts the nearest rows first, or None.

    `-(a <#> b) DESC` and `inner_product(a, b) DESC` say the same as `a <#> b ASC`.
    """
    key = sort_key(select)
    if key is None or nulls_first(select):
        return None
    node, descending = key
    if not descending:
        return node if distance_of(node) else None
    negated = unwrapped(node.this) if isinstance(node, exp.Neg) else exp.Neg(this=copy_of(node))
    if not isinstance(node, exp.Neg):
        negated.parent = node.parent  # so that its columns resolve where the node stands
    return negated if distance_of(negated) else None


def bits_first(select: exp.Select) -> exp.Expr | None:
    """The distance of bit strings by which ORDER BY sorts the nearest rows first, or None."""
    key = sort_key(select)
    if key is None or nulls_first(select) or key[1]:
        return None
    return key[0] if bit_distance_of(key[0]) else None


def distance_in(node: exp.Expr) -> exp.Expr | None:
    """The distance that a sort key is made of: itself, or a sum, difference or multiple of it."""
    node = unwrapped(node)
    if distance_of(node) or bit_distance_of(node):
        return node
    if isinstance(node, exp.Neg):
        return distance_in(node.this)
    if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div):
        return distance_in(node.this) or distance_in(node.expression)
    return None


def conjuncts(where: exp.Expr | None) -> list[exp.Expr]:
    """The conditions that AND connects."""
    if where is None:
        return []
    node = unwrapped(where)
    return list(node.flatten()) if isinstance(node, exp.And) else [node]


def conjunction(conditions: list[exp.Expr]) -> exp.Expr | None:
    """All of them connected by AND; None for none.

    sqlglot's own and_() takes no sub-query in its compiled build.
    """
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return reduce(lambda a, b: exp.And(this=a, expression=b), map(_as_operand, conditions))


def _as_operand(node: exp.Expr) -> exp.Expr:
    return exp.Paren(this=node) if isinstance(node, exp.Connector) else node


def set_where(select: exp.Select, conditions: list[exp.Expr]) -> None:
    """Replace the WHERE clause; without conditions it goes."""
    condition = conjunction(conditions)
    select.set("where", exp.Where(this=condition) if condition is not None else None)


def aggregates(select: exp.Select, binding: Binding) -> bool:
    """Whether the SELECT groups rows."""
    if any(select.args.get(key) for key in ("group", "having")):
        return True
    return any(is_aggregate(node, binding) and not _windowed(node) for node in own_nodes(select))


def is_aggregate(node: exp.Expr, binding: Binding) -> bool:
    """Whether the node calls an aggregate function."""
    if isinstance(node, exp.AggFunc):
        return True
    return isinstance(node, exp.Anonymous) and str(node.this).lower() in binding.aggregates


def _windowed(node: exp.Expr) -> bool:
    parent = node.parent
    while isinstance(parent, exp.Filter | exp.WithinGroup | exp.IgnoreNulls | exp.RespectNulls):
        parent = parent.parent
    return isinstance(parent, exp.Window)


def row_obstacle(select: exp.Select, binding: Binding) -> str | None:
    """Why the SELECT's rows aren't one for one those of its FROM clause; None where they are."""
    if select.args.get("distinct"):
        return "DISTINCT merges rows"
    if aggregates(select, binding):
        return "rows are grouped"
    for key, why in (("qualify", "QUALIFY"), ("windows", "WINDOW"), ("sample", "SAMPLE")):
        if select.args.get(key):
            return f"{why} needs every row"
    nodes = list(own_nodes(select))
    if any(isinstance(node, exp.Window) for node in nodes):
        return "a window function needs every row"
    if any(multiplies(node) for node in nodes):
        return "UNNEST changes the number of rows"
    if any(isinstance(node, exp.Columns) for node in nodes):
        return "COLUMNS(...) could name helper columns"
    return None


def multiplies(node: exp.Expr) -> bool:
    """Whether the node makes several rows of one."""
    if isinstance(node, exp.Unnest | exp.Explode):
        return not isinstance(node.parent, exp.From | exp.Join)
    return isinstance(node, exp.Anonymous) and str(node.this).lower() in _MULTIPLYING


def limit_of(select: exp.Select, binding: Binding) -> tuple[exp.Expr, exp.Expr | None] | None:
    """(LIMIT, OFFSET) expressions, where both are constants; None otherwise."""
    limit, offset = select.args.get("limit"), select.args.get("offset")
    if (
        not isinstance(limit, exp.Limit)
        or limit.args.get("limit_options")
        or limit.args.get("offset")
    ):
        return None
    skipped = offset.expression if offset else None
    if not binding.is_constant(limit.expression) or (skipped and not binding.is_constant(skipped)):
        return None
    return limit.expression, skipped


def only_source(select: exp.Select, binding: Binding) -> Source | None:
    """The base table that is all of the FROM clause."""
    items = from_items(select)
    if len(items) != 1 or select.args.get("laterals"):
        return None
    source = binding.source_of(items[0])
    return source if source and not source.opaque and source.materialized is None else None


def ties_by_key(select: exp.Select, source: Source) -> bool:
    """Whether nothing follows the first sort key, or only the primary key."""
    rest = select.args["order"].expressions[1:]
    if not rest:
        return True
    key = source.table.schema.key.name.lower()
    return len(rest) == 1 and not rest[0].args.get("desc") and _names(rest[0].this, key, source)


def _names(node: exp.Expr, name: str, source: Source) -> bool:
    qualifiers = ("", source.alias.lower())
    return (
        isinstance(node, exp.Column)
        and node.name.lower() == name
        and node.table.lower() in qualifiers
    )


def sort_by(select: exp.Select, *keys: exp.Expr) -> None:
    """Replace ORDER BY by these keys, ascending."""
    ordered = [exp.Ordered(this=key, nulls_first=False) for key in keys]
    select.set("order", exp.Order(expressions=ordered))


def distance_column(found: Found, binding: Binding) -> PendingDistance:
    """The column of the source that is this distance to a constant; made on first use."""
    source = found.source
    identity = identity_of(found, binding)
    for distance in source.distances:
        if distance.identity == identity:
            return distance
    name = f"{source.name}_d{len(source.distances)}"
    query = pending_vector(found, binding)
    shown = "" if found.derived is None else expression_of(found)
    distance = PendingDistance(
        name, found.column.name, found.metric, query, identity, found.derived, shown
    )
    source.distances.append(distance)
    return distance


def identity_of(found: Found, binding: Binding) -> str:
    """Equal for equal distances."""
    identity = binding.identity(found.metric, found.source, found.column.name, found.other)
    return identity if found.derived is None else f"{found.derived} {identity}"


def expression_of(found: Found) -> str:
    """The side of a distance that is made of a column, as text."""
    parts = distance_of(found.node) or bit_distance_of(found.node)
    assert parts is not None
    return shown_text(parts[1] if parts[2] is found.other else parts[2])


def pending_vector(found: Found, binding: Binding) -> PendingValue:
    """The constant side of a distance as a value to be had when the statement runs."""
    where = f"{found.source.table.name}.{found.column.name}"
    derived = found.derived
    if derived is None:
        return pending_value(found.other, where, found.column.type.dimensions)
    value = pending_value(found.other, where, derived.dimensions)
    value.bits = derived.dimensions if derived.is_of_bits else None
    return value


def pending_value(expression: exp.Expr, where: str, dimensions: int | None = None) -> PendingValue:
    """A constant expression, taken out of the tree with the common table expressions it names."""
    select = exp.Select(expressions=[copy_of(expression)])
    select.meta[TEXT] = to_nearql(unwrapped(expression))
    return PendingValue(with_ctes(expression, select), where, dimensions)


def with_ctes(origin: exp.Expr, detached: exp.Select) -> exp.Select:
    """Give a SELECT made of parts of a tree the common table expressions that those parts name."""
    if not any(common(table) for table in all_of(origin, exp.Table)):
        return detached
    seen: dict[str, exp.CTE] = {}
    for cte in visible_ctes(origin):
        seen.setdefault(cte.alias.lower(), cte)
    recursive = any(cte.parent and cte.parent.args.get("recursive") for cte in seen.values())
    definitions = [copy_of(cte) for cte in reversed(seen.values())]
    detached.set("with_", exp.With(expressions=definitions, recursive=recursive))
    return detached


def detachable(node: exp.Expr, binding: Binding) -> bool:
    """Whether a part of the tree may be evaluated on its own, apart from what stands around it."""
    tables = [table for table in all_of(node, exp.Table) if common(table)]
    if not tables:
        return True
    ctes = list(visible_ctes(node))
    names = [cte.alias.lower() for cte in ctes]
    inside = node.find_ancestor(exp.CTE)
    if len(set(names)) < len(names) or (inside is not None and inside in ctes):
        return False
    return not any(is_volatile(cte) or binding.free(cte.this) for cte in ctes)


def is_volatile(tree: exp.Expr) -> bool:
    """Whether evaluating the tree twice may give two answers."""
    for node in nodes_of(tree):
        if isinstance(node, exp.TableSample | exp.Rand | exp.CurrentTimestamp | exp.CurrentDate):
            return True
        if isinstance(node, exp.Anonymous) and str(node.this).lower() in VOLATILE:
            return True
        if isinstance(node, exp.Column) and not node.table and node.name.lower() in VOLATILE:
            return True
    return False


def filter_query(
    select: exp.Select, source: Source, conditions: list[exp.Expr], binding: Binding
) -> exp.Select | None:
    """A query for the row numbers of `source` that satisfy the conditions, which leave `select`."""
    if not conditions:
        return None
    table = next(item for item in from_items(select) if binding.source_of(item) is source)
    alone = exp.Table(
        this=copy_of(table.this), db=table.args.get("db"), alias=table.args.get("alias")
    )
    inner = exp.Select(expressions=[exp.Null()])
    inner.set("from_", exp.From(this=copy_of(alone)))
    inner.set("where", exp.Where(this=conjunction([copy_of(one) for one in conditions])))
    for condition in conditions:
        with_ctes(condition, inner)
    return _finished_filter(inner, binding)


def _finished_filter(inner: exp.Select, binding: Binding) -> exp.Select:
    binding.bind(inner)
    source = binding.source_of(from_items(inner)[0])
    assert source is not None
    inner.set("expressions", [source.row_reference()])
    binding.rewrite(inner)
    return inner


def movable(conditions: list[exp.Expr], source: Source, binding: Binding) -> bool:
    """Whether the conditions are about this source alone and may be evaluated apart."""
    return all(
        detachable(condition, binding)
        and all(_belongs(c, source, binding) for c in binding.free(condition))
        for condition in conditions
    )


def _belongs(column: exp.Column, source: Source, binding: Binding) -> bool:
    found = binding.owner(column)
    return found is not None and found[1].source is source and _exists(column, source)


def _exists(column: exp.Column, source: Source) -> bool:
    return column.name.lower() in source.table.schema.by_name


def replace_distances(
    nodes: Iterable[exp.Expr], distance: PendingDistance, binding: Binding
) -> None:
    """Put the source's distance column where these nodes are that distance."""
    for node in list(nodes):
        found = searchable(node, binding) if distance_of(node) else None
        if found is None:
            continue
        identity = binding.identity(found.metric, found.source, found.column.name, found.other)
        if identity == distance.identity:
            put_column(node, found.source.refer(distance.name))


def put_column(node: exp.Expr, column: exp.Expr) -> None:
    """Replace the node, keeping the name that it would have had in the answer."""
    parent = node.parent
    if isinstance(parent, exp.Select) and node.arg_key == "expressions":
        node.replace(exp.alias_(column, item_name(to_nearql(node)), quoted=True, copy=False))
    else:
        node.replace(column)


def replace_named(node: exp.Expr, made: exp.Expr) -> None:
    """Replace the node by one that means the same, and is named after it in the answer."""
    if (name := node.meta_get(NAME)) is not None:
        made.meta[NAME] = name
    node.replace(made)


def item_name(text: str) -> str:
    """The name of a column without an alias: its text, parameters as in `:q`, shortened."""
    return PARAMETER.sub(r":\1", text)[:64]


def table_node(select: exp.Select, source: Source, binding: Binding) -> exp.Expr:
    """The node in the FROM clause that is tied to this source."""
    return next(item for item in from_items(select) if item.meta.get(META) == source.name)

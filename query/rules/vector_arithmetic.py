"""`vec + '[1,2]'`, `avg(vec)`: DuckDB would concatenate or refuse lists; call the vector functions
instead.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.query.binder import Binding, own_nodes, unwrapped
from nearql.query.rules.common import replace_named
from nearql.query.trees import copy_of
from nearql.query.vector_types import duck_type, vector_type

_ELEMENTWISE: dict[type[exp.Expr], str] = {
    exp.Add: "nq_add",
    exp.Sub: "nq_subtract",
    exp.Mul: "nq_multiply",
    exp.DPipe: "nq_concat",
}
_AGGREGATES = {"avg": "nq_avg", "mean": "nq_avg", "sum": "nq_sum"}
_MAKING = frozenset(
    {"l2_normalize", "subvector", "nq_add", "nq_subtract", "nq_multiply", "nq_concat", "nq_avg",
     "nq_sum", "nq_total_raw"}
)  # fmt: skip
_KEEPING = frozenset(
    {"any_value", "first", "last", "arg_min", "arg_max", "min_by", "max_by", "coalesce"}
)


def vector_arithmetic(select: exp.Select, binding: Binding) -> None:
    """Replace arithmetic whose operands are vectors; innermost first, to see sums of sums."""
    for node in reversed(list(own_nodes(select))):
        if type(node) in _ELEMENTWISE and (
            is_vector(node.this, binding) or is_vector(node.expression, binding)
        ):
            call = exp.Anonymous(
                this=_ELEMENTWISE[type(node)], expressions=[node.this, node.expression]
            )
            replace_named(node, call)
        elif _is_aggregate(node) and is_vector(node.expressions[0], binding):
            _aggregated(node)


def _aggregated(node: exp.Expr) -> None:
    """Call the vectors' aggregate. It is a macro, which takes neither FILTER nor OVER: what FILTER
    drops becomes NULL, and OVER stands at the list that the macro would gather.
    """
    name = _AGGREGATES[str(node.this).lower()]
    node.set("this", name)
    outer = node.parent
    if isinstance(outer, exp.Filter):
        when = exp.If(this=outer.expression.this, true=node.expressions[0])
        node.set("expressions", [exp.Case(ifs=[when])])
        window = outer.parent
        replace_named(outer, node)
        outer = window
    if isinstance(outer, exp.Window) and outer.this is node:
        _gather(outer, node.expressions[0], mean=name == "nq_avg")


def _gather(window: exp.Window, vectors: exp.Expr, *, mean: bool) -> None:
    column = exp.Cast(this=exp.paren(vectors, copy=False), to=duck_type(None))
    present = exp.Not(this=exp.Is(this=copy_of(column), expression=exp.Null()))
    lists = exp.Anonymous(this="list", expressions=[column])
    call = exp.Anonymous(this="nq_total_raw")
    replace_named(window, call)
    window.set("this", exp.Filter(this=lists, expression=exp.Where(this=present)))
    call.set("expressions", [window, exp.Boolean(this=mean)])


def _is_aggregate(node: exp.Expr) -> bool:
    named = isinstance(node, exp.Anonymous) and str(node.this).lower() in _AGGREGATES
    return named and len(node.expressions) == 1


def is_vector(node: exp.Expr, binding: Binding) -> bool:
    """Whether an expression's value is a vector, as far as names and casts tell."""
    node = unwrapped(node)
    if isinstance(node, exp.Window | exp.Filter):
        return is_vector(node.this, binding)
    if isinstance(node, exp.Cast):
        return vector_type(node.to) is not None
    if isinstance(node, exp.Anonymous):
        name = str(node.this).lower()
        return name in _MAKING or (
            name in _KEEPING and bool(node.expressions) and is_vector(node.expressions[0], binding)
        )
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select):
        items = node.this.expressions
        return len(items) == 1 and is_vector(items[0], binding)
    return isinstance(node, exp.Column) and _is_vector_column(node, binding)


def _is_vector_column(node: exp.Column, binding: Binding) -> bool:
    found = binding.column(node)
    if found is not None:
        return found[1].type.is_vector
    owner = binding.owner(node)
    query = owner[1].query if owner else None
    while isinstance(query, exp.SetOperation | exp.Subquery):
        query = query.this
    if not isinstance(query, exp.Select):
        return False
    return _output_is_vector(query, node.name.lower(), binding)


def _output_is_vector(query: exp.Select, name: str, binding: Binding) -> bool:
    for item in query.expressions:
        if item.alias_or_name.lower() == name:
            return is_vector(item, binding)
    if not any(item.is_star for item in query.expressions):
        return False
    for entry in binding.entries(query).values():
        if entry.source is not None and name in (entry.names or ()):
            column = entry.source.table.schema.by_name.get(name)
            return column is not None and column.type.is_vector
        if isinstance(entry.query, exp.Select) and name in (entry.names or ()):
            return _output_is_vector(entry.query, name, binding)
    return False

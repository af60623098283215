"""Trees -> SQL text."""

from __future__ import annotations

from sqlglot import exp

from nearql.engine.types import Metric
from nearql.query.dialect.grammar import CARRIERS, NearQL

_OPERATOR_METRIC = {
    "<->": Metric.L2, "<#>": Metric.INNER_PRODUCT, "<=>": Metric.COSINE, "<+>": Metric.L1,
}  # fmt: skip
_FUNCTION_METRIC = {
    "l2_distance": Metric.L2,
    "cosine_distance": Metric.COSINE,
    "l1_distance": Metric.L1,
    "inner_product": Metric.INNER_PRODUCT,
}
CANONICAL = {
    Metric.L2: "nq_l2", Metric.INNER_PRODUCT: "nq_ip", Metric.COSINE: "nq_cos", Metric.L1: "nq_l1",
}  # fmt: skip


def distance_of(node: exp.Expr) -> tuple[Metric, exp.Expr, exp.Expr] | None:
    """(metric, left, right) where the node's value is that metric's distance; else None.

    `inner_product(a, b)` is positive, so it is the *negated* call, `-inner_product(a, b)`, that is the
    distance of `<#>`.
    """
    operator = CARRIERS.get(type(node))
    if operator in _OPERATOR_METRIC:
        return _OPERATOR_METRIC[operator], node.this, node.expression
    negated = isinstance(node, exp.Neg)
    call = node.this if negated else node
    if not isinstance(call, exp.Anonymous) or len(call.expressions) != 2:
        return None
    metric = _FUNCTION_METRIC.get(str(call.name).lower())
    if metric is None or negated != (metric is Metric.INNER_PRODUCT):
        return None
    return metric, call.expressions[0], call.expressions[1]


def to_duckdb(tree: exp.Expr) -> str:
    """The tree as DuckDB's SQL; distance operators left in it become calls of `nq_*`."""
    return tree.transform(_canonical).sql(dialect=NearQL, normalize_functions=False, comments=False)


def to_nearql(tree: exp.Expr) -> str:
    """The tree as NearQL text, for messages and EXPLAIN."""
    return tree.sql(dialect=NearQL, normalize_functions=False, comments=False)


def _canonical(node: exp.Expr) -> exp.Expr:
    found = distance_of(node)
    if found is None:
        return node
    metric, left, right = found
    return exp.Anonymous(this=CANONICAL[metric], expressions=[left, right])

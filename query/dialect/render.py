"""Trees -> SQL text, saying in DuckDB's words exactly what was written in NearQL's.

What `to_duckdb` emits (the executor's part of the bargain is to register these functions):

| in NearQL | in DuckDB |
|---|---|
| `a <-> b`, `a <#> b`, `a <=> b`, `a <+> b`, and the functions of the same meaning | `nq_l2(a,
b)`, `nq_ip`, `nq_cos`, `nq_l1` |
| `inner_product(a, b)`, positive as in pgvector, unless negated | as it is |
| `a <~> b`, `a <%> b`, and `hamming_distance`, `jaccard_distance` | `nq_hamming(a, b)`,
`nq_jaccard(a, b)` |
| `vector_dims, vector_norm, l2_normalize, subvector, binary_quantize` | as they are |
| `x::vector(3)`, `x::vector` | `CAST(x AS FLOAT[3])`, `CAST(x AS FLOAT[])` |
| `x::halfvec(3)` | `CAST(nq_half(x) AS FLOAT[3])`: elements rounded to float16 |
| `x::bit(3)` | `nq_bits(x, 3)`: cut off or filled with zeros on the right, as in PostgreSQL |
| `repeat(a, n)` and others that grow | the same with n bounded, see `bounds` |
| `:q`, `$q`, `?`, `$1` | `$q`, `$q`, `$1`, `$1` |

`+ - *` and `avg`, `sum` look the same for numbers and vectors, so only the executor, which knows
types, can tell them apart (`nq_add, nq_subtract, nq_multiply, nq_avg, nq_sum`).

sqlglot's generator is right for nearly every node once functions are kept as written; the few that
it would change (`IGNORE NULLS`, `WITHIN GROUP`) are rendered here and put back as plain text nodes.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import ErrorLevel, exp
from sqlglot.errors import UnsupportedError

from nearql.engine.errors import SqlError, Unsupported
from nearql.engine.schema import ColumnType
from nearql.engine.types import Metric
from nearql.query import patience
from nearql.query.dialect.bounds import bounded
from nearql.query.dialect.grammar import BROKEN, CARRIERS, NearQL
from nearql.query.dialect.stack import LAYERS
from nearql.query.trees import copy_of, nodes_of_shallow

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
    Metric.L2: "nq_l2",
    Metric.INNER_PRODUCT: "nq_ip",
    Metric.COSINE: "nq_cos",
    Metric.L1: "nq_l1",
}


def distance_of(node: exp.Expr) -> tuple[Metric, exp.Expr, exp.Expr] | None:
    """(metric, left, right) where the node's value is that metric's distance; else None.

    `inner_product(a, b)` is positive, so it is the negated call, `-inner_product(a, b)`, that is
    the distance of `<#>`.
    """
    operator = CARRIERS.get(type(node))
    if operator is not None and operator in _OPERATOR_METRIC:
        return _OPERATOR_METRIC[operator], node.this, node.expression
    negated = isinstance(node, exp.Neg)
    call = node.this if negated else node
    if not isinstance(call, exp.Anonymous) or len(call.expressions) != 2:
        return None
    metric = _FUNCTION_METRIC.get(str(call.name).lower())
    if metric is None or negated != (metric is Metric.INNER_PRODUCT):
        return None
    return metric, call.expressions[0], call.expressions[1]


_BITS = {"<~>": "nq_hamming", "<%>": "nq_jaccard"}
_BIT_FUNCTIONS = {"hamming_distance": "nq_hamming", "jaccard_distance": "nq_jaccard"}


def bit_distance_of(node: exp.Expr) -> tuple[str, exp.Expr, exp.Expr] | None:
    """(DuckDB's function, left, right) where the node is a distance of bit strings; else None."""
    operator = CARRIERS.get(type(node))
    if operator is not None and operator in _BITS:
        return _BITS[operator], node.this, node.expression
    if isinstance(node, exp.Anonymous) and len(node.expressions) == 2:
        name = _BIT_FUNCTIONS.get(str(node.name).lower())
        return None if name is None else (name, *node.expressions)
    return None


def to_duckdb(tree: exp.Expr, *, spent: bool = False) -> str:
    """The tree as DuckDB's SQL; the tree itself stays as it is, unless nobody needs it any more.

    Raises:
        Unsupported: a cast that has no meaning in DuckDB.
        SqlError: code `statement_too_complex`.
    """
    return _render(tree, _DUCKDB, spent=spent)


def to_nearql(tree: exp.Expr) -> str:
    """The tree as NearQL text, for messages and EXPLAIN; `parse` reads it as the same tree."""
    return _render(tree, _FAITHFUL)


Rewrites = dict[type[exp.Expr], Callable[[exp.Expr], exp.Expr]]


def _render(tree: exp.Expr, rewrites: Rewrites, *, spent: bool = False) -> str:
    patience.check()
    try:
        root = exp.Tuple(expressions=[tree if spent else copy_of(tree)])
        found = [one for one in nodes_of_shallow(root, LAYERS) if type(one) in rewrites]
        for node in reversed(found):  # children before parents
            made = rewrites[type(node)](node)
            if made is not node:
                node.replace(made)
        return _sql(root.expressions[0], spent=True)
    except UnsupportedError as error:
        detail = str(error).split("\n", 1)[0].rstrip(".")
        raise Unsupported(f"The statement can't be written for DuckDB: {detail}.") from error
    except BROKEN as error:
        raise SqlError("A part of the statement is missing or misplaced.") from error
    except RecursionError as error:
        raise SqlError(
            "The statement is nested too deeply.", code="statement_too_complex", sqlstate="54001"
        ) from error


def _sql(node: exp.Expr, *, spent: bool = False) -> str:
    return node.sql(
        dialect=NearQL,
        copy=not spent,  # sqlglot changes what it writes
        normalize_functions=False,
        comments=False,
        unsupported_level=ErrorLevel.RAISE,
    )


def _verbatim(text: str) -> exp.Expr:
    return exp.Var(this=text)


def _ignore_nulls(node: exp.Expr) -> exp.Expr:
    return _verbatim(f"{_sql(node.this)} IGNORE NULLS")


def _respect_nulls(node: exp.Expr) -> exp.Expr:
    return _verbatim(f"{_sql(node.this)} RESPECT NULLS")


def _within_group(node: exp.Expr) -> exp.Expr:
    return _verbatim(f"{_sql(node.this)} WITHIN GROUP ({_sql(node.expression).strip()})")


def _distinct(node: exp.Expr) -> exp.Expr:
    if isinstance(node.parent, exp.Select) or len(node.expressions) < 2:
        return node
    return _verbatim(f"DISTINCT {', '.join(map(_sql, node.expressions))}")


_NEGATED = {exp.In: " IN", exp.Between: " BETWEEN", exp.Is: " IS"}


def _not(node: exp.Expr) -> exp.Expr:
    """`x NOT IN ...`, `x NOT BETWEEN ...` and `x IS NOT ...` again, which sqlglot turns around."""
    inner = node.this
    if isinstance(inner, exp.RegexpLike):
        return _verbatim(f"{_sql(inner.this)} !~ {_sql(inner.expression)}")
    word = _NEGATED.get(type(inner))
    if word is None or (
        word == " IS" and isinstance(node.parent, exp.Binary) and not _connects(node)
    ):
        return node
    text, head = _sql(inner), _sql(inner.this)
    if not text.startswith(head + word):
        return node
    rest = text[len(head) + len(word) :]
    return _verbatim(head + (" IS NOT" if word == " IS" else f" NOT{word}") + rest)


def _connects(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.And | exp.Or)


# sqlglot would turn these operators into calls, which fixes its own idea of their precedence.
_INFIX: dict[type[exp.Expr], str] = {
    exp.StartsWith: "^@",
    exp.RegexpLike: "~",
    exp.Pow: "**",
    exp.BitwiseLeftShift: "<<",
    exp.BitwiseRightShift: ">>",
}


def _infix(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.RegexpLike) and isinstance(node.parent, exp.Not):
        return node  # `!~`, see _not
    return _verbatim(f"{_sql(node.this)} {_INFIX[type(node)]} {_sql(node.expression)}")


def _negative(node: exp.Expr) -> exp.Expr:
    # without the space DuckDB would read -~ as one operator
    return _verbatim(f"- {_sql(node.this)}") if isinstance(node.this, exp.BitwiseNot) else node


def _arrow(node: exp.Expr) -> exp.Expr:
    # sqlglot would put brackets around a chain, and DuckDB's arrows don't associate as it believes
    operator = "->>" if isinstance(node, exp.JSONExtractScalar) else "->"
    return _verbatim(f"{_sql(node.this)} {operator} {_sql(node.expression)}")


_LOOSER = (exp.Binary, exp.Unary, exp.In, exp.Between, exp.AtTimeZone)
_ARROWS = (exp.JSONExtract, exp.JSONExtractScalar)


def _bracketed_arrow(node: exp.Expr) -> exp.Expr:
    """`meta ->> 'lang' = 'en'`: to PostgreSQL, and here, arrows bind tighter than comparisons; to
    DuckDB more loosely than anything.
    """
    made, parent = _arrow(node), node.parent
    if isinstance(parent, (*_ARROWS, exp.Paren)) or not isinstance(parent, _LOOSER):
        return made
    return _verbatim(f"({made.name})")


def _canonical(node: exp.Expr) -> exp.Expr:
    found = distance_of(node)
    if found is None:
        return _bit_distance(node)
    metric, left, right = found
    return exp.Anonymous(this=CANONICAL[metric], expressions=[copy_of(left), copy_of(right)])


def _bit_distance(node: exp.Expr) -> exp.Expr:
    found = bit_distance_of(node)
    if found is None:
        return node
    name, left, right = found
    return exp.Anonymous(this=name, expressions=[copy_of(left), copy_of(right)])


def _called(node: exp.Expr) -> exp.Expr:
    made = _canonical(node)
    return bounded(node) if made is node and isinstance(node, exp.Anonymous) else made


def _negated_canonical(node: exp.Expr) -> exp.Expr:
    made = _canonical(node)
    return _negative(node) if made is node else made


def _cast(node: exp.Expr) -> exp.Expr:
    bits = bit_length(node.args["to"])
    if bits is not None:
        return exp.Anonymous(
            this="nq_try_bits" if isinstance(node, exp.TryCast) else "nq_bits",
            expressions=[copy_of(node.this), exp.Literal.number(bits)],
        )
    made = vector_type(node.args["to"])
    if made is None:
        return _sized_float(node)
    kind, dimensions = made
    if kind == "HALFVEC":
        node.set("this", exp.Anonymous(this="nq_half", expressions=[copy_of(node.this)]))
    suffix = "" if dimensions is None else str(dimensions)
    node.set("to", exp.Var(this=f"FLOAT[{suffix}]"))
    return node


def _sized_float(node: exp.Expr) -> exp.Expr:
    """FLOAT(n) is FLOAT or DOUBLE by its binary digits, as in PostgreSQL; DuckDB has no such."""
    kind = node.args["to"]
    if _type_name(kind) == "FLOAT" and kind.expressions:
        found = ColumnType.parse(f"FLOAT({_sql(kind.expressions[0])})").name
        node.set("to", exp.DataType.build(found, dialect="duckdb"))
    return node


def vector_type(kind: exp.Expr) -> tuple[str, int | None] | None:
    """("VECTOR" | "HALFVEC", dimensions) of a cast's target, or None for any other type.

    Raises:
        Unsupported: SPARSEVEC.
        InvalidValue: dimensions out of range.
    """
    name = _type_name(kind)
    if name == "SPARSEVEC":
        ColumnType.parse(name)  # refuses it, with the alternative
    if name not in ("VECTOR", "HALFVEC"):
        return None
    if not kind.expressions:
        return name, None
    return name, ColumnType.parse(f"{name}({_sql(kind.expressions[0])})").dimensions


def bit_length(kind: exp.Expr) -> int | None:
    """The n of a cast to BIT(n); None for any other type, `BIT` of any length included.

    Raises:
        InvalidValue: out of range.
    """
    if _type_name(kind) != "BIT" or not kind.expressions:
        return None
    return ColumnType.parse(f"BIT({_sql(kind.expressions[0])})").bits


def _type_name(kind: exp.Expr) -> str:
    if not isinstance(kind, exp.DataType):
        return ""
    if kind.this == exp.DType.USERDEFINED:
        return str(kind.args.get("kind") or "").upper()
    if isinstance(kind.this, exp.Interval):
        raise Unsupported(
            "A cast to INTERVAL with a unit is not offered: CAST to INTERVAL without a unit, or "
            "write INTERVAL '90' MINUTE."
        )
    return str(kind.this.value)


_FAITHFUL: Rewrites = {
    exp.IgnoreNulls: _ignore_nulls,
    exp.RespectNulls: _respect_nulls,
    exp.WithinGroup: _within_group,
    exp.Distinct: _distinct,
    exp.Not: _not,
    **dict.fromkeys(_INFIX, _infix),
    exp.Neg: _negative,
    exp.JSONExtract: _arrow,
    exp.JSONExtractScalar: _arrow,
}
_TO_DUCKDB: Rewrites = {
    **dict.fromkeys(CARRIERS, _canonical),
    exp.Anonymous: _called,
    exp.Neg: _negated_canonical,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    **dict.fromkeys(_ARROWS, _bracketed_arrow),
}
_DUCKDB: Rewrites = _FAITHFUL | _TO_DUCKDB

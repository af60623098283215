"""Expressions that an index can be over, as steps from a column to what is compared.

`sql_terms` asks about definitions, the planner about statements: an index is found for an
expression however that is spelled.

    subvector(vec::halfvec(384), 1, 64)::halfvec(64)    vec: half, part 0 to 64
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlglot import exp

from nearql.engine.derived import Derivation, Step
from nearql.engine.schema import Column, TableSchema
from nearql.query.binder import unwrapped
from nearql.query.dialect import parse
from nearql.query.dialect.render import bit_length
from nearql.query.statements import Select
from nearql.query.vector_types import vector_type

ColumnOf = Callable[[exp.Expr], "Column | None"]


@dataclass(frozen=True, slots=True)
class Made:
    """What an expression makes of a column. steps: none where that is the vector column itself.

    dimensions: of it, or bits where it is bits.
    """

    column: Column
    steps: tuple[Step, ...]
    dimensions: int
    half: bool = False
    bits: bool = False

    @property
    def derivation(self) -> Derivation | None:
        """The steps as the engine takes them; None for the column itself."""
        return Derivation(self.steps, self.dimensions) if self.steps else None


def made_of(node: exp.Expr, column_of: ColumnOf) -> Made | None:
    """What an expression makes of a column, where that is something an index can be over.

    column_of: the column that a node names; None for anything else.
    """
    node = unwrapped(node)
    if isinstance(node, exp.Column):
        column = column_of(node)
        if column is not None and column.type.bits is not None:
            return Made(column, (Step("stored"),), column.type.bits, bits=True)
        if column is None or column.type.dimensions is None:
            return None
        return Made(column, (), column.type.dimensions, column.type.element == "float16")
    if type(node) is exp.Cast:
        return _cast(node, column_of)
    if not isinstance(node, exp.Anonymous):
        return None
    name = str(node.this).lower()
    return _CALLS[name](node, column_of) if name in _CALLS else None


def _cast(node: exp.Cast, column_of: ColumnOf) -> Made | None:
    bits = bit_length(node.to)
    if bits is not None:
        inner = made_of(node.this, column_of)
        return inner if inner is not None and inner.bits and inner.dimensions == bits else None
    kind = vector_type(node.to)
    inner = made_of(node.this, column_of) if kind is not None else None
    if kind is None or inner is None or inner.bits or kind[1] not in (None, inner.dimensions):
        return None
    if kind[0] != "HALFVEC" or inner.half:
        return inner
    return replace(inner, steps=(*inner.steps, Step("half")), half=True)


def _signs(node: exp.Anonymous, column_of: ColumnOf) -> Made | None:
    inner = made_of(node.expressions[0], column_of) if len(node.expressions) == 1 else None
    if inner is None or inner.bits:
        return None
    return replace(inner, steps=(*inner.steps, Step("signs")), bits=True)


def _part(node: exp.Anonymous, column_of: ColumnOf) -> Made | None:
    if len(node.expressions) != 3:
        return None
    inner = made_of(node.expressions[0], column_of)
    first, count = (_whole(one) for one in node.expressions[1:])
    if inner is None or inner.bits or first is None or count is None:
        return None
    low, high = max(first, 1) - 1, min(first + count - 1, inner.dimensions)
    if high <= low:
        return None
    if (low, high) == (0, inner.dimensions):
        return inner
    step = Step("part", low, high - low)
    return replace(inner, steps=(*inner.steps, step), dimensions=high - low)


_CALLS: dict[str, Callable[[exp.Anonymous, ColumnOf], Made | None]] = {
    "subvector": _part,
    "binary_quantize": _signs,
}


def _whole(node: exp.Expr) -> int | None:
    node = unwrapped(node)
    negative = isinstance(node, exp.Neg)
    literal = unwrapped(node.this) if negative else node
    if not isinstance(literal, exp.Literal) or literal.is_string or not literal.name.isdigit():
        return None
    return -int(literal.name) if negative else int(literal.name)


# ---- definitions ------------------------------------------------------------------------


def tree_of(text: str) -> exp.Expr:
    """An expression of the catalog as a tree."""
    parsed = parse(f"SELECT {text}")[0]
    assert isinstance(parsed, Select)
    found = parsed.tree.expressions[0]
    assert isinstance(found, exp.Expr)
    return found


def in_schema(schema: TableSchema) -> ColumnOf:
    """Columns by their names alone."""
    return lambda node: schema.by_name.get(node.name.lower())

"""Constants as they are written in a statement: numbers, vectors, bit strings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from nearql.engine.errors import InvalidValue
from nearql.query.binder import PendingValue, unwrapped
from nearql.query.bits import bits_of, is_bit_text
from nearql.query.dialect.render import bit_length
from nearql.query.guard import placed, position_of
from nearql.query.parameters import vector
from nearql.query.trees import copy_of


def quantized(node: exp.Expr, bits: int) -> exp.Expr | None:
    """The vector in `binary_quantize(vector)::bit(bits)`, a copy of it; None for anything else."""
    if isinstance(node, exp.Cast) and bit_length(node.to) == bits:
        node = unwrapped(node.this)
    if not isinstance(node, exp.Anonymous) or str(node.this).lower() != "binary_quantize":
        return None
    return copy_of(node.expressions[0]) if len(node.expressions) == 1 else None


def bit_literal(node: exp.Expr, bits: int) -> NDArray[np.float32] | None:
    """A bit string of this length that is written as text or as B'101', as zeros and ones."""
    plain = node = unwrapped(node)
    if isinstance(node, exp.Cast):
        if bit_length(node.to) != bits and node.to.sql().upper() != "BIT":
            return None  # it makes something else of the text
        plain = unwrapped(node.this)
    if not isinstance(plain, exp.Literal) or not plain.is_string:
        return None
    return bits_of(plain.name, bits) if is_bit_text(plain.name, bits) else None


def check_literal(node: exp.Expr, dimensions: int | None) -> None:
    """Vector text in a cast is read here already, for its message: DuckDB would show our types."""
    if isinstance(node, exp.Literal) and node.is_string:
        with placed(position_of(node)):
            vector(node.name, dimensions=dimensions, where="the vector")


def vector_literal(node: exp.Expr, pending: PendingValue) -> np.ndarray | None:
    """A vector written as text or as an array of plain numbers."""
    if isinstance(node, exp.Literal) and node.is_string:
        return vector(
            node.name,
            dimensions=pending.dimensions,
            where=f"the vector compared with {pending.where}",
        )
    if isinstance(node, exp.Array):
        numbers = [number_literal(unwrapped(item)) for item in node.expressions]
        if numbers and all(number is not None for number in numbers):
            where = f"the vector compared with {pending.where}"
            return vector(numbers, dimensions=pending.dimensions, where=where)
    return None


def number_literal(node: exp.Expr) -> float | None:
    """A number written as such."""
    negative = isinstance(node, exp.Neg)
    literal = unwrapped(node.this) if negative else node
    if not isinstance(literal, exp.Literal) or literal.is_string:
        return None
    try:
        number = float(literal.name.replace("_", ""))
    except ValueError:
        raise InvalidValue(f"{literal.name} is no number.") from None
    return -number if negative else number

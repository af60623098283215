"""VECTOR and HALFVEC as types in SQL text: recognising them, and what DuckDB calls them."""

from __future__ import annotations

from functools import lru_cache

from sqlglot import exp

from nearql.query.trees import copy_of

_NAMES = ("VECTOR", "HALFVEC")


def vector_type(kind: exp.Expr) -> tuple[str, int | None] | None:
    """(VECTOR or HALFVEC, dimensions or None) where a type node is a vector type; else None."""
    if not isinstance(kind, exp.DataType):
        return None
    name = str(kind.args.get("kind") or getattr(kind.this, "value", kind.this)).upper()
    if name not in _NAMES:
        return None
    sizes = [
        str(part.this.name) for part in kind.expressions if isinstance(part, exp.DataTypeParam)
    ]
    return name, int(sizes[0]) if sizes and sizes[0].isdigit() else None


def duck_type(dimensions: int | None) -> exp.DataType:
    """FLOAT[n], or FLOAT[] where the number of dimensions is open."""
    return copy_of(_float_list("" if dimensions is None else str(dimensions)))


@lru_cache(maxsize=64)
def _float_list(size: str) -> exp.DataType:
    return exp.DataType.build(f"FLOAT[{size}]", dialect="duckdb")

"""Vector types with distances as operators, named as pgvector's Python package names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Float
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine, UserDefinedType


class _Distances(UserDefinedType.Comparator[Any]):
    """What can be asked of a vector column; each is smaller for what is nearer."""

    def l2_distance(self, other: Any) -> ColumnElement[float]:
        """Euclidean distance: `<->`."""
        return self._distance("<->", other)

    def max_inner_product(self, other: Any) -> ColumnElement[float]:
        """Negative inner product: `<#>`."""
        return self._distance("<#>", other)

    def cosine_distance(self, other: Any) -> ColumnElement[float]:
        """1 - cosine of the angle: `<=>`."""
        return self._distance("<=>", other)

    def l1_distance(self, other: Any) -> ColumnElement[float]:
        """Sum of absolute differences: `<+>`."""
        return self._distance("<+>", other)

    def _distance(self, operator: str, other: Any) -> ColumnElement[float]:
        return cast("ColumnElement[float]", self.op(operator, return_type=Float())(other))


class Vector(UserDefinedType[Any]):
    """VECTOR(n): values are lists or arrays of n numbers; results NumPy arrays of float32.

    dimensions: None only for casts.
    """

    name = "VECTOR"
    cache_ok = True
    comparator_factory = _Distances

    def __init__(self, dimensions: int | None = None) -> None:
        self.dimensions = dimensions

    def get_col_spec(self, **_: Any) -> str:
        """As DDL and casts write it."""
        return self.name if self.dimensions is None else f"{self.name}({self.dimensions})"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Any numbers as float32, text as it is."""

        def process(value: Any) -> Any:
            return value if value is None or isinstance(value, str) else np.asarray(value, "<f4")

        return process

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """`'[1.0,2.0]'`, for statements printed with their values."""

        def process(value: Any) -> str:
            numbers = ",".join(repr(float(each)) for each in value)
            return f"'[{numbers}]'"

        return process

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], NDArray[np.float32] | None]:
        """A NumPy array, None for NULL."""

        def process(value: Any) -> NDArray[np.float32] | None:
            return None if value is None else np.asarray(value, np.float32)

        return process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.dimensions is None else self.dimensions})"


class HalfVector(Vector):
    """HALFVEC(n): stored as float16; values as of `Vector`."""

    name = "HALFVEC"


class _BitDistances(UserDefinedType.Comparator[Any]):
    """What can be asked of a column of bits."""

    def hamming_distance(self, other: Any) -> ColumnElement[float]:
        """How many bits differ: `<~>`."""
        return cast("ColumnElement[float]", self.op("<~>", return_type=Float())(other))

    def jaccard_distance(self, other: Any) -> ColumnElement[float]:
        """1 - the share of the bits set in either that are set in both: `<%>`."""
        return cast("ColumnElement[float]", self.op("<%>", return_type=Float())(other))


class Bit(UserDefinedType[str]):
    """BIT(n): values and results are text of n zeros and ones."""

    cache_ok = True
    comparator_factory = _BitDistances

    def __init__(self, length: int) -> None:
        self.length = length

    def get_col_spec(self, **_: Any) -> str:
        """As DDL and casts write it."""
        return f"BIT({self.length})"

    def __repr__(self) -> str:
        return f"Bit({self.length})"


VECTORS: dict[str, type[TypeEngine[Any]]] = {
    "VECTOR": Vector,
    "HALFVEC": HalfVector,
    "BIT": Bit,
}

"""What an index is declared over, and the rows of a segment as it sees them.

    ON docs USING hnsw (vec)                            every row's vector
    ... (vec) WHERE lang = 'en'                         those of the rows for which that holds
    ... ((vec::halfvec(384)) halfvec_l2_ops)            what the expression makes of them

The engine knows no SQL: what a definition's texts mean is told by an `IndexTerms`, which the node
sets up. An index whose texts nobody can tell is kept in the catalog, and nothing is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.derived import Derivation
from nearql.engine.index.base import Source
from nearql.engine.index.profiles import Subject
from nearql.engine.schema import IndexDef, TableSchema
from nearql.engine.segment.damage import is_lost
from nearql.engine.segment.data import SegmentData
from nearql.engine.types import Metric


@dataclass(frozen=True, slots=True)
class Term:
    """What a definition's texts mean. reads: columns that its condition names."""

    derived: Derivation | None = None
    reads: tuple[str, ...] = ()


class IndexTerms(Protocol):
    """Reads the SQL in index definitions. Safe for use from several threads."""

    def of(self, schema: TableSchema, definition: IndexDef) -> Term | None:
        """What a definition with an expression or a condition means; None: nothing can be built."""

    def qualifying(self, schema: TableSchema, condition: str, rows: pa.Table) -> NDArray[np.int64]:
        """Of rows with ROW_COLUMN and the columns that a condition names, the numbers of those for
        which it is true.

        Raises:
            NearQLError: it can't be told of one of them.
        """


#: (shard, segment, column names) -> every row of the segment, dead ones too, with ROW_COLUMN
Scan = Callable[[int, SegmentData, Sequence[str]], pa.Table]


@dataclass(frozen=True, slots=True)
class Declared:
    """An index that is built. row_bytes: of a vector that it compares."""

    definition: IndexDef
    column: int
    row_bytes: int
    term: Term = Term()

    @property
    def metric(self) -> Metric:
        """What it compares by."""
        bits = self.definition.bits
        return self.definition.metric if bits is None else Metric(bits)

    @property
    def subject(self) -> Subject:
        """What searches it is for."""
        return self.column, self.metric, self.term.derived

    @property
    def is_partial(self) -> bool:
        """Whether it holds some rows alone."""
        return self.definition.condition is not None

    @property
    def options(self) -> Mapping[str, Any]:
        """As given in WITH; what is float16 already is stored so."""
        derived = self.term.derived
        if derived is not None and derived.element == "float16":
            return {"storage": "float16", **self.definition.options}
        return self.definition.options

    def lacks(self, data: SegmentData) -> bool:
        """Whether a segment has nothing that it could be over."""
        return is_lost(data, self.column) or not data.has(self.column)

    def source(self, data: SegmentData) -> Source:
        """Every row of a segment; derived vectors are made when they are looked at."""
        derived = self.term.derived
        if derived is None:
            block = data.vectors[self.column]
            return Source(block.data, block.norms)
        rows: Any = data.derived(self.column, derived)
        return Source(rows, rows.norms, lasting=False)

    def vectors(self, data: SegmentData) -> NDArray[Any]:
        """The vectors of every row of a segment, in memory."""
        rows, derived = data.raw(self.column)[0], self.term.derived
        return rows if derived is None else derived.of(rows)

    def valid(self, data: SegmentData) -> NDArray[np.bool_] | None:
        """Which rows of a segment are not NULL, bool (n,); None = all."""
        return data.raw(self.column)[1]

    def made_bytes(self, data: SegmentData) -> int:
        """What `vectors` takes."""
        return 0 if self.term.derived is None else data.rows * self.row_bytes


def declared_as(
    schema: TableSchema, definition: IndexDef, terms: IndexTerms | None
) -> Declared | None:
    """The index as it is built; None where nothing is."""
    term: Term | None = Term()
    given = (definition.expression, definition.condition, definition.bits)
    if any(one is not None for one in given):
        term = None if terms is None else terms.of(schema, definition)
    if term is None:
        return None
    column = schema.column(definition.column)
    width, element = column.type.dimensions or 0, str(column.type.element)
    if (derived := term.derived) is not None:
        width = derived.width
        element = element if derived.element == "float32" else derived.element
    return Declared(definition, column.number, width * np.dtype(element).itemsize, term)


Usable = Mapping[Subject, tuple[Declared, ...]]


def usable(indexes: Sequence[Declared]) -> Usable:
    """Indexes by what they are for: those of some rows alone first, then the last declared."""
    found: dict[Subject, tuple[Declared, ...]] = {}
    for one in sorted(indexes, key=lambda one: one.is_partial):
        found[one.subject] = (one, *found.get(one.subject, ()))
    return found

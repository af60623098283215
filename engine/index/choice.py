"""Which kind of index a segment gets: pure rules over sizes.

`flat` is no structure at all: rows are read. `auto` reads as well up to `AUTO_BYTES` of vectors,
beyond them it is `ivfpq`, which at recall 0.95 and above is as quick as or quicker than the graphs
and builds in a sixth of their time; by L1 distance, which only a graph knows, `hnsw`. Lists and
codes are sized by rows and dimensions in the kinds' own files.
"""

from __future__ import annotations

from nearql.engine.index.base import IndexKind
from nearql.engine.index.registry import bit_kinds, index_kinds
from nearql.engine.schema import IndexDef

AUTO_KIND = "ivfpq"
AUTO_BYTES = 20_000 * 384 * 4  # of vectors, that are read in half a millisecond as codes
AUTO_FEWEST, AUTO_MOST = 2_000, 100_000  # rows between which they decide: each costs something, too


def auto_rows(row_bytes: int) -> int:
    """From so many rows on `auto` is an index. row_bytes: of a vector."""
    return min(max(AUTO_BYTES // max(1, row_bytes), AUTO_FEWEST), AUTO_MOST)


def least_rows(definition: IndexDef, least: int, row_bytes: int) -> int | None:
    """From so many rows on a segment gets an index; None = never.

    least: the setting: fewer rows are read as quickly. row_bytes: of a vector.
    """
    kind = kind_of(definition)
    if kind is None:
        return None
    enough = max(kind.least_rows, least)
    return max(enough, auto_rows(row_bytes)) if definition.kind == "auto" else enough


def kind_for(definition: IndexDef, rows: int, least: int, row_bytes: int) -> IndexKind | None:
    """The kind to build over so many rows of a segment; None = they are read instead."""
    enough = least_rows(definition, least, row_bytes)
    if enough is None or rows < enough:
        return None
    return kind_of(definition)


def kind_of(definition: IndexDef) -> IndexKind | None:
    """The kind of a definition; None where rows are always read, or FAISS is not there."""
    if definition.bits is not None:
        return _bit_kind(definition)
    kinds = index_kinds()
    kind = kinds.get(AUTO_KIND if definition.kind == "auto" else definition.kind)
    if kind is not None and definition.metric not in kind.metrics:
        return kinds["hnsw"] if definition.kind == "auto" else None
    return kind


def _bit_kind(definition: IndexDef) -> IndexKind | None:
    kind = bit_kinds().get("hnsw" if definition.kind == "auto" else definition.kind)
    return kind if kind is not None and definition.bits in kind.metrics else None

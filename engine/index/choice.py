"""Which kind of index a segment gets: pure rules over sizes.

`flat` is no structure at all: rows are read. `auto` reads up to `AUTO_ROWS` rows, beyond them it is
`ivfpq`, which at recall 0.95 and above is as quick as or quicker than the graphs and builds in a
sixth of their time; by L1 distance, which only a graph knows, `hnsw`.
"""

from __future__ import annotations

from nearql.engine.index.base import IndexKind
from nearql.engine.index.registry import index_kinds
from nearql.engine.schema import IndexDef

AUTO_KIND = "ivfpq"
AUTO_ROWS = 20_000


def least_rows(definition: IndexDef, least: int) -> int | None:
    """From so many rows on a segment gets an index; None = never.

    least: the setting: fewer rows are read as quickly.
    """
    kind = _kind(definition)
    if kind is None:
        return None
    return max(kind.least_rows, least, AUTO_ROWS if definition.kind == "auto" else 0)


def kind_for(definition: IndexDef, rows: int, least: int) -> IndexKind | None:
    """The kind to build over so many rows of a segment; None = they are read instead."""
    enough = least_rows(definition, least)
    if enough is None or rows < enough:
        return None
    return _kind(definition)


def _kind(definition: IndexDef) -> IndexKind | None:
    kinds = index_kinds()
    kind = kinds.get(AUTO_KIND if definition.kind == "auto" else definition.kind)
    if kind is not None and definition.metric not in kind.metrics:
        return kinds["hnsw"] if definition.kind == "auto" else None
    return kind

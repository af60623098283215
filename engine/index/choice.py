"""Which kind of index a segment gets: pure rules over sizes.

`flat` is no structure at all: rows are read. `auto` reads up to `AUTO_ROWS` rows, beyond them it is
`ivfpq`, which at recall 0.95 and above is as quick as or quicker than the graphs and builds in a
sixth of their time (docs/decisions).
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
    if definition.kind == "auto":
        return max(AUTO_ROWS, least) if AUTO_KIND in index_kinds() else None
    kind = index_kinds().get(definition.kind)
    return None if kind is None else max(kind.least_rows, least)


def kind_for(definition: IndexDef, rows: int, least: int) -> IndexKind | None:
    """The kind to build over so many rows of a segment; None = they are read instead."""
    enough = least_rows(definition, least)
    if enough is None or rows < enough:
        return None
    return index_kinds()[AUTO_KIND if definition.kind == "auto" else definition.kind]

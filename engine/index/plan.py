"""What to do with one indexed segment: read its rows, or ask the index, and how hard."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nearql.engine.index.base import VectorIndex
from nearql.engine.schema import IndexDef
from nearql.engine.types import Tuning

DEFAULT_TARGET = 0.95
_FEW_ROWS = 5_000  # that qualify: read one by one in the time of a search
_HNSW_SHARE = 0.05  # of rows that qualify, below which a graph finds too few of them
_HNSW_EFFORT = ((0.8, 32), (0.9, 64), (0.95, 120), (0.98, 240), (1.0, 512))


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """strategy: exact, exact_filtered, index, index_filtered or widening.

    effort, count: what the index is asked with; 0 where rows are read.
    """

    strategy: str
    effort: int = 0
    count: int = 0


def plan_segment(
    index: VectorIndex, definition: IndexDef, tuning: Tuning, *, k: int, qualifying: int, rows: int
) -> SearchPlan:
    """How to search a segment of so many rows, of which so many qualify."""
    share = qualifying / rows if rows else 0.0
    filtered = qualifying < rows
    hopeless = index.kind == "hnsw" and share < _HNSW_SHARE
    if qualifying <= max(_FEW_ROWS, 4 * k) or hopeless:
        return SearchPlan("exact_filtered" if filtered else "exact")
    count = index.candidates(k)
    effort = _effort(index, definition, tuning, count, share)
    return SearchPlan("index_filtered" if filtered else "index", effort, count)


def widened(index: VectorIndex, plan: SearchPlan) -> SearchPlan | None:
    """The next attempt where a plan found too few rows; None = read them."""
    last = index.efforts(plan.count)[-1]
    if plan.effort >= last:
        return None
    return SearchPlan("widening", min(last, 4 * plan.effort), plan.count)


def _effort(
    index: VectorIndex, definition: IndexDef, tuning: Tuning, count: int, share: float
) -> int:
    given = tuning.ef_search if index.kind == "hnsw" else tuning.probes
    if given is not None:
        return given
    target = tuning.target_recall or float(definition.options.get("target_recall", DEFAULT_TARGET))
    ladder = index.efforts(count)
    if index.kind == "hnsw":
        effort = next((ef for recall, ef in _HNSW_EFFORT if target <= recall), ladder[-1])
        wanted = max(effort, count) * min(8.0, share**-0.7)
    else:
        wanted = 4 * math.sqrt(ladder[-1]) * (target / DEFAULT_TARGET) ** 12 * min(8.0, share**-0.5)
    return next((effort for effort in ladder if effort >= wanted), ladder[-1])

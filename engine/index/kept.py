"""What a read view keeps of its searches: how those that differ in their one query are answered.

To plan a search takes longer than many a search: rows that qualify are counted, costs weighed,
settings looked up. So it is done once for each k, tuning and filter, and kept for as long as the
view and its indexes are the same. A filter is known by its row set, which the filter cache hands
out again and again; one that nobody holds any more is forgotten.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nearql.engine.index.plan import Indexed
from nearql.engine.index.search import is_tame, ready
from nearql.engine.index.single import Ready
from nearql.engine.ranking import KeysOf
from nearql.engine.search import Masks, Searcher, VectorSlice
from nearql.engine.types import RowSet, SearchHits, SearchRequest

_PLANS = 64  # of searches without a filter
_FILTERED = 16  # of searches with one: each holds its mask, or the positions of its rows


@dataclass(frozen=True, slots=True)
class _Filtered:
    """rows: the filter that it is for. found: None = such searches take the long way."""

    rows: weakref.ref[RowSet]
    found: Ready | None


@dataclass(frozen=True, eq=False)
class Kept:
    """The indexes of one column's slices, None = it has none, and plans of searches of one query.

    generation: of the table's indexes, when they were looked up.
    """

    generation: int
    indexes: Sequence[Indexed | None]
    plans: dict[tuple[Any, ...], Ready | None] = field(default_factory=dict)
    filtered: dict[tuple[Any, ...], _Filtered] = field(default_factory=dict)

    def at_once(
        self,
        searcher: Searcher,
        slices: Sequence[VectorSlice],
        request: SearchRequest,
        masks_of: Callable[[RowSet | None], Masks | None],
        keys_of: KeysOf,
    ) -> SearchHits | None:
        """The hits of one query, planned before; None = it takes the long way."""
        tuning = request.tuning
        key = request.k, tuning.target_recall, tuning.ef_search, tuning.probes
        if request.rows is not None:
            known = self._under_a_filter(key, searcher, slices, request, masks_of)
        else:
            try:
                known = self.plans[key]
            except KeyError:
                if len(self.plans) >= _PLANS:
                    self.plans.clear()
                known = ready(searcher, slices, self.indexes, request, None)
                self.plans[key] = known
        if known is None or not is_tame(request):
            return None
        return known.answer(request.queries, keys_of)

    def _under_a_filter(
        self,
        key: tuple[Any, ...],
        searcher: Searcher,
        slices: Sequence[VectorSlice],
        request: SearchRequest,
        masks_of: Callable[[RowSet | None], Masks | None],
    ) -> Ready | None:
        rows = request.rows
        assert rows is not None
        key = id(rows), *key
        kept = self.filtered.get(key)
        if kept is None or kept.rows() is not rows:
            if len(self.filtered) >= _FILTERED:
                self.filtered.clear()
            found = ready(searcher, slices, self.indexes, request, masks_of(rows))
            alive = weakref.ref(rows, _forgetting(self, key))
            kept = self.filtered[key] = _Filtered(alive, found)
        return kept.found


def _forgetting(kept: Kept, key: tuple[Any, ...]) -> Callable[[Any], None]:
    """What drops a filter's plan, and the masks that it holds, with the filter."""
    holder = weakref.ref(kept)  # no cycle: what the view holds goes with the view

    def forget(_: Any) -> None:
        found = holder()
        if found is not None:
            found.filtered.pop(key, None)

    return forget

"""What happened in a run of a statement, for `stats`, nearql.queries and EXPLAIN ANALYZE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nearql.engine.tuning import recalls
from nearql.engine.types import SearchHits, SearchRequest, SearchStats, Tuning
from nearql.query.ports import TableView


@dataclass
class Trace:
    """By relation; times in milliseconds."""

    searches: dict[str, SearchStats] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    filters: dict[str, tuple[int, bool]] = field(default_factory=dict)  # rows, from the cache
    times: dict[str, float] = field(default_factory=dict)
    recalls: dict[str, float] = field(default_factory=dict)  # measured, by EXPLAIN ANALYZE

    def add_search(self, name: str, stats: SearchStats) -> None:
        """Remember a search; several for one relation are summed up."""
        before = self.searches.get(name)
        if before is not None:
            stats = replace(
                stats,
                candidates=before.candidates + stats.candidates,
                reranked=before.reranked + stats.reranked,
                batch=before.batch + stats.batch,
            )
        self.searches[name] = stats

    def strategy(self) -> str:
        """The label of `stats.strategy`: how searches were answered, or `scan` without any."""
        found = list(self.searches.values())  # another thread may ask while the run goes on
        labels = dict.fromkeys(stats.label for stats in found)
        return " + ".join(labels) or "scan"


@dataclass(frozen=True, slots=True)
class Searched:
    """A search of a run: for which relation, and what it found."""

    name: str
    view: TableView
    request: SearchRequest
    hits: SearchHits

    def recall(self) -> NDArray[np.float64]:
        """Of each query, (nq,), against the exact answer, which is searched for now."""
        if self.hits.stats.strategy.startswith("exact"):
            return np.ones(len(self.request.queries))
        request = replace(self.request, patience=None, tuning=Tuning(target_recall=1.0))
        return recalls(self.view.search(request).distances, self.hits.distances)


def measured_recalls(searched: Iterable[Searched]) -> dict[str, float]:
    """By relation, the mean recall of its queries."""
    found: dict[str, list[float]] = {}
    for one in searched:
        found.setdefault(one.name, []).extend(one.recall().tolist())
    return {name: sum(values) / len(values) for name, values in found.items() if values}

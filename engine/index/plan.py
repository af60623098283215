"""What an index may be asked under a session's settings: efforts given, or those that were measured
to reach a recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from nearql.engine.costs import Best, Rung
from nearql.engine.index.base import VectorIndex
from nearql.engine.schema import IndexDef
from nearql.engine.tuning import Profile
from nearql.engine.types import Tuning

DEFAULT_TARGET = 0.95
_MARGIN = 0.2  # of what is missing to an exact answer
_GIVEN_SHARE = 4  # an effort given by hand is used for at most this part of the rows
_PASSED = 10  # rows that a graph compares for each that it keeps: 22 of 16, 15 of 64, 10 of 256


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """The index that a slice has, as declared, and its profile, None where it has none yet.

    parts: the profiles of several indexes that it is made of, instead.
    """

    index: VectorIndex
    definition: IndexDef
    profile: Profile | None = None
    parts: Sequence[Profile | None] = ()


def best_of(found: Indexed, tuning: Tuning, k: int) -> Best:
    """Which rung to take for how many nearest rows, of a search for k; see `costs.choose`."""
    if found.index.kind == "hnsw":
        if tuning.ef_search is not None:
            return partial(_graph_given, found.index, tuning.ef_search, k)
    elif tuning.probes is not None:
        return partial(_lists_given, found.index, tuning.probes)
    target = target_of(found.definition, tuning)
    if found.parts:
        return partial(_together, found.parts, _aim(target))
    if found.profile is None or target >= 1:
        return _none
    return partial(found.profile.best, target=_aim(target))


def target_of(definition: IndexDef, tuning: Tuning) -> float:
    """The recall to reach: the session's, else the index's own."""
    if tuning.target_recall is not None:
        return tuning.target_recall
    return float(definition.options.get("target_recall", DEFAULT_TARGET))


def _aim(target: float) -> float:
    """A little above it: some queries are harder than those that were measured."""
    return target + _MARGIN * (1 - target)


def _none(k: int) -> Rung | None:
    del k
    return None


def _lists_given(index: VectorIndex, probes: int, k: int) -> Rung | None:
    """Lists given by hand: whatever their recall, as long as a filter leaves enough rows."""
    if k * _GIVEN_SHARE > index.rows:
        return None
    count = index.candidates(k)
    return Rung(k, count, probes, 0.0, 0.0, count)


def _graph_given(index: VectorIndex, effort: int, asked: int, k: int) -> Rung | None:
    """As `_lists_given`. Where more is wanted than was asked for, as a filter will leave some out,
    the graph keeps at least half as many again: it finds the 200 nearest no better than it looks.
    """
    if k * _GIVEN_SHARE > index.rows:
        return None
    count = index.candidates(k)
    if k > asked:
        effort = max(effort, count + count // 2)
    return Rung(k, count, effort, 0.0, 0.0, min(index.rows, _PASSED * max(effort, count)))


def _together(parts: Sequence[Profile | None], target: float, k: int) -> Rung | None:
    """Several indexes asked alike: as hard as the one that needs it most."""
    if target >= 1:
        return None
    rungs = [None if part is None else part.best(k, target) for part in parts]
    found = [rung for rung in rungs if rung is not None]
    if not found or len(found) < len(rungs):
        return None
    return Rung(
        k=min(rung.k for rung in found),
        count=max(rung.count for rung in found),
        effort=max(rung.effort for rung in found),
        recall=min(rung.recall for rung in found),
        us=sum(rung.us for rung in found),
    )

"""Parsed texts and their plans, kept: a statement that comes again costs a dictionary look-up.

Keyed by the request's text; plans beside it by the catalog's version, so that DDL makes them anew.
Parameters are bound when a plan runs. Bounded by entries; the least recently used goes first.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nearql.query.nature import Nature
from nearql.query.plan import Plan
from nearql.query.statements import Statement

if TYPE_CHECKING:
    from nearql.query.repeats import Repeat


class Pace:
    """How long the last runs of a text took, as long as it was asked under the same settings.

    Written by whichever threads run it; who reads it wants to know whether one more is short.
    """

    RUNS = 8

    def __init__(self) -> None:
        self._settings: Mapping[str, Any] = {}
        self._last: tuple[float, ...] = ()

    def told(self, settings: Mapping[str, Any], seconds: float) -> None:
        """One more run ended."""
        if settings != self._settings:
            self._settings, self._last = settings, ()
        self._last = (*self._last[1 - self.RUNS :], seconds)

    def forget(self) -> None:
        """A run took unlike those before it."""
        self._last = ()

    def longest(self, settings: Mapping[str, Any]) -> float:
        """Seconds of the longest of the last RUNS runs; infinite where there were fewer."""
        last = self._last
        if len(last) < self.RUNS or settings != self._settings:
            return math.inf
        return max(last)


@dataclass(eq=False)
class Prepared:
    """A request's text, parsed. plans: by the statement's place, with the catalog version planned
    for.

    checked: the catalog version for which the guard passed each statement.
    nature: what the statements do, with the catalog version that says so. weights: of each
    statement, whether it is light, likewise. pace: how long the last runs took; strategy: how the
    last one was answered. repeats: what is kept of it for requests that come again.
    """

    statements: tuple[Statement, ...]
    parameters: tuple[str, ...]
    plans: dict[tuple[int, str], tuple[int, Plan]] = field(default_factory=dict)
    checked: dict[int, int] = field(default_factory=dict)
    nature: tuple[int, Nature] | None = None
    weights: dict[int, tuple[int, bool]] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    strategy: str = ""
    repeats: dict[Hashable, Repeat] = field(default_factory=dict)

    def plan(self, place: int, part: str, version: int, make: Callable[[], Plan]) -> Plan:
        """The plan of a part of a statement for this catalog version, made on first use."""
        kept = self.plans.get((place, part))
        if kept is not None and kept[0] == version:
            return kept[1]
        plan = make()
        self.plans[place, part] = version, plan
        return plan

    def light(self, place: int, version: int, weigh: Callable[[], bool]) -> bool:
        """Whether a statement is light for this catalog version, weighed on first use."""
        kept = self.weights.get(place)
        if kept is None or kept[0] != version:
            kept = self.weights[place] = version, weigh()
        return kept[1]


class PlanCache:
    """Thread-safe."""

    def __init__(self, entries: int, text_limit: int) -> None:
        self._entries = entries
        self._text_limit = text_limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def peek(self, text: str) -> Prepared | None:
        """What is kept for this text, not as a use of it."""
        with self._lock:
            return self._kept.get(text)

    def kept(self, text: str) -> Prepared | None:
        """What is kept for this text; as a use of it."""
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self.hits += 1
                self._kept.move_to_end(text)
            return found

    def get(self, text: str, make: Callable[[str], Prepared]) -> Prepared:
        """What is kept for this text, or what `make` gives, kept from then on unless it is long."""
        found = self.kept(text)
        if found is not None:
            return found
        with self._lock:
            self.misses += 1
        made = make(text)
        with self._lock:
            if len(text) <= self._text_limit:
                self._kept[text] = made
                while len(self._kept) > self._entries:
                    self._kept.popitem(last=False)
        return made

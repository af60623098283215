"""Parsed texts and their plans, kept: a statement that comes again costs a dictionary look-up.

Keyed by the request's text; plans beside it by the catalog's version, so that DDL makes them anew.
Parameters are bound when a plan runs. Bounded by entries; the least recently used goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from nearql.query.nature import Nature
from nearql.query.plan import Plan
from nearql.query.statements import Statement


@dataclass(eq=False)
class Prepared:
    """A request's text, parsed. plans: by the statement's place, with the catalog version planned
    for.

    checked: the catalog version for which the guard passed each statement.
    nature: what the statements do, with the catalog version that says so. weights: of each
    statement, whether it is light, likewise.
    """

    statements: tuple[Statement, ...]
    parameters: tuple[str, ...]
    plans: dict[tuple[int, str], tuple[int, Plan]] = field(default_factory=dict)
    checked: dict[int, int] = field(default_factory=dict)
    nature: tuple[int, Nature] | None = None
    weights: dict[int, tuple[int, bool]] = field(default_factory=dict)

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

    def get(self, text: str, make: Callable[[str], Prepared]) -> Prepared:
        """What is kept for this text, or what `make` gives, kept from then on unless it is long."""
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self.hits += 1
                self._kept.move_to_end(text)
                return found
            self.misses += 1
        made = make(text)
        if len(text) <= self._text_limit:
            with self._lock:
                self._kept[text] = made
                while len(self._kept) > self._entries:
                    self._kept.popitem(last=False)
        return made

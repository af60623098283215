"""What is known of a table's indexes: their profiles, and the queries that were asked lately."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from nearql.engine.derived import Derivation
from nearql.engine.index.base import VectorIndex
from nearql.engine.index.carried import CarriedIndex
from nearql.engine.index.plan import Indexed
from nearql.engine.schema import IndexDef
from nearql.engine.tuning import Profile
from nearql.engine.types import Metric, SearchRequest

#: what is compared: a column's vectors or what an expression makes of them, and by what metric
Subject = tuple[int, Metric, Derivation | None]
KEPT = 192  # queries that are remembered, the last ones
LEAST = 64  # different ones from which on they say more than derived ones do
SOON, LATER = 128, 2_000  # new queries that are worth a measurement, first and then again
_LEAST_KEPT = 0.5  # of an old index's rows: below, too much of what it names is gone


class Profiles:
    """Thread-safe. Profiles go with their indexes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._profiles: WeakKeyDictionary[VectorIndex, Profile] = WeakKeyDictionary()
        self._fresh = 0  # queries since they were last worth a measurement
        self._due = SOON
        self._queries: dict[Subject, deque[NDArray[np.float32]]] = {}

    def put(self, index: VectorIndex, profile: Profile) -> None:
        """From now on searches go by this one."""
        with self._lock:
            self._profiles[index] = profile
            if not profile.live:
                self._due = SOON  # a new index, whose queries were made up

    def of(self, index: VectorIndex) -> Profile | None:
        """What was measured of an index."""
        with self._lock:
            return self._profiles.get(index)

    def indexed(self, index: VectorIndex, definition: IndexDef) -> Indexed:
        """An index with what is known of it, or of those that it is made of."""
        if isinstance(index, CarriedIndex):
            return Indexed(index, definition, parts=tuple(self._parts(index)))
        return Indexed(index, definition, self.of(index))

    def _parts(self, carried: CarriedIndex) -> Iterator[Profile | None]:
        for part in carried.parts:
            if part.index is None:
                continue
            if part.kept is not None and part.kept.mean() < _LEAST_KEPT:
                yield None
            elif isinstance(part.index, CarriedIndex):
                yield from self._parts(part.index)
            else:
                yield self.of(part.index)

    # ---- Queries ---------------------------------------------------------------------------

    def asked(self, subject: Subject, request: SearchRequest) -> bool:
        """Remember the last queries; whether there are many new ones since this was last true."""
        queries = request.queries
        with self._lock:
            kept = self._queries.get(subject)
            if kept is None:
                kept = self._queries[subject] = deque(maxlen=KEPT)
            if len(queries) == 1:
                kept.append(queries[0].copy())
            else:
                kept.extend(query.copy() for query in queries[-KEPT:])
            self._fresh += len(queries)
            if self._fresh < self._due:
                return False
            self._fresh, self._due = 0, LATER
            return True

    def lately(self, subject: Subject) -> NDArray[np.float32] | None:
        """Different queries asked lately, float32 (nq, d); None where they are too few."""
        with self._lock:
            kept = list(self._queries.get(subject, ()))
        different = np.unique(np.array(kept), axis=0) if kept else np.empty((0, 0), np.float32)
        return np.ascontiguousarray(different) if len(different) >= LEAST else None

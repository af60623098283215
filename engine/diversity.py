"""Maximal marginal relevance (Carbonell and Goldstein, 1998): near to the query, unlike each other.

One row after the other is chosen, the one of the greatest

    balance * likeness to the query - (1 - balance) * greatest likeness to a row chosen before

where likeness is the negative distance. The first is the nearest to the query. balance 1 is the
order of the search; 0 looks at nothing but difference from what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nearql.engine.distance import canonical_distances
from nearql.engine.types import Metric


def diversified(
    vectors: NDArray[np.float32],
    distances: NDArray[np.float32],
    metric: Metric,
    *,
    count: int,
    balance: float,
    check: Callable[[], None],
) -> NDArray[np.int64]:
    """Which rows are chosen, in order: int64 (at most count,).

    Args:
        vectors: float32 (n, d), in the order of their distances to the query, float32 (n,).
        balance: 0 to 1.
        check: called for each row that is chosen; raises where the statement should end.
    """
    wide = np.where(np.isnan(distances), np.inf, distances).astype(np.float64)
    nearest = np.full(len(vectors), np.inf)  # distance to what was chosen
    left = np.ones(len(vectors), bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)):
        check()
        gain = -wide if not chosen else _gain(wide, nearest, balance)
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        if not left[best]:  # all that are left gain -inf
            best = int(np.argmax(left))
        chosen.append(best)
        left[best] = False
        between = canonical_distances(vectors, vectors[best], metric)
        nearest = np.fmin(nearest, between)
    return np.array(chosen, np.int64)


def _gain(
    distances: NDArray[np.float64], nearest: NDArray[np.float64], balance: float
) -> NDArray[np.float64]:
    """What each row would add; without a distance to the query, less than any other."""
    able = distances < np.inf
    unlike = (1 - balance) * nearest if balance < 1 else np.zeros(len(distances))
    return np.where(able, unlike - balance * np.where(able, distances, 0), -np.inf)

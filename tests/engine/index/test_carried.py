"""Old indexes over new positions: what moved is found where it is now, what went is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nearql.engine.index.base import Unlisted
from nearql.engine.index.carried import CarriedIndex, Part
from nearql.engine.types import Metric


@dataclass(eq=False)
class Everything(Unlisted):
    """Names all that it may, in order; remembers what it was given."""

    rows: int
    covered: NDArray[np.bool_] | None = None
    kind: str = "hnsw"
    metric: Metric = Metric.L2
    nbytes: int = 7
    masks: list[NDArray[np.bool_] | None] = field(default_factory=list)

    def search(
        self, queries: NDArray[np.float32], count: int, *, effort: int,
        mask: NDArray[np.bool_] | None, threads: int = 1,
    ) -> NDArray[np.int64]:  # fmt: skip
        self.masks.append(mask)
        allowed = np.ones(self.rows, bool) if mask is None else mask.copy()
        if self.covered is not None:
            allowed &= self.covered
        named = np.full(count, -1)
        mine = np.flatnonzero(allowed)[:count]
        named[: len(mine)] = mine
        return np.tile(named, (len(queries), 1))

    def candidates(self, k: int) -> int:
        return k + 1

    def efforts(self, count: int) -> tuple[int, ...]:
        return (count,)


QUERIES = np.zeros((2, 3), np.float32)


def flags(text: str) -> NDArray[np.bool_]:
    return np.array([one == "y" for one in text])


def named(index: CarriedIndex, mask: NDArray[np.bool_] | None = None) -> list[int]:
    found = index.search(QUERIES, 9, effort=9, mask=mask)
    assert (found[0] == found[1]).all()
    return sorted(found[0][found[0] >= 0].tolist())


def test_the_example_of_the_module() -> None:
    first, last = Everything(4), Everything(3)
    carried = CarriedIndex([Part(0, 4, first), Part(4, 3, None), Part(7, 2, last, flags("yny"))])
    assert carried.rows == 9
    assert carried.covered is not None
    assert carried.covered.tolist() == flags("yyyynnnyy").tolist()
    assert named(carried) == [0, 1, 2, 3, 7, 8]
    assert first.masks[-1] is None
    assert named(carried, flags("nyynyyynn")) == [1, 2]
    assert named(carried, flags("nnnnnnnyn")) == [7]
    assert (carried.kind, carried.metric, carried.nbytes) == ("hnsw", Metric.L2, 14)
    assert (carried.candidates(10), carried.efforts(3)) == (11, (3,))


def test_rows_that_the_old_index_left_out_stay_out() -> None:
    old = Everything(5, covered=flags("yynyy"))
    whole = CarriedIndex([Part(0, 5, old)])
    assert whole.covered is not None
    assert whole.covered.tolist() == flags("yynyy").tolist()
    moved = CarriedIndex([Part(0, 3, old, flags("nyyny"))])
    assert moved.covered is not None
    assert moved.covered.tolist() == flags("yny").tolist()
    assert named(moved) == [0, 2]


def test_indexes_are_carried_on() -> None:
    """A second move before the first was made up for."""
    once = CarriedIndex([Part(0, 4, Everything(6), flags("yynyyn"))])
    twice = CarriedIndex([Part(0, 2, Everything(2)), Part(2, 3, once, flags("ynyy"))])
    assert twice.covered is None
    assert named(twice) == [0, 1, 2, 3, 4]
    assert named(twice, flags("nyyny")) == [1, 2, 4]

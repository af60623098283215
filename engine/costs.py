"""What a search of one segment costs, each way it can be done, and which way is cheapest.

    exact             every row is read                      rows * bytes
    exact_filtered    the rows that qualify are read         qualifying * (visit + bytes)
    index             the index names candidates             as measured for this index and effort
    bitmap            an index with lists names rows that    the same, without the others' distances
                      qualify alone, in as many lists
    widening          the index names more than k, those     the same, for the count that the share
                      that qualify are kept; where fewer     of qualifying rows asks for
                      than k did, it names more of them

Pure: sizes and measurements in, a plan out. An index is asked for the nearest rows *without* the
filter, as many as should hold k qualifying ones. So what is measured once, how well it finds its
nearest c rows, holds under any filter, however that is correlated with the vectors: if k of the c
qualify they are the k nearest qualifying ones, and if fewer do we know it, and ask for more.

With a bitmap we don't know it: k rows that qualify are found in whatever lists were looked into.
So the lists must be as many as hold the nearest rows if only half as many qualified near the query
as do on the whole; whether so many do is counted in the nearest of those lists, and where fewer do
the query is asked again by widening. A graph has no lists to count in, and is never asked so.

Example: 100,000 rows, a tenth qualifies, k = 10. Reading 10,000 rows: 0.7 ms. The index would name
160 rows, of which about 16 qualify: 0.2 ms. So it is asked; with a hundredth it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

CODE_COST = 1.25  # bytes read from vectors in the time that a code of one byte takes
BITS_COST = 8  # the same of a byte of bit strings, which NumPy counts
SURE = 2.5  # standard deviations of luck that a count allows for
WIDENED = 4  # how many times more are asked for when too few qualified
LOCAL = 0.5  # of the share of qualifying rows, that a bitmap relies on near each query
BITMAP_US = 25.0  # to pack a bitmap and to count in lists
RERANK_NS = 0.2  # a candidate's canonical distance, a byte of its vector


@dataclass(frozen=True, slots=True)
class Machine:
    """What reading costs on this machine, one thread, beyond its caches.

    call_us: a search of no size. scan_ns: a byte of a row in passing. visit_ns, visit_byte_ns: a
    row singled out, and each of its bytes. The defaults were measured on a Zen 4 core.
    """

    call_us: float = 60.0
    scan_ns: float = 0.035
    visit_ns: float = 25.0
    visit_byte_ns: float = 0.035

    def __str__(self) -> str:
        return (
            f"a search {self.call_us:.0f} us, a byte {self.scan_ns:.3f} ns in passing and "
            f"{self.visit_byte_ns:.3f} ns singled out, a row singled out {self.visit_ns:.0f} ns"
        )

    def scan_us(self, rows: int, row_bytes: float) -> float:
        """All rows, one query."""
        return self.call_us + rows * row_bytes * self.scan_ns / 1000

    def visit_us(self, rows: int, row_bytes: float) -> float:
        """These rows, one query."""
        return self.call_us + rows * self.visited_us(row_bytes)

    def visited_us(self, row_bytes: float) -> float:
        """A row singled out."""
        return (self.visit_ns + row_bytes * self.visit_byte_ns) / 1000


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to ask an index, measured. recall: a low estimate for the `k` nearest. us: a query.

    reads: of an effort given by hand, whose us is 0: rows that are read singly, at least.
    """

    k: int
    count: int
    effort: int
    recall: float
    us: float
    reads: int = 0

    def least_us(self, sizes: Sizes, machine: Machine) -> float:
        """What asking costs, at least: as measured, else its reads."""
        return self.us or self.reads * machine.visited_us(sizes.row_bytes)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A segment as a search meets it.

    rows: live ones; qualifying: those of them that the filter leaves; k: asked for. row_bytes: of a
    vector. scan_bytes: what is read of a row in passing, less where codes stand for vectors.
    """

    rows: int
    qualifying: int
    k: int
    row_bytes: int
    scan_bytes: float

    @property
    def share(self) -> float:
        """Of the rows, those that qualify."""
        return self.qualifying / self.rows if self.rows else 1.0


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """strategy: exact, exact_filtered, index, bitmap or widening.

    effort, count: what the index is asked with; 0 where rows are read. nearest: how many of the
    rows that it names are relied on. us: what it should cost.
    """

    strategy: str
    effort: int = 0
    count: int = 0
    nearest: int = 0
    us: float = 0.0


Best = Callable[
    [int], "Rung | None"
]  # the cheapest rung for so many nearest rows; None: none will do


def wanted(k: int, share: float) -> int:
    """How many nearest rows to ask for, so that k qualify unless luck is very bad.

    Of m rows about m * share qualify, give or take sqrt(m * share * (1 - share)).
    """
    if share >= 1:
        return k
    spread = SURE * math.sqrt(1 - share)
    root = (spread + math.sqrt(spread * spread + 4 * k)) / 2
    return math.ceil(root * root / share)


def exact_plan(sizes: Sizes, machine: Machine) -> SearchPlan:
    """Reading: all rows, or just those that qualify."""
    scan_us = machine.scan_us(sizes.rows, sizes.scan_bytes)
    if sizes.qualifying >= sizes.rows:
        return SearchPlan("exact", us=scan_us)
    return SearchPlan(
        "exact_filtered", us=min(scan_us, machine.visit_us(sizes.qualifying, sizes.row_bytes))
    )


def choose(sizes: Sizes, machine: Machine, best: Best, *, listed: int = 0) -> SearchPlan:
    """The cheapest way that reaches the target; `best` knows what does.

    An effort given by hand is meant: without a filter it is asked, whatever reading costs. With one
    it would name so many rows that reading those that qualify, all of them, may cost less.

    listed: candidates among which an index with lists has the k nearest; 0 = it has no lists.
    """
    exact = exact_plan(sizes, machine)
    if sizes.k >= sizes.qualifying:
        return exact
    plans = [exact]
    filtered = sizes.qualifying < sizes.rows
    if (rung := best(wanted(sizes.k, sizes.share))) is not None:
        us = rung.least_us(sizes, machine) if filtered else rung.us
        strategy = "widening" if filtered else "index"
        plans.append(SearchPlan(strategy, rung.effort, rung.count, rung.k, us))
    if listed and filtered:
        plans += _bitmap_plans(sizes, best, listed)
    return min(plans, key=lambda plan: plan.us)


def _bitmap_plans(sizes: Sizes, best: Best, listed: int) -> list[SearchPlan]:
    own, rung = best(sizes.k), best(wanted(sizes.k, LOCAL * sizes.share))
    # Without a rung of its own for k the index tells too little of rows so near to each other.
    if own is None or rung is None or not rung.us:  # an effort given by hand has no price
        return []
    count = max(listed, own.count)
    fewer = max(0, rung.count - count)
    us = BITMAP_US + max(0.0, rung.us - fewer * sizes.row_bytes * RERANK_NS / 1000)
    return [SearchPlan("bitmap", rung.effort, count, rung.k, us)]


def widen(sizes: Sizes, machine: Machine, best: Best, *, asked: int) -> SearchPlan:
    """The next attempt for queries of whose `asked` nearest rows fewer than k qualified.

    It doesn't depend on how many did, so that an answer doesn't on what it was batched with.
    """
    exact = exact_plan(sizes, machine)
    rung = best(WIDENED * asked)
    us = 0.0 if rung is None else rung.least_us(sizes, machine)
    if rung is None or us >= exact.us:
        return exact
    return SearchPlan("widening", rung.effort, rung.count, rung.k, us)

"""How well an index finds its nearest rows, measured: recall and cost of each effort.

A search asks for a recall; what an index takes is an effort. Between them stands a *profile* of
each segment's index: for some sizes of answer, which efforts reach which recall, against the exact
answer, on sampled queries. An index without a profile is not used: rows are read.

    nearest      effort 16       24       32       48        target 0.95, the 8 nearest wanted:
       10          0.88 40us   0.93     0.96     0.98        effort 32
       40          0.81        0.90     0.94     0.97        31 wanted (a filter): effort 48
      160          ...

Queries are live ones where enough were seen, else derived: off a row by half the distance of two
rows, in the direction from one row to another, and in any direction. Real queries need the effort
that the worse of these needs, or a little less, whether they are like the rows (words) or not
(questions beside texts); the middle between two rows, which this took once, needs up to four
times as much. Each kind is judged for itself and the worse counts; and so does the luck of a small
sample: what is noted is the mean less its standard error.

    effort at which 0.95 is reached     real   along   any   middle     (commit a93211c, 150 to 200
    texts, questions; hnsw                64      96    32      256     queries of each kind)
    texts, questions; ivfpq               48      32    32       24
    65,536 words, other words; hnsw      192     256   256      512
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgpack
import numpy as np
from numpy.typing import NDArray

from nearql.engine.costs import Rung
from nearql.engine.distance import Vectors, candidate_distances
from nearql.engine.index.base import VectorIndex
from nearql.engine.team import Team
from nearql.engine.types import Metric

NEAREST = (10, 40, 160, 640)  # sizes of answer that are measured; beyond the last rows are read
SAMPLE = 80  # queries of each kind
LARGE, LARGE_SAMPLE = 40, 40  # from this size of answer on fewer tell as much
ENOUGH = 0.995  # recall at which no more effort is tried ...
LEVEL, GAIN = 0.98, 0.002  # ... nor beyond this one, where the last step brought less
SHORT = 0.95  # recall of the greatest effort below which more candidates are asked for
HOPELESS = 0.8  # recall below which the next effort is left out, and not tried for larger answers
_PART = 40  # queries that one thread asks in a row
_TIMED = 8  # queries asked one by one, for the time that one takes
_FORMAT = 1
_OFF = 0.5  # of the distance of two rows: how far derived queries are from a row
_KNOWN = 1024  # answers that a profile remembers

Queries = NDArray[np.float32]
#: the canonical distances of the k nearest covered rows, float32 (nq, k), NaN where there are fewer
Truth = Callable[[Queries, int], NDArray[np.float32]]
_Kind = tuple[Queries, "NDArray[np.float32]"]  # queries of one kind, and their truth
_Recalls = list["NDArray[np.float64]"]  # by kind, of each query


@dataclass(frozen=True)
class Profile:
    """What was measured of one index, by size of answer and then effort, both ascending."""

    rungs: tuple[Rung, ...]
    live: bool = False  # on queries that were really asked
    _known: dict[tuple[int, float], Rung | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def best(self, k: int, target: float) -> Rung | None:
        """The cheapest way to the k nearest rows with this recall; None: nothing measured does."""
        known = self._known.get((k, target), self)
        if known is not self:
            return known  # type: ignore[return-value]
        found = self._best(k, target)
        if len(self._known) < _KNOWN:
            self._known[k, target] = found
        return found

    def _best(self, k: int, target: float) -> Rung | None:
        sizes = sorted({rung.k for rung in self.rungs if rung.k >= k})
        for size in sizes[:1]:
            fits = [rung for rung in self.rungs if rung.k == size and rung.recall >= target]
            return min(fits, key=lambda rung: rung.us, default=None)
        return None

    def packed(self) -> bytes:
        """As bytes."""
        rungs = [[r.k, r.count, r.effort, r.recall, r.us] for r in self.rungs]
        body: bytes = msgpack.packb({"format": _FORMAT, "live": self.live, "rungs": rungs})
        return crc32(body).to_bytes(4, "little") + body

    @classmethod
    def unpacked(cls, packed: bytes) -> Profile | None:
        """What `packed` gave; None where another version did, or the bytes are damaged."""
        body = packed[4:]
        if not body or crc32(body) != int.from_bytes(packed[:4], "little"):
            return None
        found = msgpack.unpackb(body)
        if found.get("format") != _FORMAT:
            return None
        return cls(tuple(Rung(*rung) for rung in found["rungs"]), bool(found["live"]))


def measure(
    index: VectorIndex,
    vectors: Vectors,
    truth: Truth,
    groups: Sequence[Queries],
    *,
    most_us: float,
    live: bool = False,
    check: Callable[[], None] = lambda: None,
    team: Team | None = None,
) -> Profile:
    """Climb the index's efforts for each size of answer.

    groups: kinds of queries, float32 (nq, d) each; the one that is answered worst counts.
    most_us: what reading all rows costs a query: dearer efforts are of no use.
    check: called before each step; what it raises ends the measurement.
    team: threads that share the work; None = the caller's alone.
    """
    team = team or Team(1)
    first = [group[:LARGE_SAMPLE] for group in groups]
    deep = team.map(lambda group: truth(group, NEAREST[-1]), first)
    shallow = [near[:, : NEAREST[0]] for near in deep]
    if more := [group[LARGE_SAMPLE:] for group in groups if len(group) > LARGE_SAMPLE]:
        rest = iter(team.map(lambda group: truth(group, NEAREST[0]), more))
        shallow = [
            np.concatenate([near, next(rest)]) if len(group) > LARGE_SAMPLE else near
            for near, group in zip(shallow, groups, strict=True)
        ]
    every = _Asked(index, vectors, list(zip(groups, shallow, strict=True)), team)
    some = _Asked(index, vectors, list(zip(first, deep, strict=True)), team)
    rungs: list[Rung] = []
    least = 0  # effort: a larger answer needs no less than a smaller one
    for size in NEAREST:
        asked = every if size < LARGE else some
        for count in _counts(index, size):
            for rung in _climbed(asked, size, count, least):
                check()
                before = rungs[-1] if rungs else rung
                rungs.append(rung)
                if rung.recall < HOPELESS and count == index.candidates(size):
                    least = rung.effort + 1
                if rung.recall >= ENOUGH or rung.us > most_us or _is_level(before, rung):
                    break
            if rungs[-1].recall >= SHORT or rungs[-1].us > most_us:
                break
    return Profile(tuple(rungs), live)


def _is_level(before: Rung, rung: Rung) -> bool:
    """Whether more effort brings hardly more."""
    alike = (before.k, before.count) == (rung.k, rung.count) and before.effort < rung.effort
    return alike and before.recall >= LEVEL and rung.recall < before.recall + GAIN


def _counts(index: VectorIndex, size: int) -> tuple[int, ...]:
    """Candidates to ask for: the kind's own number; more where its codes are too rough for that."""
    count = index.candidates(size)
    return (count, 4 * count) if 4 * count < index.rows else (count,)


@dataclass(frozen=True, eq=False)
class _Asked:
    """An index and the queries that it is measured with."""

    index: VectorIndex
    vectors: Vectors
    kinds: Sequence[_Kind]
    team: Team

    def recalls(
        self, size: int, asked: tuple[int, int], before: _Recalls | None
    ) -> list[NDArray[np.float64]]:
        """Per kind and query the part of so many nearest rows that is found with this (count,
        effort). before: with less effort: whoever found all then is not asked again.
        """
        found = before or [np.zeros(len(queries)) for queries, _ in self.kinds]
        found = [mine.copy() for mine in found]
        parts = [
            (kind, part)
            for kind, mine in enumerate(found)
            for part in _cut(np.flatnonzero(mine < 1))
        ]
        for (kind, part), new in zip(parts, self._asked(parts, size, asked), strict=True):
            found[kind][part] = new
        return found

    def _asked(
        self, parts: Sequence[tuple[int, NDArray[np.int64]]], size: int, asked: tuple[int, int]
    ) -> list[NDArray[np.float64]]:
        def ask(item: tuple[int, NDArray[np.int64]]) -> NDArray[np.float64]:
            queries, nearest = self.kinds[item[0]]
            mine = np.ascontiguousarray(queries[item[1]])
            return _recalls(self.index, self.vectors, mine, nearest[item[1], :size], asked)

        return self.team.map(ask, parts)


def _cut(queries: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """In parts that one thread asks."""
    return [queries[low : low + _PART] for low in range(0, len(queries), _PART)]


def _climbed(asked: _Asked, size: int, count: int, least: int) -> Iterator[Rung]:
    """Efforts from `least` on, cheap to dear; after a hopeless one the next is left out."""
    efforts = asked.index.efforts(count)
    at = min(bisect_left(efforts, least), len(efforts) - 1)
    found: _Recalls | None = None
    while at < len(efforts):
        way = count, efforts[at]
        found = asked.recalls(size, way, found)
        us = _time_us(asked.index, asked.vectors, asked.kinds[0][0], way)
        rung = Rung(size, *way, min(map(_low_mean, found)), us)
        yield rung
        last = len(efforts) - 1
        at = min(at + 2, last) if rung.recall < HOPELESS and at < last else at + 1


def _recalls(
    index: VectorIndex,
    vectors: Vectors,
    queries: Queries,
    nearest: NDArray[np.float32],
    asked: tuple[int, int],
) -> NDArray[np.float64]:
    """Per query, the share of its nearest rows that were named; equal distances count."""
    positions = index.search(queries, asked[0], effort=asked[1], mask=None)
    distances = np.full(positions.shape, np.inf, np.float32)
    query_of, column = np.nonzero(positions >= 0)
    distances[query_of, column] = candidate_distances(
        vectors, positions[query_of, column], queries, query_of, index.metric
    )
    return recalls(nearest, distances)


def recalls(nearest: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """Per query, how much of the exact answer was found, whichever of equal rows stand for it.

    nearest: the exact distances, float32 (nq, k), ascending, NaN padded. found: those of the rows
    that were found, (nq, any), each row once. 1 where there is nothing to find.
    """
    exists = ~np.isnan(nearest)
    sizes = exists.sum(axis=1)
    last = np.where(exists, nearest, -np.inf).max(axis=1, initial=-np.inf)[:, np.newaxis]
    nearer = (exists & (nearest < last)).sum(axis=1)  # than the last place: no other row will do
    hits = np.minimum((found < last).sum(axis=1), nearer)
    hits += np.minimum((found == last).sum(axis=1), sizes - nearer)
    return np.where(sizes > 0, hits / np.maximum(sizes, 1), 1.0)


def _low_mean(values: NDArray[np.float64]) -> float:
    """The mean less its standard error."""
    return float(values.mean() - values.std() / np.sqrt(len(values)))


def _time_us(
    index: VectorIndex, vectors: Vectors, queries: Queries, asked: tuple[int, int]
) -> float:
    """Median CPU time of this thread for one query, candidates' distances included."""
    spent = []
    for at in range(min(_TIMED, len(queries))):
        one, began = queries[at : at + 1], time.thread_time()
        positions = index.search(one, asked[0], effort=asked[1], mask=None)[0]
        positions = positions[positions >= 0]
        nothing = np.zeros(len(positions), np.int64)
        candidate_distances(vectors, positions, one, nothing, index.metric)
        spent.append(time.thread_time() - began)
    return float(np.median(spent)) * 1e6


def derived(
    vectors: Vectors, covered: NDArray[np.int64], metric: Metric, count: int = SAMPLE
) -> list[Queries]:
    """Queries made of rows: float32 (count, d) each, off a row along two others, and in any way.

    covered: positions of the rows that there are. The same for the same rows. Of words of bits:
    zeros and ones.
    """
    random = np.random.default_rng(len(covered))
    if metric.is_of_bits:
        return _derived_bits(vectors, covered, count, random)
    first, second, third, fourth = (_drawn(vectors, covered, metric, count, random) for _ in "1234")
    far = _OFF * _lengths(first - second)[:, np.newaxis]
    noise: Queries = random.standard_normal(first.shape, np.float32)
    kinds: list[Queries] = [third - fourth, noise]
    return [np.ascontiguousarray(first + far * _directions(off), np.float32) for off in kinds]


def _directions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each at length 1, or 0."""
    return (rows / np.maximum(_lengths(rows), 1e-12)[:, np.newaxis]).astype(np.float32)


def _derived_bits(
    words: Vectors, covered: NDArray[np.int64], count: int, random: np.random.Generator
) -> list[Queries]:
    """Each bit from one of two rows, and rows with some bits flipped, as for vectors."""
    first, second = (_ones(words[np.sort(random.choice(covered, count))]) for _ in range(2))
    second = random.permutation(second)
    between = np.where(random.random(first.shape) < 0.5, first, second)
    apart = np.mean(first != second, axis=1, keepdims=True)
    off = np.where(random.random(first.shape) < 0.375 * apart, 1 - first, first)
    return [np.ascontiguousarray(made, np.float32) for made in (between, off)]


def _ones(words: NDArray[Any]) -> NDArray[np.uint8]:
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1)


def _drawn(
    vectors: Vectors,
    covered: NDArray[np.int64],
    metric: Metric,
    count: int,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    rows = vectors[np.sort(random.choice(covered, count))].astype(np.float32)
    if metric is Metric.COSINE:
        rows /= np.maximum(_lengths(rows), 1e-30)[:, np.newaxis]
    return random.permutation(rows)


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths

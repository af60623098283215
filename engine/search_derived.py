"""Exact searches of derived vectors (see `derived`), which are made for it.

A segment's are made once and kept in the column cache where they fit there; else those that may
match are made piece by piece. The nearest of each piece are the candidates of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nearql.engine import bit_rows, strategy
from nearql.engine.backends.base import Block
from nearql.engine.bit_rows import from_queries
from nearql.engine.derived import DerivedRows
from nearql.engine.errors import InvalidValue
from nearql.engine.ranking import KeysOf, Ranking
from nearql.engine.search import Masks, Searcher, VectorSlice
from nearql.engine.segment.cache import ColumnCache
from nearql.engine.types import Metric, SearchHits, SearchRequest, SearchStats

_PIECE_BYTES = 32 << 20  # of derived vectors that are made at once
_FEW = 8  # rows singled out are made alone where they are this part of a segment, or fewer


class DerivedSearcher(Searcher):
    """A searcher of slices whose vectors are `DerivedRows`."""

    def __init__(self, searcher: Searcher, cache: ColumnCache) -> None:
        self.backend = searcher.backend
        self.team = searcher.team
        self.machine = searcher.machine
        self.coder = searcher.coder
        self._searcher = searcher
        self._cache = cache

    def search(
        self,
        slices: Sequence[VectorSlice],
        request: SearchRequest,
        *,
        masks: Masks | None,
        keys_of: KeysOf,
    ) -> SearchHits:
        """The k nearest rows to each query, as `Searcher.search`.

        Raises:
            InvalidValue: a row that may match has an element that its type can't hold.
        """
        given = masks if masks is not None else [None] * len(slices)
        if request.metric.is_of_bits:
            return self._nearest_bits(slices, request, given, keys_of)
        pieces = [
            piece
            for one, mask in zip(slices, given, strict=True)
            for piece in _pieces(one, mask, self._cache)
        ]
        whole = [piece for piece in pieces if piece.numbers is None]
        hits = self._searcher.search(
            [piece.slice for piece in whole], request,
            masks=None if masks is None else [piece.mask for piece in whole], keys_of=keys_of,
        )  # fmt: skip
        if len(whole) < len(pieces):
            hits = self._joined(
                hits, [p for p in pieces if p.numbers is not None], request, keys_of
            )
        live = sum(one.live for one in slices)
        share = _qualifying(slices, given) / live if live else 1.0
        return replace(hits, stats=replace(hits.stats, selectivity=share))

    def _nearest_bits(
        self, slices: Sequence[VectorSlice], request: SearchRequest, masks: Masks, keys_of: KeysOf
    ) -> SearchHits:
        """The k nearest bit strings to each query: every row's words are compared."""
        queries, k = from_queries(request.queries), request.k
        check = request.patience.check if request.patience is not None else None
        work = [
            (one, mask, at)
            for one, mask in zip(slices, masks, strict=True)
            for at in range(len(queries))
        ]

        def some(item: tuple[VectorSlice, NDArray[np.bool_] | None, int]) -> SearchHits:
            one, mask, at = item
            return _nearest_words(one, mask, self._words(one), (queries[at], request.metric, k))

        found = self.team.checking(check).map(some, work)
        ranking = Ranking.of(
            np.concatenate([_NO_ROWS, *(np.full(h.rows.shape[1], item[2]) for item, h in
                                        zip(work, found, strict=True))]),
            np.concatenate([_NO_ROWS, *(hits.rows[0] for hits in found)]),
            np.concatenate([np.empty(0, np.float32), *(hits.distances[0] for hits in found)]),
            len(queries),
        )  # fmt: skip
        ranking.settle(k, keys_of)
        live, qualifying = sum(one.live for one in slices), _qualifying(slices, masks)
        stats = SearchStats(
            strategy="exact" if all(mask is None for mask in masks) else "exact_filtered",
            backend="bits",
            candidates=qualifying * len(queries),
            reranked=len(ranking.rows),
            selectivity=qualifying / live if live else 1.0,
            batch=len(queries),
        )
        return SearchHits(*ranking.top(k), stats)

    def _words(self, one: VectorSlice) -> NDArray[np.uint64]:
        """The words of a slice's rows; kept while they fit into the column cache."""
        derived = one.vectors
        assert isinstance(derived, DerivedRows)
        words: NDArray[np.uint64] = self._cache.get((derived.token, 0), lambda: derived[:])
        return words

    def _joined(
        self, hits: SearchHits, pieces: Sequence[_Piece], request: SearchRequest, keys_of: KeysOf
    ) -> SearchHits:
        """The nearest of those found and of pieces of single rows."""
        found: list[tuple[SearchHits, NDArray[np.int64] | None]] = [(hits, None)]
        stats = hits.stats
        for piece in pieces:
            mine = self._searcher.search(
                [piece.slice], request, masks=None, keys_of=piece.keys_of(keys_of)
            )
            found.append((mine, piece.numbers))
            stats = replace(
                stats,
                candidates=stats.candidates + mine.stats.candidates,
                reranked=stats.reranked + mine.stats.reranked,
            )
        ranking = _ranked(found, len(request.queries))
        ranking.settle(request.k, keys_of)
        return SearchHits(*ranking.top(request.k), stats)

    def blocks(
        self, one: VectorSlice, mask: NDArray[np.bool_] | None, request: SearchRequest
    ) -> list[Block]:
        """As `Searcher.blocks`, where the vectors are few; none where they are many."""
        derived = one.vectors
        assert isinstance(derived, DerivedRows)
        if derived.size > strategy.PIECE_ELEMENTS or derived.beyond is not None:
            return []
        made = self._cache.get((derived.token, 0), lambda: derived[:])
        real = VectorSlice(made, one.first_row, one.valid, derived.norms)
        return self._searcher.blocks(real, mask, request)


@dataclass(frozen=True)
class _Piece:
    """Derived vectors of some rows. numbers: their row numbers; None = as the slice says."""

    slice: VectorSlice
    mask: NDArray[np.bool_] | None
    numbers: NDArray[np.int64] | None = None

    def keys_of(self, keys_of: KeysOf) -> KeysOf:
        numbers = self.numbers
        return keys_of if numbers is None else lambda rows: keys_of(numbers[rows])


_NO_ROWS = np.empty(0, np.int64)


def _nearest_words(
    one: VectorSlice,
    mask: NDArray[np.bool_] | None,
    words: NDArray[np.uint64],
    asked: tuple[NDArray[np.uint64], Metric, int],
) -> SearchHits:
    """The k nearest rows of a slice, and those that tie with the last: (1, m) in any order."""
    query, metric, k = asked
    allowed = one.valid if mask is None else _allowed(one, mask)
    positions = None
    if allowed is not None:
        positions = np.flatnonzero(allowed)
        words = words[positions]
    distances = bit_rows.distances(words, query, metric)
    if k < len(distances):
        near = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
        distances = distances[near]
        positions = near if positions is None else positions[near]
    elif positions is None:
        positions = np.arange(len(distances))
    return SearchHits(positions[np.newaxis] + one.first_row, distances[np.newaxis], _NO_STATS)


_NO_STATS = SearchStats("exact", "bits")


def _qualifying(slices: Sequence[VectorSlice], masks: Masks) -> int:
    return sum(
        one.live if mask is None else int(np.count_nonzero(_allowed(one, mask)))
        for one, mask in zip(slices, masks, strict=True)
    )


def _allowed(one: VectorSlice, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask if one.valid is None else mask & one.valid


def _pieces(
    one: VectorSlice, mask: NDArray[np.bool_] | None, cache: ColumnCache
) -> Iterator[_Piece]:
    """The rows of a slice that may match, as vectors."""
    derived = one.vectors
    assert isinstance(derived, DerivedRows)
    allowed = one.valid if mask is None else _allowed(one, mask)
    _check(derived, allowed)
    count = len(derived) if allowed is None else int(np.count_nonzero(allowed))
    if not count:
        return
    if _FEW * count > len(derived) and 2 * derived.nbytes <= cache.limit_bytes:
        made = cache.get((derived.token, 0), lambda: derived[:])
        yield _Piece(VectorSlice(made, one.first_row, one.valid, derived.norms), mask)
        return
    positions = np.arange(len(derived)) if allowed is None else np.flatnonzero(allowed)
    step = max(1_024, _PIECE_BYTES // derived.strides[0])
    for low in range(0, len(positions), step):
        some = positions[low : low + step]
        vectors = derived.take(some)
        piece = VectorSlice(vectors, 0, None, derived.norms[some])
        yield _Piece(piece, None, some + one.first_row)


def _check(derived: DerivedRows, allowed: NDArray[np.bool_] | None) -> None:
    beyond = derived.beyond
    if beyond is not None and (allowed is None or (beyond & allowed).any()):
        raise InvalidValue(
            "An element is beyond the range of float16.", code="invalid_vector", sqlstate="22003"
        )


def _ranked(
    found: Sequence[tuple[SearchHits, NDArray[np.int64] | None]], query_count: int
) -> Ranking:
    """Hits with the row numbers of those that they name, None = they name them themselves."""
    queries: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    distances: list[NDArray[np.float32]] = []
    for hits, numbers in found:
        query_of, column = np.nonzero(hits.rows >= 0)
        mine = hits.rows[query_of, column]
        queries.append(query_of)
        rows.append(mine if numbers is None else numbers[mine])
        distances.append(hits.distances[query_of, column])
    return Ranking.of(
        np.concatenate(queries), np.concatenate(rows), np.concatenate(distances), query_count
    )

"""Whether a backend keeps its promises on this machine: run at start, before it may answer anyone.

Small random cases of every metric, element type and kind of filter, against float64 brute force. A
wrong build of a library, or a processor on which a kernel misbehaves, shows here, not in answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearql.engine.backends.base import Backend, Block
from nearql.engine.distance import Vectors, canonical_distances, row_norms, score_limit
from nearql.engine.team import Team
from nearql.engine.types import VECTOR_METRICS, Metric

_ROWS = 193
_QUERIES = 8
_K = 5


@dataclass(frozen=True)
class _Case:
    name: str
    block: Block
    queries: NDArray[np.float32]
    metric: Metric


def self_test(backend: Backend) -> str | None:
    """The first broken promise of a backend in words, or None where it keeps them all."""
    for plain in _cases():
        for case in (plain, *_coded(backend, plain)):
            for query in case.queries[:2]:
                problem = _check_contenders(backend, case, query)
                if problem:
                    return f"{case.name}: {problem}"
            if backend.batches(case.metric, _QUERIES):
                problem = _check_nearest(backend, case)
                if problem:
                    return f"{case.name}: {problem}"
    return None


def _cases() -> Iterator[_Case]:
    random = np.random.default_rng(20)
    for dimensions in (3, 96):
        for element in (np.float32, np.float16):
            vectors: Any = random.standard_normal((_ROWS, dimensions)).astype(element)
            vectors[7] = vectors[90]  # a tie
            queries = random.standard_normal((_QUERIES, dimensions)).astype(np.float32)
            queries[0] = vectors[90]
            mask = random.random(_ROWS) < 0.5
            for kind, block in _blocks(vectors, mask):
                for metric in VECTOR_METRICS:
                    name = f"{metric}, {dimensions} x {np.dtype(element).name}, {kind}"
                    yield _Case(name, block, queries, metric)


def _coded(backend: Backend, case: _Case) -> Iterator[_Case]:
    """The same rows in tiles, where the backend searches those."""
    if case.block.positions is None and backend.codes(case.metric, _K, 1):
        vectors, cut = case.block.vectors, _ROWS // 2
        tiles = [
            backend.encode(vectors[:cut], None, case.metric, 0),
            backend.encode(vectors[cut:], None, case.metric, cut),
        ]
        yield replace(case, name=f"{case.name}, codes", block=replace(case.block, tiles=tiles))


def _blocks(vectors: Vectors, mask: NDArray[np.bool_]) -> Iterator[tuple[str, Block]]:
    norms = row_norms(vectors)
    longest = float(norms.max())
    yield "all rows", Block(vectors, norms, longest)
    yield "mask", Block(vectors, norms, longest, mask=mask)
    positions = np.flatnonzero(mask)
    yield "positions", Block(vectors, norms, longest, mask=mask, positions=positions)


def _check_contenders(backend: Backend, case: _Case, query: NDArray[np.float32]) -> str | None:
    rows, team = case.block.matching, Team(1)
    distances = canonical_distances(case.block.vectors, query, case.metric)[rows]
    kth = np.partition(distances, _K - 1)[_K - 1]
    named = backend.contenders(case.block, query, case.metric, k=_K, limit=float("inf"), team=team)
    missing = _without(rows[distances <= kth], named)
    if len(missing):
        return f"row {missing[0]} is among the {_K} nearest, but was not named"
    limit = score_limit(case.metric, float(kth))
    within = backend.contenders(case.block, query, case.metric, k=None, limit=limit, team=team)
    missing = _without(rows[distances <= kth], within)
    if len(missing):
        return f"row {missing[0]} lies within {kth}, but was not named"
    if len(_without(np.concatenate([named, within]), rows)):
        return "a row was named that doesn't match the filter"
    return None


def _check_nearest(backend: Backend, case: _Case) -> str | None:
    rows = case.block.matching
    candidates = backend.nearest(case.block, case.queries, case.metric, _K, team=Team(1))
    for query, named, floor in zip(
        case.queries, candidates.positions, candidates.floor, strict=True
    ):
        if len(_without(named[named >= 0], rows)):
            return "a row was named that doesn't match the filter"
        others = _without(rows, named[named >= 0])
        scores = _scores(case.block.vectors[others], query, case.metric)
        if (scores < floor).any():
            return f"row {others[scores.argmin()]} was not named and lies below the floor {floor}"
    return None


def _without(rows: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that are not among `taken`; a start waits for this, and np.setdiff1d sorts."""
    left = np.ones(_ROWS, dtype=np.bool_)
    left[taken] = False
    return rows[left[rows]]


def _scores(vectors: Vectors, query: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    rows, one = vectors.astype(np.float64), query.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(((rows - one) ** 2).sum(axis=1))
    if metric is Metric.L1:
        return np.asarray(np.abs(rows - one).sum(axis=1))
    scores = np.asarray(-(rows @ one))
    if metric is Metric.COSINE:
        scores /= np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    return scores

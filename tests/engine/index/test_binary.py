"""Indexes over bit strings: what they name, and after they were written and read again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine import bit_rows
from nearql.engine.index.base import Source
from nearql.engine.index.binary import KINDS
from nearql.engine.index.files import IndexFiles
from nearql.engine.storage.files import LocalFileSystem
from nearql.engine.types import Metric
from support.indexed import debian_vectors, halfway

ROWS = 3_000


class Watch:
    """Lets a build run to its end."""

    threads = 1

    def step(self, phase: str, done: int) -> None:
        """Go on."""


@cache
def rows() -> Any:
    return bit_rows.from_signs(debian_vectors()[:ROWS])


def source(covered: NDArray[np.bool_] | None = None) -> Source:
    return Source(rows(), np.ones(ROWS, np.float32), covered, lasting=False)


def recall(
    found: NDArray[np.int64], queries: NDArray[np.float32], where: NDArray[np.bool_]
) -> float:
    """Of the ten nearest rows, those found; equal distances count."""
    hits = 0
    for at, query in enumerate(bit_rows.from_queries(queries)):
        distances = bit_rows.distances(rows(), query, Metric.HAMMING)
        last = np.sort(distances[where])[9]
        named = found[at][found[at] >= 0]
        assert where[named].all()
        assert len(set(named.tolist())) == len(named)
        hits += int((distances[named] <= last).sum())
    return hits / (10 * len(queries))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("some", [False, True])
def test_recall_before_and_after_the_file(kind: str, some: bool, tmp_path: Path) -> None:
    covered = np.arange(ROWS) % 3 > 0 if some else None
    where = np.ones(ROWS, np.bool_) if covered is None else covered
    of = source(covered)
    index = KINDS[kind].build(of, Metric.HAMMING, {}, Watch())
    assert KINDS[kind].build_bytes(of, Metric.HAMMING, {}) > 0
    files = IndexFiles(LocalFileSystem(), tmp_path)
    files.write("one", KINDS[kind], index, of)
    again = files.open("one", KINDS[kind], Metric.HAMMING, source(), verify=True)
    assert again is not None
    queries = (halfway(debian_vectors()[:ROWS], 40) > 0).astype(np.float32)
    effort = index.efforts(10)[-1]
    for one in (index, again):
        assert (one.kind, one.rows, one.metric) == (kind, ROWS, Metric.HAMMING)
        found = one.search(queries, 10, effort=effort, mask=None)
        assert recall(found, queries, where) >= 0.95
    found = again.search(queries, 10, effort=index.efforts(10)[0], mask=None)
    assert np.array_equal(found, index.search(queries, 10, effort=index.efforts(10)[0], mask=None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_kept_to(kind: str) -> None:
    index = KINDS[kind].build(source(), Metric.HAMMING, {}, Watch())
    queries = (halfway(debian_vectors()[:ROWS], 20) > 0).astype(np.float32)
    for part in (2, 7):
        mask = np.arange(ROWS) % part == 0
        found = index.search(queries, 10, effort=index.efforts(10)[-1], mask=mask)
        assert recall(found, queries, mask) >= 0.9
    nothing = index.search(queries, 10, effort=10, mask=np.zeros(ROWS, np.bool_))
    assert (nothing == -1).all()

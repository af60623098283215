"""target_recall is kept as data and queries change: 1,000 queries after each change.

What the background does when nobody searches, the test does when it wants to: build and tune.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nearql.engine.index.profiles import LEAST, Profiles
from nearql.engine.settings import EngineSettings
from nearql.engine.types import Metric, SearchRequest
from support.indexed import IndexedTable, Vectors, debian_vectors, halfway

TARGET = 0.95
SLACK = 0.01
VECTORS = debian_vectors()
SETTINGS = EngineSettings(index_min_rows=64, search_threads=2, tune_quiet_ms=0)


def sides() -> tuple[Vectors, Vectors]:
    """The packages on either side of the direction in which they differ most."""
    centred = VECTORS - VECTORS.mean(axis=0)
    direction = np.linalg.svd(centred[::5], full_matrices=False)[2][0]
    left = centred @ direction < 0
    return VECTORS[left], VECTORS[~left]


LEFT, RIGHT = sides()


@pytest.fixture(params=["hnsw", "ivfpq"])
def docs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IndexedTable]:
    """The left half, indexed and tuned on queries of its own."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("docs")
    made = IndexedTable.create(folder, request.param, dimensions=64, settings=SETTINGS)
    made.put(0, LEFT)
    made.build()
    queries = halfway(LEFT, 200, seed=1)
    made.search(queries)
    assert made.table.tune_indexes() == 1
    made.search(queries)
    yield made
    made.close()


def check(docs: IndexedTable, queries: Vectors) -> None:
    """The target is kept, by an index that is really asked."""
    assert len(queries) == 1_000
    assert docs.recall(queries) >= TARGET - SLACK
    assert docs.search(queries[:1]).stats.strategy in ("index", "widening")


def test_the_data_drift_under_a_tuned_index(docs: IndexedTable) -> None:
    """Another kind of rows comes, most old ones go, the queries follow; then they are tuned on."""
    check(docs, halfway(LEFT, 1_000, seed=2))
    docs.put(len(LEFT), RIGHT)
    mixed = np.concatenate([LEFT, RIGHT])
    check(docs, halfway(mixed, 1_000, seed=3))  # new rows are still in memory
    docs.build()
    check(docs, halfway(mixed, 1_000, seed=4))
    docs.delete(np.arange(0, len(LEFT) * 8 // 10))
    check(docs, halfway(RIGHT, 1_000, seed=5))
    docs.build()
    docs.search(halfway(RIGHT, 200, seed=6))
    assert docs.table.tune_indexes() >= 1
    check(docs, halfway(RIGHT, 1_000, seed=7))


def test_rows_are_moved_in_place(docs: IndexedTable) -> None:
    """Every second row gets the vector of a row of the other kind."""
    moved = LEFT.copy()
    moved[::2] = RIGHT[: len(moved[::2])]
    docs.put(0, moved[::2], step=2)
    check(docs, halfway(moved, 1_000, seed=8))
    docs.build()
    check(docs, halfway(moved, 1_000, seed=9))


def test_tuning_is_kept_over_a_restart(docs: IndexedTable) -> None:
    before = docs.search(halfway(LEFT, 50, seed=10)).stats
    docs.reopen()
    assert docs.search(halfway(LEFT, 50, seed=10)).stats == before


def test_too_few_queries_say_nothing(docs: IndexedTable) -> None:
    """Queries asked again and again are one."""
    again = np.repeat(halfway(LEFT, 1), 500, axis=0)
    docs.reopen()
    docs.search(again)
    assert docs.table.tune_indexes() == 0


VEC = (2, Metric.L2, None)


def ask(profiles: Profiles, queries: Vectors) -> bool:
    return profiles.asked(VEC, SearchRequest("vec", Metric.L2, queries, 10))


def test_the_last_queries_are_remembered() -> None:
    profiles = Profiles()
    assert profiles.lately(VEC) is None
    ask(profiles, VECTORS[: LEAST - 1])
    assert profiles.lately(VEC) is None
    ask(profiles, VECTORS[1_000:3_000])
    kept = profiles.lately(VEC)
    assert kept is not None
    assert {row.tobytes() for row in kept} <= {row.tobytes() for row in VECTORS[1_000:3_000]}
    assert profiles.lately((2, Metric.COSINE, None)) is None
    assert profiles.lately((3, Metric.L2, None)) is None


def test_a_measurement_is_due_soon_then_later() -> None:
    profiles = Profiles()
    due = [at for at in range(5_000) if ask(profiles, VECTORS[:1])]
    assert due == [127, 2_127, 4_127]

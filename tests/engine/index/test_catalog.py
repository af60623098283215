"""The life of a table's indexes: built, kept, moved along, dropped, damaged, built again."""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="FAISS isn't installed")

from nearql.engine.index import catalog as catalog_module
from nearql.engine.index.carried import CarriedIndex
from nearql.engine.index.files import DAMAGED_SUFFIX, INDEX_DIRECTORY
from nearql.engine.index.progress import IndexProgress
from nearql.engine.memory import MemoryBudget
from nearql.engine.table import Table
from nearql.engine.tuning import measure
from nearql.engine.types import Metric, RowSet, Tuning
from nearql.engine.view import TableView
from support.disks import PowerLoss, SimulatedDisk
from support.indexes import (
    SETTINGS,
    UUID,
    filled,
    found,
    ids,
    index_def,
    inline,
    packages,
    put,
    table_def,
)
from support.tables import delete

DIRECTORY = Path("/data/table")
FOLDER = DIRECTORY / "shard-0000" / INDEX_DIRECTORY
HNSW = index_def("hnsw")
EXACT = Tuning(target_recall=1.0)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """900 of 24 dimensions: quick to build, and each is its own nearest."""
    return np.ascontiguousarray(packages()[:900, :24])


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def made(disk: SimulatedDisk, vectors: NDArray[np.float32], **changes: Any) -> Table:
    """A table with an index over all these rows, in more than one segment."""
    return filled(DIRECTORY, inline(replace(SETTINGS, **changes), disk), vectors, HNSW)


def reopened(disk: SimulatedDisk, dimensions: int = 24) -> Table:
    definition = table_def(dimensions, HNSW)
    return Table.open(DIRECTORY, definition, inline(SETTINGS, disk))


def progress(table: Table) -> IndexProgress:
    return table.index_progress()[UUID]


def strategies(table: Table, query: NDArray[np.float32]) -> set[str]:
    return {found(table.read_view(), query, 5).stats.label}


def check_complete(
    view: TableView, queries: NDArray[np.float32], rows: RowSet | None = None
) -> None:
    """Hard searches find the exact nearest rows, by key and distance, whoever names them."""
    for query in queries:
        hits = found(view, query, 5, rows=rows)
        exact = found(view, query, 5, tuning=EXACT, rows=rows)
        assert ids(view, hits) == ids(view, exact)
        np.testing.assert_array_equal(hits.distances, exact.distances)


def segments(table: Table) -> list[Any]:
    return [segment.data for segment in table.read_view()._shards[0].segments]


# ---- Building ------------------------------------------------------------------------------


def test_every_row_that_was_there_is_indexed(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    """The growing segment is sealed first, so that it is too."""
    table = made(disk, vectors)
    assert all(UUID in data.indexes for data in segments(table))
    done = progress(table)
    assert (done.phase, done.rows_done, done.rows_total, done.eta_ms) == ("ready", 900, 900, 0)
    assert done.bytes > 0
    assert strategies(table, vectors[3]) == {"index/hnsw"}
    check_complete(table.read_view(), vectors[::90])


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"join_rows": 900}, [900]),
        ({"join_rows": 899}, [600, 300]),  # as they are sealed without an index
        ({"join_rows": 900, "join_bytes": 900 * 27 * 4}, [900]),  # with id and norm
        ({"join_rows": 900, "join_bytes": 900 * 27 * 4 - 1}, [600, 300]),
    ],
)
def test_segments_that_wait_for_an_index_become_one(
    disk: SimulatedDisk, vectors: NDArray[np.float32], changes: Any, sizes: list[int]
) -> None:
    """Loaded first and indexed then, rows are in one graph; not beyond the limits."""
    table = made(disk, vectors, **changes)
    assert [data.rows for data in segments(table)] == sizes
    assert all(UUID in data.indexes for data in segments(table))
    check_complete(table.read_view(), vectors[::90])


def test_segments_that_are_indexed_stay_as_they_are(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    """What was built is not thrown away for rows that came later."""
    table = made(disk, vectors[:800], join_rows=800)
    before = segments(table)
    put(table, np.arange(800, 900), list(vectors[800:]))
    table._indexes.refresh(seal=True)
    assert segments(table)[0] is before[0]
    assert [data.rows for data in segments(table)] == [800, 100]


def test_a_build_waits_for_memory_and_says_so(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearql.engine.memory._FRESH_S", -1)
    context, seen = inline(SETTINGS, disk), []
    table = filled(DIRECTORY, context, vectors)

    def used() -> int:
        """Much, until it was asked for three times while the index waited."""
        found = table.index_progress().get(UUID)
        phase = "" if found is None else found.phase
        seen.append(phase)
        return 1_000_000 if seen.count("waiting") < 3 else 0

    context.memory = MemoryBudget(1_000_000, used)
    table.declare_indexes([HNSW])
    assert seen.count("waiting") >= 3
    assert "building" not in seen
    assert progress(table).phase == "ready"
    assert context.memory.reserved_bytes == 0
    check_complete(table.read_view(), vectors[::90])


def test_a_build_that_can_never_have_its_memory_fails_by_name(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    context = inline(SETTINGS, disk)
    table = filled(DIRECTORY, context, vectors)
    context.memory = MemoryBudget(10_000, lambda: 0)
    table.declare_indexes([HNSW])
    done = progress(table)
    assert done.phase == "failed"
    assert "engine.memory_limit (10000)" in str(done.detail)
    check_complete(table.read_view(), vectors[::90])


def test_a_build_that_waits_for_memory_is_called_off_with_its_table(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = inline(SETTINGS, disk)
    table = filled(DIRECTORY, context, vectors)
    step = table._indexes.step

    def closed_meanwhile(phase: str, done: int) -> None:
        if phase == "waiting":
            table._indexes._closed = True
        step(phase, done)

    monkeypatch.setattr(table._indexes, "step", closed_meanwhile)
    context.memory = MemoryBudget(1_000_000, lambda: 1_000_000)
    table.declare_indexes([HNSW])
    assert context.memory.reserved_bytes == 0
    assert not disk.names(FOLDER)


def test_an_index_is_measured_before_it_is_ready(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measured(*args: Any, **more: Any) -> Any:
        seen.append(progress(table).phase)
        return measure(*args, **more)

    monkeypatch.setattr(catalog_module, "measure", measured)
    table = filled(DIRECTORY, inline(SETTINGS, disk), vectors)
    table.declare_indexes([HNSW])
    assert set(seen) == {"measuring"}
    assert progress(table).phase == "ready"


def test_what_comes_later_is_read_until_it_is_sealed(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    table = made(disk, vectors[:700])
    put(table, range(700, 900), list(vectors[700:]))
    assert ids(table.read_view(), found(table.read_view(), vectors[850], 1)) == [850]
    check_complete(table.read_view(), vectors[::90])
    table.checkpoint()
    assert progress(table).phase == "ready"
    check_complete(table.read_view(), vectors[::90])


def test_rows_in_memory_are_sealed_before_reading_them_takes_long(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    settings = replace(SETTINGS, index_seal_rows=250, disk_reserve_bytes=0)
    table = filled(DIRECTORY, inline(settings, disk), vectors[:100], HNSW)
    put(table, range(100, 300), list(vectors[100:300]))
    assert not segments(table)[-1].indexes
    disk.fail = {"create": errno.ENOSPC}
    put(table, range(300, 360), list(vectors[300:360]))
    assert not segments(table)[-1].indexes, "the disk is full"
    disk.fail = {}
    put(table, range(360, 700), list(vectors[360:700]))
    assert all(data.indexes for data in segments(table))
    check_complete(table.read_view(), vectors[:700:70])


def test_a_search_by_another_metric_or_exact_target_reads_rows(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    view = made(disk, vectors).read_view()
    assert found(view, vectors[0], 3, metric=Metric.COSINE).stats.strategy == "exact"
    assert found(view, vectors[0], 3, tuning=EXACT).stats.strategy == "exact"


def test_small_segments_and_flat_indexes_hold_nothing(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    table = made(disk, vectors[:90])
    assert progress(table).phase == "ready"
    assert not any(data.indexes for data in segments(table))
    table.declare_indexes([index_def("flat")])
    put(table, range(90, 800), list(vectors[90:800]))
    table.checkpoint()
    assert progress(table).phase == "ready"
    assert disk.names(FOLDER) == []


def test_several_indexes_live_side_by_side_and_the_last_is_used(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    table = made(disk, vectors)
    other = replace(index_def("ivfflat"), uuid="other")
    table.declare_indexes([HNSW, other])
    assert strategies(table, vectors[3]) == {"index/ivfflat"}
    table.declare_indexes([HNSW])
    assert strategies(table, vectors[3]) == {"index/hnsw"}
    assert not any(name.startswith("other") for name in disk.names(FOLDER))


def test_dropping_leaves_nothing(disk: SimulatedDisk, vectors: NDArray[np.float32]) -> None:
    table = made(disk, vectors)
    held = table.read_view()
    assert disk.names(FOLDER)
    table.declare_indexes([])
    assert disk.names(FOLDER) == []
    assert table.index_progress() == {}
    assert strategies(table, vectors[3]) == {"exact/numpy"}
    assert ids(held, found(held, vectors[5], 1)) == [5]


def test_truncation_and_new_rows(disk: SimulatedDisk, vectors: NDArray[np.float32]) -> None:
    table = made(disk, vectors)
    table.truncate()
    assert found(table.read_view(), vectors[0], 3).rows.tolist() == [[-1, -1, -1]]
    put(table, range(300), list(vectors[300:600]))
    table.checkpoint()
    assert ids(table.read_view(), found(table.read_view(), vectors[310], 1)) == [10]
    names = disk.names(FOLDER)
    assert len(names) == len([n for n in names if any(f in n for _, f in files(table))])


def files(table: Table) -> list[tuple[Any, str]]:
    return table._shards[0].sealed_files()


# ---- Rows without a plain vector -----------------------------------------------------------


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE, Metric.INNER_PRODUCT])
def test_null_zero_and_extreme_vectors(
    disk: SimulatedDisk, vectors: NDArray[np.float32], metric: Metric
) -> None:
    """NULL never matches; zero vectors have no cosine and come last; others are read."""
    rows: list[Any] = list(vectors[:600])
    rows[7] = None
    rows[8] = np.zeros(24, np.float32)
    rows[9] = vectors[9] * np.float32(1e20)
    rows[10] = vectors[10] * np.float32(1e-25)
    table = Table.create(DIRECTORY, table_def(24), inline(SETTINGS, disk))
    put(table, range(600), rows)
    table.declare_indexes([index_def("hnsw", metric)])
    view = table.read_view()
    every = found(view, vectors[0], 600, metric=metric)
    exact = found(view, vectors[0], 600, metric=metric, tuning=EXACT)
    assert ids(view, every) == ids(view, exact)
    assert 7 not in ids(view, every)
    np.testing.assert_array_equal(every.distances, exact.distances)
    near = found(view, vectors[9], 1, metric=metric)
    assert near.stats.strategy != "exact"
    np.testing.assert_array_equal(
        near.distances, found(view, vectors[9], 1, metric=metric, tuning=EXACT).distances
    )


def test_copies_come_by_key(disk: SimulatedDisk, vectors: NDArray[np.float32]) -> None:
    same = np.tile(vectors[:3], (200, 1))
    view = made(disk, same).read_view()
    assert set(ids(view, found(view, same[1], 100))) <= set(range(1, 600, 3))


# ---- Updates and deletes -------------------------------------------------------------------


def test_deleted_and_replaced_rows_are_never_named(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    table = made(disk, vectors)
    gone = list(range(0, 900, 11))
    table.modify(lambda view: delete(view, *gone))
    put(table, [5], [vectors[5] + 9])
    view = table.read_view()
    assert not set(gone) & set(ids(view, found(view, vectors[0], 50)))
    assert 5 not in ids(view, found(view, vectors[5], 50))
    check_complete(view, vectors[::90])


def test_indexes_follow_rows_that_a_checkpoint_moves(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the new file's own index is built, the old one serves them, wherever they are."""
    table = made(disk, vectors)
    gone = [key for key in range(900) if key % 3 == 0]
    built = table._indexes.build_next
    monkeypatch.setattr(table._indexes, "build_next", lambda: False)
    table.modify(lambda view: delete(view, *gone))
    table.checkpoint()
    carried = [data.indexes[UUID] for data in segments(table) if UUID in data.indexes]
    assert carried
    assert all(isinstance(index, CarriedIndex) for index in carried)
    assert progress(table).phase == "queued"
    check_complete(table.read_view(), vectors[::45])
    put(table, range(900, 1000), list(vectors[:100] + 3))
    check_complete(table.read_view(), vectors[::45])
    while built():
        pass
    assert progress(table).phase == "ready"
    assert not any(isinstance(data.indexes.get(UUID), CarriedIndex) for data in segments(table))
    check_complete(table.read_view(), vectors[::45])


def test_rebuilding_keeps_answering(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = made(disk, vectors)
    before = disk.names(FOLDER)
    built = table._indexes.build_next
    monkeypatch.setattr(table._indexes, "build_next", lambda: False)
    table.rebuild_indexes([UUID])
    assert progress(table).phase == "queued"
    check_complete(table.read_view(), vectors[::90])
    while built():
        pass
    assert disk.names(FOLDER) == before
    assert progress(table).phase == "ready"


# ---- Files ---------------------------------------------------------------------------------


def test_an_index_is_opened_from_its_file(
    disk: SimulatedDisk, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(disk, vectors).close()
    monkeypatch.setattr(catalog_module.TableIndexes, "_build", forbidden)
    table = reopened(disk)
    assert progress(table).phase == "ready"
    assert strategies(table, vectors[3]) == {"index/hnsw"}
    check_complete(table.read_view(), vectors[::90])


def forbidden(*args: Any) -> None:
    raise AssertionError("built again")


def test_a_flipped_bit_costs_a_build_and_no_answer(
    disk: SimulatedDisk, vectors: NDArray[np.float32], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made(disk, vectors).close()
    name = next(n for n in disk.names(FOLDER) if "segment" in n)
    size = disk.size(FOLDER / name)
    for place in sorted(random.Random(5).sample(range(size), 6)) + [0, size - 1]:
        content = disk.copy().content(FOLDER / name)
        damaged = disk.copy()
        damaged.content(FOLDER / name)[place] = content[place] ^ 4
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(catalog_module.TableIndexes, "build_next", lambda self: False)
            caplog.clear()
            table = reopened(damaged)
            assert name in caplog.text, place
            assert name + DAMAGED_SUFFIX in damaged.names(FOLDER)
            check_complete(table.read_view(), vectors[::300])
            table.close()
    table = reopened(damaged)
    assert progress(table).phase == "ready"
    assert name + DAMAGED_SUFFIX not in damaged.names(FOLDER)


def test_an_index_of_other_rows_is_not_believed(
    disk: SimulatedDisk, vectors: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    made(disk, vectors[:300]).close()
    name = next(n for n in disk.names(FOLDER) if "segment" in n)
    stranger = SimulatedDisk()
    made(stranger, vectors[:350]).close()
    other = next(n for n in stranger.names(FOLDER) if "segment" in n)
    disk.content(FOLDER / name)[:] = stranger.content(FOLDER / other)
    with caplog.at_level(logging.WARNING):
        table = reopened(disk)
    assert "of other rows" in caplog.text
    check_complete(table.read_view(), vectors[:300:30])


def test_a_full_disk_leaves_no_file_and_the_next_try_succeeds(
    disk: SimulatedDisk, vectors: NDArray[np.float32]
) -> None:
    table = filled(DIRECTORY, inline(SETTINGS, disk), vectors[:300])
    table.checkpoint()
    disk.fail = {"pwritev": errno.ENOSPC}
    table.declare_indexes([HNSW])
    disk.fail = {}
    failed = progress(table)
    assert failed.phase == "failed"
    assert "space" in str(failed.detail)
    assert disk.names(FOLDER) == []
    assert ids(table.read_view(), found(table.read_view(), vectors[8], 1)) == [8]
    table.rebuild_indexes([UUID])
    assert progress(table).phase == "ready"
    assert progress(table).detail is None


def test_power_may_fail_at_every_step(vectors: NDArray[np.float32]) -> None:
    """Whatever is left, the table opens, answers and has its index, and nothing else lies about."""
    for crash_at in steps_of_a_build(vectors):
        disk = prepared(vectors)
        disk.crash_at = disk.steps + crash_at
        table = Table.open(DIRECTORY, table_def(24), inline(SETTINGS, disk))
        with pytest.raises(PowerLoss):
            table.declare_indexes([HNSW])
        for left in (disk.after_power_loss(random.Random(crash_at)), disk.after_kill()):
            again = reopened(left)
            assert progress(again).phase == "ready"
            check_complete(again.read_view(), vectors[:200:50])
            assert len([n for n in left.names(FOLDER) if "segment" in n]) >= 1
            assert not [n for n in left.names(FOLDER) if n.endswith(".tmp")]


def prepared(vectors: NDArray[np.float32]) -> SimulatedDisk:
    disk = SimulatedDisk()
    filled(DIRECTORY, inline(SETTINGS, disk), vectors[:200]).close()
    return disk.copy()


def steps_of_a_build(vectors: NDArray[np.float32]) -> Iterator[int]:
    disk = prepared(vectors)
    table = Table.open(DIRECTORY, table_def(24), inline(SETTINGS, disk))
    before = disk.steps
    table.declare_indexes([HNSW])
    yield from range(1, disk.steps - before)

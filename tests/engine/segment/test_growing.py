"""The growing segment: cheap appends that views taken before never notice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.growing import GrowingSegment
from nearql.engine.segment.rows import Rows
from nearql.engine.settings import EngineSettings
from support.tables import SCHEMA, row, rows_of, table_of


def batch(first: int, count: int) -> Rows:
    return Rows.of(SCHEMA, rows_of(range(first, first + count)))


@given(st.lists(st.integers(0, 40), max_size=40))
def test_every_picture_keeps_showing_what_it_showed(sizes: list[int]) -> None:
    segment = GrowingSegment(7, EngineSettings())
    pictures: list[SegmentData] = []
    for size in sizes:
        segment.append(batch(segment.rows, size))
        pictures.append(segment.data())
    segment.check_invariants()
    rows = 0
    for size, picture in zip(sizes, pictures, strict=True):
        rows += size
        picture.check_invariants()
        assert (picture.base, picture.rows) == (7, rows)
        if rows:
            assert picture.column(1).to_pylist() == list(range(rows))
            first = picture.vectors[3].data[:, 0]
            assert first.tolist() == [float(key % 101) for key in range(rows)]


def test_single_row_appends_leave_few_chunks() -> None:
    segment = GrowingSegment(0, EngineSettings())
    for key in range(1000):
        segment.append(batch(key, 1))
    assert len(segment.data().chunks) <= 7 * 4  # 7 of each size below 8**4
    assert segment.data().column(1).to_pylist() == list(range(1000))


def test_the_first_null_vector_may_come_late_and_survive_growth() -> None:
    segment = GrowingSegment(0, EngineSettings())
    segment.append(batch(0, 60))
    before = segment.data()
    segment.append(Rows.of(SCHEMA, table_of([row(60) | {"vec": None}])))
    segment.append(batch(61, 200))
    valid = segment.data().vectors[3].valid
    assert before.vectors[3].valid is None
    assert valid is not None
    assert [place for place, is_valid in enumerate(valid) if not is_valid] == [60]


def test_appending_nothing_changes_nothing() -> None:
    segment = GrowingSegment(0, EngineSettings())
    segment.append(batch(0, 0))
    assert segment.data().chunks == ()
    assert segment.rows == 0


def test_a_large_segment_gets_room_for_all_its_rows_at_once() -> None:
    """Neither much copying on the way, nor much more room than a segment takes."""
    segment = GrowingSegment(0, EngineSettings(seal_rows=20_000))
    addresses = set()
    for first in range(0, 20_000, 500):
        segment.append(batch(first, 500))
        addresses.add(segment.data().vectors[3].data.ctypes.data)
    assert len(addresses) <= 5
    whole = segment.data().vectors[3].data.base
    assert whole is not None
    assert whole.shape == (20_000, 3)

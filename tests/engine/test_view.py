"""Read views: scans, rows by number, filters and searches over many segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.distance import canonical_distances
from nearql.engine.errors import InternalError, InvalidValue, UndefinedColumn
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.table import Table
from nearql.engine.types import (
    ROW_COLUMN,
    VECTOR_METRICS,
    DistanceSpec,
    Metric,
    OnConflict,
    SearchRequest,
)
from nearql.engine.view import TableView
from support.tables import SCHEMA, SMALL, create, definition, delete, insert, row, rows_of, table_of

QUERY = np.array([3, 0, 1], np.float32)
NO_ROWS = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Two shards of sealed and growing segments in several chunks, with dead rows and NULLs."""
    made = create(
        tmp_path_factory.mktemp("view") / "t",
        definition=definition(shards=2),
        settings=replace(SMALL, seal_rows=40),
    )
    insert(made, range(100))
    made.checkpoint()
    insert(made, range(100, 150))
    for key in range(150, 170):
        insert(made, [key])
    made.insert(table_of([row(200) | {"vec": None}, row(201, None)]), OnConflict.ERROR)
    made.modify(lambda view: delete(view, 0, 55, 101, 155))
    yield made
    made.check_invariants()
    made.close()


@pytest.fixture(scope="module")
def view(table: Table) -> TableView:
    return table.read_view()


LIVE = sorted((set(range(170)) | {200, 201}) - {0, 55, 101, 155})


def test_the_fixture_is_as_varied_as_it_says(table: Table) -> None:
    segments = table.stats().segments
    assert {segment.sealed for segment in segments} == {True, False}
    assert {segment.shard for segment in segments} == {0, 1}
    assert sum(segment.dead for segment in segments) >= 3


def test_a_scan_begins_with_row_numbers_and_has_every_live_row_once(view: TableView) -> None:
    scanned = view.scan(["title", "id"])
    assert scanned.schema == pa.schema(
        [(ROW_COLUMN, pa.int64()), ("title", pa.string()), ("id", pa.int64())]
    )
    assert sorted(scanned["id"].to_pylist()) == LIVE
    rows = scanned[ROW_COLUMN].to_pylist()
    assert rows == sorted(set(rows))
    assert view.row_count == len(LIVE)


def test_columns_are_found_whatever_their_case_and_named_as_asked(view: TableView) -> None:
    assert view.scan(["ID"]).column_names == [ROW_COLUMN, "ID"]
    assert view.take(["Title"], NO_ROWS).column_names == ["Title"]


def test_an_unknown_column_is_named(view: TableView) -> None:
    with pytest.raises(UndefinedColumn, match="nope"):
        view.scan(["nope"])


def test_a_scan_without_columns_gives_row_numbers(view: TableView) -> None:
    assert view.scan([]).num_rows == len(LIVE)


def test_an_empty_table_scans_to_the_right_types(tmp_path: Path) -> None:
    made = create(tmp_path / "t")
    view = made.read_view()
    distance = DistanceSpec("d", "vec", Metric.L2, QUERY)
    scanned = view.scan(["id", "title", "vec"], distances=[distance])
    kinds = [pa.int64(), pa.int64(), pa.string(), pa.list_(pa.float32(), 3), pa.float32()]
    assert scanned.schema.types == kinds
    assert scanned.num_rows == 0
    assert view.take(["id", "vec"], NO_ROWS).num_rows == 0
    assert view.row_set(NO_ROWS).count == 0
    hits = view.search(SearchRequest("vec", Metric.L2, QUERY[None], 3))
    assert hits.rows.tolist() == [[-1, -1, -1]]
    made.close()


def test_scans_copy_nothing_where_no_row_is_dead(tmp_path: Path) -> None:
    made = create(tmp_path / "t", settings=replace(SMALL, seal_rows=1000))
    insert(made, range(100))
    before = pa.total_allocated_bytes()
    scanned = made.read_view().scan(["id", "title", "vec"])
    numbers = scanned[ROW_COLUMN].nbytes
    assert pa.total_allocated_bytes() - before <= 2 * numbers
    address = made.read_view().scan(["vec"])["vec"].chunk(0).values.buffers()[1].address
    assert address == scanned["vec"].chunk(0).values.buffers()[1].address
    made.close()


def test_filtered_columns_are_kept_until_a_row_dies(tmp_path: Path) -> None:
    made = create(tmp_path / "t", settings=replace(SMALL, seal_rows=1000))
    insert(made, range(100))
    made.modify(lambda view: delete(view, 7))

    def title() -> int:
        address: int = made.read_view().scan(["title"])["title"].chunk(0).buffers()[2].address
        return address

    first = made.read_view().scan(["title"])["title"]
    assert title() == first.chunk(0).buffers()[2].address
    made.modify(lambda view: delete(view, 8))
    assert len(made.read_view().scan(["title"])) == 98
    assert len(first) == 99
    made.close()


@given(st.lists(st.sampled_from(LIVE), max_size=30))
def test_take_gives_rows_in_the_order_asked_with_repeats(
    view: TableView, wanted: list[int]
) -> None:
    where = dict(
        zip(*(view.scan(["id"])[name].to_pylist() for name in ("id", ROW_COLUMN)), strict=True)
    )
    rows = np.array([where[key] for key in wanted], np.int64)
    taken = view.take(["vec", "id"], rows)
    assert taken["id"].to_pylist() == wanted
    expected = [None if key == 200 else row(key)["vec"] for key in wanted]
    assert taken["vec"].to_pylist() == expected


@pytest.mark.parametrize("bad", [-1, 5000, (7 << 40)])
def test_a_row_that_is_not_in_the_view_is_a_bug(view: TableView, bad: int) -> None:
    with pytest.raises(InternalError, match="not in the read view"):
        view.take(["id"], np.array([bad]))
    with pytest.raises(InternalError, match="not in the read view"):
        view.row_set(np.array([bad]))


@given(st.sets(st.sampled_from(LIVE)))
def test_a_row_set_qualifies_exactly_its_rows(view: TableView, wanted: set[int]) -> None:
    scanned = view.scan(["id"]).to_pylist()
    rows = view.row_set(np.array([r[ROW_COLUMN] for r in scanned if r["id"] in wanted], np.int64))
    assert rows.count == len(wanted)
    assert set(view.scan(["id"], rows=rows)["id"].to_pylist()) == wanted
    hits = view.search(SearchRequest("vec", Metric.L2, QUERY[None], len(LIVE), rows))
    found = hits.rows[0][hits.rows[0] >= 0]
    assert set(view.take(["id"], found)["id"].to_pylist()) == wanted - {200}


def test_dead_rows_never_qualify(tmp_path: Path) -> None:
    made = create(tmp_path / "t")
    insert(made, range(4))
    made.modify(lambda view: delete(view, 2))
    assert made.read_view().row_set(np.arange(4)).count == 3
    made.close()


@pytest.mark.parametrize("metric", VECTOR_METRICS)
@pytest.mark.parametrize("filtered", [False, True])
def test_searches_equal_brute_force(view: TableView, metric: Metric, filtered: bool) -> None:
    known = [key for key in LIVE if key != 200 and not (filtered and key % 3)]
    scanned = view.scan(["id"]).to_pylist()
    rows = None
    if filtered:
        mine = [r[ROW_COLUMN] for r in scanned if r["id"] % 3 == 0]
        rows = view.row_set(np.array(mine, np.int64))
    vectors = np.array([row(key)["vec"] for key in known], np.float32)
    distances = canonical_distances(vectors, QUERY, metric)
    expected = sorted(zip(distances.tolist(), known, strict=True))
    hits = view.search(SearchRequest("vec", metric, QUERY[None], 12, rows))
    assert view.take(["id"], hits.rows[0])["id"].to_pylist() == [key for _, key in expected[:12]]
    assert hits.distances[0].tolist() == [distance for distance, _ in expected[:12]]
    radius = expected[20][0]
    for inclusive in (False, True):
        within = view.search_range("vec", metric, QUERY, radius, inclusive=inclusive, rows=rows)
        inside = [k for d, k in expected if d < radius or (inclusive and d == radius)]
        assert view.take(["id"], within.rows[0])["id"].to_pylist() == inside


@pytest.mark.parametrize("metric", VECTOR_METRICS)
def test_half_vectors_are_searched_with_the_distances_of_what_is_stored(
    tmp_path: Path, metric: Metric
) -> None:
    schema = TableSchema(
        (Column(1, "id", ColumnType("BIGINT")), Column(2, "h", ColumnType("HALFVEC(3)"))), 1
    )
    made = create(tmp_path / "t", definition=definition(schema))
    stored = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float16)
    rows = [{"id": key, "h": list(vector)} for key, vector in enumerate(stored)]
    made.insert(table_of(rows, schema), OnConflict.ERROR)
    view = made.read_view()
    distances = canonical_distances(stored, QUERY, metric)
    expected = sorted(zip(distances.tolist(), range(40), strict=True))[:7]
    hits = view.search(SearchRequest("h", metric, QUERY[None], 7))
    assert hits.rows[0].tolist() == [key for _, key in expected]
    assert hits.distances[0].tolist() == [distance for distance, _ in expected]
    made.close()


def test_distances_are_columns_of_a_scan_and_null_where_the_vector_is(view: TableView) -> None:
    specs = [DistanceSpec("d", "vec", Metric.L2, QUERY), DistanceSpec("c", "vec", Metric.L1, QUERY)]
    scanned = view.scan(["id"], distances=specs)
    assert scanned.column_names == [ROW_COLUMN, "id", "d", "c"]
    for found in scanned.to_pylist():
        vec = np.array(row(found["id"])["vec"], np.float32)
        if found["id"] == 200:
            assert found["d"] is None
        else:
            assert found["d"] == canonical_distances(vec[None], QUERY, Metric.L2)[0]
            assert found["c"] == canonical_distances(vec[None], QUERY, Metric.L1)[0]


def test_a_query_of_another_dimension_is_refused(view: TableView) -> None:
    short = np.zeros((1, 2), np.float32)
    with pytest.raises(InvalidValue, match=r"vec is VECTOR\(3\); the query vector has 2") as caught:
        view.search(SearchRequest("vec", Metric.L2, short, 3))
    assert caught.value.code == "dimension_mismatch"
    with pytest.raises(InvalidValue, match="2 dimensions"):
        view.scan([], distances=[DistanceSpec("d", "vec", Metric.L2, short[0])])
    with pytest.raises(InvalidValue, match="needs a vector column"):
        view.search_range("id", Metric.L2, QUERY, 1.0, inclusive=True)


def test_a_view_is_the_same_object_while_nothing_changes(tmp_path: Path) -> None:
    made = create(tmp_path / "t", definition=definition(shards=2))
    insert(made, range(5))
    view = made.read_view()
    assert made.read_view() is view
    insert(made, [7])
    assert made.read_view() is not view
    assert (view.row_count, made.read_view().row_count) == (5, 6)
    made.close()


def test_the_data_version_changes_exactly_with_the_rows(tmp_path: Path) -> None:
    made = create(tmp_path / "t", settings=replace(SMALL, seal_rows=1000))
    insert(made, range(50))
    version = made.read_view().data_version
    insert(made, [1], on_conflict=OnConflict.NOTHING)
    insert(made, [1], on_conflict=OnConflict.NOTHING, request_id=b"q" * 16)
    made.checkpoint()
    assert made.read_view().data_version == version
    insert(made, [50])
    versions = [version, made.read_view().data_version]
    made.modify(lambda view: delete(view, 50))
    versions.append(made.read_view().data_version)
    made.truncate()
    versions.append(made.read_view().data_version)
    assert len(set(versions)) == 4
    made.close()


def test_storage_types_of_every_column_are_what_the_schema_says(view: TableView) -> None:
    names = [column.name for column in SCHEMA.columns]
    assert view.scan(names).select(names).schema.types == SCHEMA.storage_schema().types
    assert rows_of([1]).schema.types == view.take(names, NO_ROWS).schema.types

"""Sealed segments: what is written is what is read, without copies, and damage is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearql.engine.errors import Corruption
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.segment.data import SegmentData, VectorBlock
from nearql.engine.segment.growing import GrowingSegment
from nearql.engine.segment.rows import Rows
from nearql.engine.segment.sealed import Piece, joinable, open_segment, write_segment
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.files import LocalFileSystem
from support.tables import SCHEMA, row, table_of

FS = LocalFileSystem()


def segment(base: int, keys: range, schema: TableSchema = SCHEMA) -> SegmentData:
    """Rows in several chunks, every fifth vector NULL."""
    growing = GrowingSegment(base, EngineSettings())
    for key in keys:
        values = row(key) | ({"vec": None} if key % 5 == 0 else {})
        growing.append(Rows.of(schema, table_of([values], schema)))
    return growing.data()


def same(left: SegmentData, right: SegmentData) -> bool:
    scalars = all(left.column(n).equals(right.column(n)) for n in left.columns)
    return scalars and all(_same_block(b, right.vectors[n]) for n, b in left.vectors.items())


def _same_block(left: VectorBlock, right: VectorBlock) -> bool:
    if left.valid is None or right.valid is None:
        return left.valid is right.valid
    return (
        np.array_equal(left.data, right.data)
        and np.array_equal(left.norms, right.norms)
        and np.array_equal(left.valid, right.valid)
    )


def test_what_is_written_is_what_is_opened(tmp_path: Path) -> None:
    data = segment(70, range(1, 50))
    info = write_segment(FS, tmp_path / "s", [Piece(data)])
    opened, blob = open_segment(FS, tmp_path / "s", verify=True)
    opened.check_invariants()
    assert (opened.base, opened.rows, len(opened.chunks)) == (70, 49, 1)
    assert same(data, opened)
    assert info.size == (tmp_path / "s").stat().st_size
    assert opened.vectors[3].data.base is not None, "a view of the file, not a copy"
    blob.close()
    assert same(data, opened), "arrays outlive the handle"
    (tmp_path / "s").unlink()
    assert same(data, opened), "and the file's name"


def test_a_table_without_vectors_and_of_half_vectors(tmp_path: Path) -> None:
    schema = TableSchema(
        (Column(1, "id", ColumnType("BIGINT")), Column(2, "vec", ColumnType("HALFVEC(3)"))), 1
    )
    write_segment(FS, tmp_path / "h", [Piece(segment(0, range(1, 5), schema))])
    opened, _ = open_segment(FS, tmp_path / "h", verify=True)
    assert opened.vectors[2].data.dtype == np.float16
    schema = TableSchema((Column(1, "id", ColumnType("BIGINT")),), 1)
    write_segment(FS, tmp_path / "k", [Piece(segment(0, range(5), schema))])
    opened, _ = open_segment(FS, tmp_path / "k", verify=True)
    assert opened.column(1).to_pylist() == list(range(5))
    assert opened.vectors == {}


@pytest.mark.parametrize("place", [0, 100, 700, 2000, -60])
def test_a_flipped_bit_is_found(tmp_path: Path, place: int) -> None:
    write_segment(FS, tmp_path / "s", [Piece(segment(0, range(50)))])
    data = bytearray((tmp_path / "s").read_bytes())
    data[place] ^= 4
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(Corruption, match=str(tmp_path / "s")):
        open_segment(FS, tmp_path / "s", verify=True)


def test_one_file_takes_several_segments_and_leaves_rows_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearql.engine.segment.sealed._PIECE_BYTES", 24)  # two vectors at once
    parts = [segment(10, range(1, 8)), segment(30, range(8, 9)), segment(40, range(9, 20))]
    pieces = [Piece(parts[0]), Piece(parts[1]), Piece(parts[2], np.array([0, 1, 5, 6, 10]))]
    write_segment(FS, tmp_path / "s", pieces)
    whole, _ = open_segment(FS, tmp_path / "s", verify=True)
    whole.check_invariants()
    assert (whole.base, whole.rows) == (10, 13)
    kept = [*range(1, 9), 9, 10, 14, 15, 19]
    assert whole.column(1).to_pylist() == kept
    valid = whole.vectors[3].valid
    assert valid is not None
    assert valid.tolist() == [key % 5 != 0 for key in kept]
    expected = np.array([row(key)["vec"] if key % 5 else [0, 0, 0] for key in kept], np.float32)
    np.testing.assert_array_equal(whole.vectors[3].data, expected)
    np.testing.assert_allclose(whole.vectors[3].norms, np.linalg.norm(expected, axis=1), rtol=1e-6)


def test_only_segments_of_the_same_columns_are_joined() -> None:
    left = segment(0, range(5))
    narrow = TableSchema(SCHEMA.columns[:2], 1)
    assert joinable(left, segment(5, range(5, 9)))
    assert not joinable(left, segment(5, range(5, 9), narrow))


def test_scalars_are_cut_before_arrow_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearql.engine.segment.sealed._CHUNK_BYTES", 200)
    data = segment(0, range(63))
    write_segment(FS, tmp_path / "s", [Piece(data)])
    opened, _ = open_segment(FS, tmp_path / "s", verify=True)
    assert 1 < len(opened.chunks) <= len(data.chunks)
    assert opened.column(1).to_pylist() == list(range(63))

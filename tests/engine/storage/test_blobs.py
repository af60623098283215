"""Immutable files: zero-copy parts, and no damaged byte goes unnoticed."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearql.engine import errors
from nearql.engine.storage.blobs import (
    ALIGNMENT,
    BLOB_FORMAT,
    BLOCK_BYTES,
    HEAD,
    HEAD_MAGIC,
    TRAILER,
    open_blob,
    write_blob,
)
from nearql.engine.storage.files import LocalFileSystem
from support.disks import PowerLoss, SimulatedDisk, WatchedFileSystem

FS = LocalFileSystem()
ON_DISK = Path("/disk/blob")


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=500), max_size=6))
@settings(max_examples=100, deadline=None)
def test_parts_come_back_as_they_were(parts: dict[str, bytes]) -> None:
    disk = SimulatedDisk()
    info = write_blob(disk, ON_DISK, parts)
    blob = open_blob(ON_DISK, fs=disk)
    assert {name: bytes(view) for name, view in blob.items()} == parts
    assert list(blob) == list(parts)
    assert blob.info == info
    assert info.size == disk.size(ON_DISK)


def test_numpy_and_arrow_use_parts_in_place(tmp_path: Path) -> None:
    vectors = np.arange(30_000, dtype=np.float32).reshape(-1, 3)
    half = vectors.astype(np.float16)
    column = pa.array([1, None, 3])
    parts = {
        "odd": b"x" * 7,
        "v": vectors,
        "h": half,
        "c": column.buffers()[1],
        "none": vectors[:0],
    }
    write_blob(FS, tmp_path / "blob", parts)
    blob = open_blob(tmp_path / "blob")
    read = np.frombuffer(blob["v"], np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(read, vectors)
    np.testing.assert_array_equal(np.frombuffer(blob["h"], np.float16), half.ravel())
    assert not read.flags.writeable
    for name in blob:
        if len(blob[name]):
            assert pa.py_buffer(blob[name]).address % ALIGNMENT == 0, name
    assert len(blob["none"]) == 0


def test_writing_copies_no_part(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    vectors = np.ones((1000, 300), np.float32)
    write_blob(fs, tmp_path / "blob", {"v": vectors})
    written = [np.frombuffer(b, np.uint8) for b in fs.buffers if len(b) == vectors.nbytes]
    assert len(written) == 1
    assert np.shares_memory(written[0], vectors)


def test_a_large_file_is_written_and_synced_in_runs(tmp_path: Path) -> None:
    """So that a log that syncs meanwhile never waits for all of it."""
    fs = WatchedFileSystem()
    vectors = np.arange(5_000_000, dtype=np.float32)  # 20 MB
    write_blob(fs, tmp_path / "blob", {"v": vectors})
    assert max(len(b) for b in fs.buffers) <= 8 << 20
    assert fs.calls["fdatasync"] >= 3
    blob = open_blob(tmp_path / "blob")
    np.testing.assert_array_equal(np.frombuffer(blob["v"], np.float32), vectors)


def test_a_part_may_come_in_pieces(tmp_path: Path) -> None:
    pieces = [bytes([i]) * (i * 1000) for i in range(100)]
    info = write_blob(FS, tmp_path / "blob", {"a": iter(pieces), "b": iter([]), "c": b"x"})
    blob = open_blob(tmp_path / "blob")
    assert bytes(blob["a"]) == b"".join(pieces)
    assert (len(blob["b"]), bytes(blob["c"])) == (0, b"x")
    assert blob.info == info


def test_a_failing_piece_leaves_no_file(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_blob(FS, tmp_path / "blob", {"a": pieces()})
    assert list(tmp_path.iterdir()) == []


def test_bad_blocks_are_all_listed_and_read_beside_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    write_blob(FS, path, {"a": bytes(4 * BLOCK_BYTES)})
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    content[3 * BLOCK_BYTES] ^= 1
    path.write_bytes(content)
    read: list[int] = []
    bad = open_blob(path, verify=False).bad_blocks(paced=read.append)
    assert [(one.number, one.start) for one in bad] == [(0, 0), (3, 3 * BLOCK_BYTES)]
    assert sum(read) == 4 * BLOCK_BYTES + 64


def test_parts_outlive_the_blob_and_its_file(tmp_path: Path) -> None:
    write_blob(FS, tmp_path / "blob", {"part": b"still here"})
    blob = open_blob(tmp_path / "blob")
    part = blob["part"]
    blob.close()
    (tmp_path / "blob").unlink()
    assert bytes(part) == b"still here"
    assert len(blob) == 0


def test_every_flipped_bit_is_found() -> None:
    disk = SimulatedDisk()
    write_blob(disk, ON_DISK, {"a": b"some bytes", "b": b"others" * 20})
    content = disk.names_cached[ON_DISK].cached
    for place in range(len(content)):
        content[place] ^= 1 << place % 8
        with pytest.raises((errors.Corruption, errors.Unavailable)) as info:
            open_blob(ON_DISK, fs=disk)
        # The version field in the head is all that may say something else.
        assert isinstance(info.value, errors.Corruption) or 8 <= place < 12
        assert str(ON_DISK) in info.value.detail
        content[place] ^= 1 << place % 8
    open_blob(ON_DISK, fs=disk)


def test_every_cut_is_found() -> None:
    disk = SimulatedDisk()
    write_blob(disk, ON_DISK, {"a": b"some bytes", "b": b"others" * 20})
    content = disk.names_cached[ON_DISK].cached
    whole = bytes(content)
    for size in range(len(whole)):
        content[:] = whole[:size]
        with pytest.raises(errors.Corruption, match="blob is corrupt"):
            open_blob(ON_DISK, fs=disk)


@pytest.mark.parametrize(
    ("place", "block", "start", "end"),
    [
        (BLOCK_BYTES - 1, 0, 0, BLOCK_BYTES),
        (BLOCK_BYTES, 1, BLOCK_BYTES, 2 * BLOCK_BYTES),
        (2 * BLOCK_BYTES + 5, 2, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 64 + 1024),
    ],
)
def test_a_bad_block_is_named(tmp_path: Path, place: int, block: int, start: int, end: int) -> None:
    path = tmp_path / "blob"
    write_blob(FS, path, {"a": bytes(BLOCK_BYTES), "b": bytes(BLOCK_BYTES + 1024)})
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(errors.Corruption, match=f"block {block}, bytes {start} to {end}, fails"):
        open_blob(path)


def test_without_verification_bulk_damage_waits_for_verify(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    write_blob(FS, path, {"a": b"x" * 1000})
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    blob = open_blob(path, verify=False)
    with pytest.raises(errors.Corruption, match="block 0"):
        blob.verify()


def test_a_swapped_but_undamaged_file_differs_in_its_info(tmp_path: Path) -> None:
    one = write_blob(FS, tmp_path / "one", {"a": b"1" * 100})
    two = write_blob(FS, tmp_path / "two", {"a": b"2" * 100})
    assert open_blob(tmp_path / "two").info == two != one


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    write_blob(FS, path, {"a": b"x"})
    content = path.read_bytes()
    path.write_bytes(HEAD.pack(HEAD_MAGIC, BLOB_FORMAT + 1) + content[HEAD.size :])
    with pytest.raises(errors.Unavailable, match="upgrade NearQL") as info:
        open_blob(path)
    assert info.value.code == "newer_format"


def test_a_file_of_something_else_is_corruption(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(random.Random(1).randbytes(HEAD.size + TRAILER.size + 100))
    with pytest.raises(errors.Corruption):
        open_blob(tmp_path / "blob")
    with pytest.raises(FileNotFoundError):
        open_blob(tmp_path / "missing")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    fs = WatchedFileSystem()
    fs.fail["pwritev"] = errno.ENOSPC
    with pytest.raises(errors.StorageFull):
        write_blob(fs, tmp_path / "blob", {"a": b"x" * 1000})
    assert fs.names(tmp_path) == []


def test_after_a_power_loss_a_blob_is_whole_or_absent() -> None:
    parts = {"a": bytes(range(256)) * 20}
    for crash_at in range(1, 10):
        disk = SimulatedDisk(crash_at=crash_at)
        finished = True
        try:
            write_blob(disk, ON_DISK, parts)
        except PowerLoss:
            finished = False
        after = disk.after_power_loss(random.Random(crash_at))
        assert after.exists(ON_DISK) or not finished
        if after.exists(ON_DISK):
            assert bytes(open_blob(ON_DISK, fs=after)["a"]) == parts["a"]

"""The manifest: replaced as a whole or not at all, and never believed when damaged."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.manifest import (
    CRC,
    HEAD,
    MAGIC,
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    Manifest,
    SegmentEntry,
    read_manifest,
    write_manifest,
)
from support.disks import PowerLoss, SimulatedDisk

SHARD = Path("/disk/shard")
SEGMENTS = (
    SegmentEntry("one", 0, 10, 1000, 0xFFFFFFFF, "one.dead", {"kind": "flat"}),
    SegmentEntry("two", 10, 5, 500, 0),
)
MANIFEST = Manifest(
    b"\xff" * 16, flushed_lsn=2**40, epoch=3, next_row=20, schema_version=2, dedup="dedup",
    segments=SEGMENTS, extra={"fills": {1: b"\0"}, "version": 7},
)  # fmt: skip


def test_what_is_written_is_read() -> None:
    disk = SimulatedDisk()
    assert read_manifest(disk, SHARD) is None
    for manifest in (Manifest(b"\0" * 16), MANIFEST):
        write_manifest(disk, SHARD, manifest)
        assert read_manifest(disk, SHARD) == manifest


def test_it_names_every_file_that_it_keeps() -> None:
    assert list(MANIFEST.files()) == ["one", "one.dead", "two", "dedup"]
    assert list(Manifest(b"\0" * 16).files()) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_one(seed: int) -> None:
    chance = random.Random(seed)
    new = replace(MANIFEST, flushed_lsn=2**40 + 1, segments=SEGMENTS[:1])
    found = set()
    for crash_at in range(1, 10):
        disk = SimulatedDisk()
        write_manifest(disk, SHARD, MANIFEST)
        disk.crash_at = disk.steps + crash_at
        finished = True
        try:
            write_manifest(disk, SHARD, new)
        except PowerLoss:
            finished = False
        after = read_manifest(disk.after_power_loss(chance), SHARD)
        assert after == new if finished else after in (MANIFEST, new)
        found.add(after == new)
    assert found == {False, True}


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    disk = SimulatedDisk()
    write_manifest(disk, SHARD, MANIFEST)
    content = disk.names_cached[SHARD / MANIFEST_FILE].cached
    whole = bytes(content)
    for place in range(len(whole)):
        content[place] ^= 1 << place % 8
        with pytest.raises(errors.Corruption, match="MANIFEST is corrupt"):
            read_manifest(disk, SHARD)
        content[:] = whole[:place]
        with pytest.raises(errors.Corruption, match="MANIFEST is corrupt"):
            read_manifest(disk, SHARD)
        content[:] = whole
    assert read_manifest(disk, SHARD) == MANIFEST


def test_a_newer_format_is_refused_and_not_touched() -> None:
    disk = SimulatedDisk()
    write_manifest(disk, SHARD, MANIFEST)
    content = disk.names_cached[SHARD / MANIFEST_FILE].cached
    body = HEAD.pack(MAGIC, MANIFEST_FORMAT + 1, 3) + b"???"
    content[:] = body + CRC.pack(crc32c(body))
    before = bytes(content)
    with pytest.raises(errors.Unavailable, match="upgrade NearQL") as info:
        read_manifest(disk, SHARD)
    assert info.value.code == "newer_format"
    assert content == before


@pytest.mark.parametrize(
    "wrong",
    [
        replace(MANIFEST, segments=(SEGMENTS[1], SEGMENTS[0])),
        replace(MANIFEST, segments=(SEGMENTS[0], replace(SEGMENTS[1], first_row=9))),
        replace(MANIFEST, next_row=14),
        replace(MANIFEST, dedup="one"),
        replace(MANIFEST, dedup="../elsewhere"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_never_written(wrong: Manifest) -> None:
    disk = SimulatedDisk()
    with pytest.raises(AssertionError):
        write_manifest(disk, SHARD, wrong)
    assert read_manifest(disk, SHARD) is None

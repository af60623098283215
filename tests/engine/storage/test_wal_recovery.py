"""Torn is cut, corrupt is named and never cut: each line of the table in `wal_recovery`."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from crc32c import crc32c

from nearql.engine import errors
from nearql.engine.storage.wal import LogIdentity, Wal
from nearql.engine.storage.wal_file import file_name
from nearql.engine.storage.wal_format import (
    CRC,
    FILE_HEADER,
    FILE_HEADER_BYTES,
    OWN_CHAIN,
    RECORD_HEADER_BYTES,
    RecordHeader,
    link_of,
    unpack_record_header,
)
from nearql.engine.storage.wal_hint import HINT, HINT_FILE
from support.disks import SECTOR, PowerLoss, SimulatedDisk
from support.logs import DIRECTORY, IDENTITY, commit, flush, numbered, open_wal, payloads, put

FIRST = DIRECTORY / file_name(1)
HINT_PATH = DIRECTORY / HINT_FILE
OTHER = LogIdentity(IDENTITY.cluster_id, IDENTITY.shard_uuid, b"other copy 12345")


class Log(NamedTuple):
    """A log of a killed process, record by record a group. `starts[i]`: offset of LSN i + 1."""

    disk: SimulatedDisk
    written: list[bytes]
    starts: list[int]


def killed_log(count: int = 8, identity: LogIdentity = IDENTITY) -> Log:
    """The hint of this log knows of no durable record, as within a second after the first."""
    disk = SimulatedDisk()
    wal = open_wal(disk, identity=identity)
    written = list(numbered(count))
    starts = []
    for payload in written:
        starts.append(wal._written.offset)
        commit(wal, payload)
    starts.append(wal._written.offset)
    return Log(disk.after_kill(), written, starts)


def header_of(disk: SimulatedDisk, start: int) -> RecordHeader:
    header = unpack_record_header(bytes(disk.content(FIRST)[start : start + RECORD_HEADER_BYTES]))
    assert header is not None
    return header


def rewrite(disk: SimulatedDisk, start: int, **fields: object) -> None:
    """Change fields of a record's header and make its checksum fit."""
    header = header_of(disk, start)._replace(**fields)  # type: ignore[arg-type]
    disk.content(FIRST)[start : start + RECORD_HEADER_BYTES] = header.pack()


def contents(disk: SimulatedDisk) -> dict[Path, bytes]:
    return {path: bytes(inode.cached) for path, inode in disk.names_cached.items()}


def refused(
    disk: SimulatedDisk, *, lsn: int | None = None, match: str = "corrupt|incomplete"
) -> errors.Corruption:
    """The error of opening; nothing may have been touched."""
    before = contents(disk)
    with pytest.raises(errors.Corruption, match=match) as info:
        open_wal(disk)
    assert contents(disk) == before
    if lsn is not None:
        assert info.value.extra["lsn"] == lsn
        assert f"LSN {lsn} at offset {info.value.extra['offset']}" in info.value.detail
        assert str(info.value.extra["file"]) in info.value.detail
    return info.value


def goes_on(disk: SimulatedDisk, expected: list[bytes]) -> Wal:
    """The log has exactly these records, takes a new one, and has it after the next crash."""
    wal = open_wal(disk)
    assert payloads(wal) == expected
    assert wal.last_lsn == wal.durable_lsn == len(expected)
    commit(wal, b"new")
    for crashed in (disk.copy(), disk.after_power_loss(random.Random(1))):
        assert payloads(open_wal(crashed)) == [*expected, b"new"]
    return wal


# ---- Torn ------------------------------------------------------------------------------


def zeros(data: bytearray, at: int, end: int) -> None:
    """The write stopped here."""
    data[at:end] = bytes(end - at)


def noise(data: bytearray, at: int, end: int) -> None:
    """From here on there is something else."""
    data[at:end] = random.Random(at).randbytes(end - at)


def ones(data: bytearray, at: int, end: int) -> None:
    """From here on the flash was erased."""
    data[at:end] = b"\xff" * (end - at)


def cut_off(data: bytearray, at: int, _end: int) -> None:
    """The file ends here."""
    del data[at:]


@pytest.mark.parametrize("tear", [zeros, noise, ones, cut_off])
def test_a_write_torn_at_any_byte_of_the_last_three_records_leaves_those_before(
    tear: Callable[[bytearray, int, int], None],
) -> None:
    log = killed_log()
    end = log.starts[-1]
    for at in range(log.starts[-4], end):
        disk = log.disk.copy()
        tear(disk.content(FIRST), at, end)
        kept = os.path.commonprefix([bytes(disk.content(FIRST)), bytes(log.disk.content(FIRST))])
        whole = sum(start <= len(kept) for start in log.starts[1:])
        wal = goes_on(disk, log.written[:whole])
        assert wal.recovery.torn_bytes <= end - log.starts[whole]
        assert not wal.recovery.clean


def test_a_torn_record_of_many_sectors_is_cut_whichever_of_them_arrived() -> None:
    log = killed_log(3)
    disk = log.disk
    wal = open_wal(disk)
    commit(wal, random.Random(1).randbytes(10 * SECTOR))
    start = FILE_HEADER_BYTES + log.starts[-1] - log.starts[0]
    data = bytes(disk.content(DIRECTORY / file_name(1)))
    chance = random.Random(2)
    for _ in range(100):
        torn = disk.copy()
        content = torn.content(DIRECTORY / file_name(1))
        lost = [s for s in range(start, len(data), SECTOR) if chance.random() < 0.5]
        for sector in lost[:10] or [start]:
            content[sector : sector + SECTOR] = bytes(min(SECTOR, len(content) - sector))
        content[start + 4 : start + 8] = bytes(4)
        # The hint of the second run says that the first three are durable.
        assert payloads(open_wal(torn)) == log.written


def test_what_was_cut_off_never_comes_back() -> None:
    log = killed_log(4)
    content = log.disk.content(FIRST)
    content[log.starts[2] + 8] ^= 1  # a torn record, and behind it noise that ends in a magic
    zeros(content, log.starts[3], log.starts[4])
    content[log.starts[3] : log.starts[3] + 4] = b"NQW1"
    goes_on(log.disk, log.written[:2])


def test_an_empty_log_recovers() -> None:
    disk = SimulatedDisk()
    open_wal(disk)
    goes_on(disk.after_kill(), [])


# ---- Corrupt ---------------------------------------------------------------------------


def test_a_bit_flip_at_any_byte_of_a_middle_record_is_corruption_and_nothing_is_cut() -> None:
    log = killed_log()
    for place in range(log.starts[3], log.starts[4]):
        disk = log.disk.copy()
        disk.content(FIRST)[place] ^= 1 << place % 8
        refused(disk, lsn=4)


def test_a_lost_page_in_the_middle_is_corruption() -> None:
    log = killed_log(12)
    zeros(log.disk.content(FIRST), log.starts[2], log.starts[5])
    refused(log.disk, lsn=3, match="there are only zeros, though the record with LSN 6")


@pytest.mark.parametrize("distance", [1 << 20, (1 << 20) + 3, 31 << 20])
def test_a_good_record_is_found_far_behind_a_bad_one(distance: int) -> None:
    log = killed_log(2)
    content = log.disk.content(FIRST)
    last = bytes(content[log.starts[1] : log.starts[2]])
    zeros(content, log.starts[0], log.starts[2])
    place = log.starts[0] + distance // 8 * 8
    content.extend(bytes(place + len(last) - len(content)))
    content[place : place + len(last)] = last
    refused(log.disk, lsn=1, match="the record with LSN 2 after it is good")
    # Not a record of this log: at a place where none can begin, or of another copy.
    content[place : place + len(last)] = bytes(len(last))
    content[place - 4 : place - 4 + len(last)] = last
    assert payloads(open_wal(log.disk.copy())) == []


def test_a_record_that_the_hint_calls_durable_is_never_cut() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, b"one")
    start = wal._written.offset
    commit(wal, b"two")
    wal.write_hint()
    end = wal._written.offset
    commit(wal, b"three")
    disk.after_kill()
    torn = disk.copy()
    zeros(torn.content(FIRST), end + 20, len(torn.content(FIRST)))
    goes_on(torn, [b"one", b"two"])
    zeros(disk.content(FIRST), start + 20, len(disk.content(FIRST)))
    refused(disk, lsn=2, match=r"wal\.hint says it was durable")


def test_after_a_clean_close_nothing_may_be_missing() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, b"one")
    commit(wal, b"two")
    end = wal._written.offset
    wal.close()
    cut = disk.copy()
    del cut.content(FIRST)[end - 8 :]
    refused(cut, lsn=2)
    flipped = disk.copy()
    flipped.content(FIRST)[end - 8] ^= 1
    with pytest.raises(errors.Corruption, match="LSN 2 at offset .*its payload fails"):
        payloads(open_wal(flipped))
    stale = disk.copy()
    commit(open_wal(disk), b"three")
    disk.content(HINT_PATH)[:] = stale.content(HINT_PATH)
    assert payloads(open_wal(disk)) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("place", [0, 8, 9, 20, HINT.size])
def test_a_damaged_hint_counts_as_none(place: int) -> None:
    log = killed_log(3)
    log.disk.content(HINT_PATH)[place] ^= 0x40
    goes_on(log.disk.copy(), log.written)
    log.disk.unlink(HINT_PATH)
    goes_on(log.disk, log.written)


def test_power_loss_may_tear_one_group_anywhere_but_not_an_earlier_one() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    commit(wal, b"one")
    starts = []
    for payload in (b"two", b"three", b"four"):
        put(wal, payload)
    flush(wal)
    at = FILE_HEADER_BYTES
    for _ in range(4):
        starts.append(at)
        at += header_of(disk, at).size
    assert header_of(disk, starts[3]).group_back == 2

    def damaged(lsn: int, boot: int) -> SimulatedDisk:
        broken = disk.copy()
        broken.content(FIRST)[starts[lsn - 1] + RECORD_HEADER_BYTES] ^= 1
        broken.boot = boot
        return broken

    for lsn in (2, 3):
        refused(damaged(lsn, boot=disk.boot), lsn=lsn)  # a dying process writes no later record
        goes_on(damaged(lsn, boot=disk.boot + 1), [b"one", b"two"][: lsn - 1])
        unknown = damaged(lsn, boot=disk.boot + 1)
        unknown.unlink(HINT_PATH)
        refused(unknown, lsn=lsn)  # it is not known whether the power failed
    refused(damaged(1, boot=disk.boot + 1), lsn=1)


# ---- Of another place or another log ---------------------------------------------------


@pytest.mark.parametrize("lsn", [4, 8])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"link": b"88888888"}, "its link does not fit"),
        ({"tag": OTHER.tag}, "it belongs to another shard or copy"),
        ({"lsn": 3}, "it carries LSN 3"),
        ({"lsn": 99}, "it carries LSN 99"),
        ({"epoch": 0}, "its epoch 0 is below 1"),
    ],
)
def test_an_undamaged_record_that_does_not_belong_is_corruption_even_at_the_end(
    lsn: int, fields: dict[str, object], reason: str
) -> None:
    log = killed_log()
    rewrite(log.disk, log.starts[lsn - 1], **fields)
    refused(log.disk, lsn=lsn, match=reason)


def test_a_record_written_into_the_wrong_log_is_corruption() -> None:
    log, other = killed_log(), killed_log(identity=OTHER)
    place = slice(log.starts[3], log.starts[4])
    log.disk.content(FIRST)[place] = other.disk.content(FIRST)[place]
    refused(log.disk, lsn=4, match="another shard or copy")


def test_a_replaced_payload_with_a_fitting_checksum_breaks_the_chain() -> None:
    log = killed_log()
    start = log.starts[3] + RECORD_HEADER_BYTES
    size = header_of(log.disk, log.starts[3]).payload_size
    forged = b"!" * size
    log.disk.content(FIRST)[start : start + size] = forged
    rewrite(log.disk, log.starts[3], payload_crc=crc32c(forged))
    refused(log.disk, lsn=5, match="its link does not fit the record before it")
    raw = bytes(log.disk.content(FIRST)[log.starts[3] : log.starts[3] + RECORD_HEADER_BYTES])
    rewrite(log.disk, log.starts[4], link=link_of(raw, OWN_CHAIN))
    refused(log.disk, lsn=6)


def test_a_file_of_another_shard_is_corruption() -> None:
    other = killed_log(identity=OTHER)
    refused(other.disk, match=f"belongs to shard .* copy {OTHER.alloc_id.hex()}")


@pytest.mark.parametrize("place", range(0, FILE_HEADER_BYTES, 5))
def test_a_bit_flip_in_the_file_header_is_corruption(place: int) -> None:
    log = killed_log()
    log.disk.content(FIRST)[place] ^= 0x20
    refused(log.disk, match=f"{FIRST.name} is corrupt at offset 0")


def test_files_that_are_missing_or_misnamed_are_noticed() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    for _ in range(5):
        commit(wal, bytes(30_000))
    wal.close()
    first, second, third = sorted(n for n in disk.names(DIRECTORY) if n.endswith(".wal"))
    assert first == FIRST.name
    gap = disk.copy()
    gap.unlink(DIRECTORY / second)
    refused(gap, match=f"it lacks {second} between {first} and {third}")
    nothing = disk.copy()
    for name in (first, second, third):
        nothing.unlink(DIRECTORY / name)
    refused(nothing, match="it lacks no WAL file|LSN 5 was durable")
    misnamed = disk.copy()
    misnamed.rename(DIRECTORY / third, DIRECTORY / file_name(77))
    refused(misnamed, match="its header says that it begins with LSN")


def test_damage_in_an_older_file_is_found_when_it_is_read() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    for _ in range(5):
        commit(wal, bytes(30_000))
    disk.after_kill()
    disk.content(FIRST)[5000] ^= 1
    wal = open_wal(disk)
    assert wal.last_lsn == 5
    with pytest.raises(errors.Corruption, match="LSN 1 at offset 128 of .* payload fails"):
        list(wal.read(1))
    assert [record.lsn for record in wal.read(3)] == [3, 4, 5]


# ---- Of a later version ----------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"kind": 6}, {"kind": 255}, {"flags": 2}, {"schema": 2}])
@pytest.mark.parametrize("lsn", [4, 8])
def test_a_record_of_a_later_version_is_refused_and_nothing_touched(
    fields: dict[str, object], lsn: int
) -> None:
    log = killed_log()
    rewrite(log.disk, log.starts[lsn - 1], **fields)
    before = contents(log.disk)
    with pytest.raises(
        errors.Unavailable, match="this version reads up to .*upgrade NearQL"
    ) as info:
        open_wal(log.disk)
    assert info.value.code == "newer_format"
    assert contents(log.disk) == before


@pytest.mark.parametrize(("path", "size"), [(FIRST, FILE_HEADER.size), (HINT_PATH, HINT.size)])
@pytest.mark.parametrize("place", [8, 10])
def test_a_file_of_a_later_version_is_refused_and_nothing_touched(
    path: Path, size: int, place: int
) -> None:
    log = killed_log()
    content = log.disk.content(path)
    if path == HINT_PATH and place == 10:
        place = 9  # the high byte of the version; 10 holds flags
    content[place] = 9
    content[size : size + 4] = CRC.pack(crc32c(bytes(content[:size])))
    before = contents(log.disk)
    with pytest.raises(errors.Unavailable, match="upgrade NearQL") as info:
        open_wal(log.disk)
    assert info.value.code == "newer_format"
    assert contents(log.disk) == before


# ---- Taking over -----------------------------------------------------------------------


def test_what_a_failed_sync_lost_is_written_again_before_it_counts() -> None:
    disk = SimulatedDisk()
    failures: list[str] = []
    wal = open_wal(disk, failures=failures)
    commit(wal, b"one")
    disk.fail["fdatasync"] = 5
    put(wal, b"two")
    flush(wal)
    assert failures
    disk.after_kill()
    lost = disk.copy()
    lost.names_cached = disk.names_durable
    assert payloads(open_wal(disk.after_power_loss(random.Random(0)))) == [b"one"]
    again = open_wal(disk)  # the kernel still shows the second record
    assert payloads(again) == [b"one", b"two"]
    assert again.recovery.copied_bytes > 0
    for seed in range(20):
        after = disk.after_power_loss(random.Random(seed))
        assert payloads(open_wal(after)) == [b"one", b"two"]


def test_only_what_the_hint_does_not_cover_is_copied() -> None:
    disk = SimulatedDisk()
    wal = open_wal(disk)
    written = list(numbered(6))
    for payload in written[:4]:
        commit(wal, payload)
    wal.write_hint()
    start = wal._written.offset
    for payload in written[4:]:
        commit(wal, payload)
    end = wal._written.offset
    wal = open_wal(disk.after_kill())
    assert wal.recovery.copied_bytes == end - start
    assert [n for n in disk.names(DIRECTORY) if n.endswith(".wal")] == [file_name(1), file_name(5)]
    for payload in written:
        commit(wal, payload)
    assert payloads(open_wal(disk.after_kill())) == written * 2
    wal.trim(5)
    assert wal.first_lsn == 5


def test_a_crash_of_the_recovery_itself_loses_nothing() -> None:
    log = killed_log()
    zeros(log.disk.content(FIRST), log.starts[7] + 10, log.starts[8])
    for crash_at in range(1, 20):
        for seed in range(5):
            disk = log.disk.copy()
            disk.crash_at = crash_at
            with contextlib.suppress(PowerLoss):
                open_wal(disk)
            goes_on(disk.after_power_loss(random.Random(seed)), log.written[:7])


def test_temporaries_of_a_crash_are_removed() -> None:
    log = killed_log()
    log.disk.open(DIRECTORY / (file_name(9) + ".tmp"), create=True)
    goes_on(log.disk, log.written)
    assert not [name for name in log.disk.names(DIRECTORY) if name.endswith(".tmp")]

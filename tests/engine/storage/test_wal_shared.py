"""The log of a replicated copy: shipped, taken, cut; the same chain on every copy."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nearql.engine import errors
from nearql.engine.storage.files import FileSystem
from nearql.engine.storage.wal import LogIdentity, RecordKind, Wal
from nearql.engine.storage.wal_raw import LogEnd, RawRecord, pack_records, unpack_records
from nearql.engine.storage.wal_shared import SharedWal
from support.disks import PowerLoss, SimulatedDisk
from support.logs import (
    DIRECTORY,
    IDENTITY,
    SETTINGS,
    ManualFlusher,
    commit,
    flush,
    open_wal,
    put,
    unexpected,
)

OTHER = replace(IDENTITY, alloc_id=b"b" * 16)
ALL = 1 << 30


def shared(fs: FileSystem, identity: LogIdentity = IDENTITY) -> SharedWal:
    """A replicated copy's log, flushed by hand."""
    wal = SharedWal.open(
        DIRECTORY, identity, SETTINGS, fs=fs, flusher=ManualFlusher(), on_fatal=unexpected
    )
    wal.learn_epochs((), 0)
    return wal


def ship(source: SharedWal, target: SharedWal, up_to: int = ALL) -> None:
    """Send what the target lacks, as bytes."""
    records = source.read_raw(target.end.lsn + 1, ALL)
    sent = b"".join(bytes(part) for part in pack_records(records))
    for record in unpack_records(sent):
        if record.lsn <= up_to:
            target.append_raw(record)


def contents(wal: SharedWal) -> list[tuple[int, int, bytes]]:
    """Every record: epoch, LSN, payload."""
    records = wal.read_raw(wal.first_shared_lsn, ALL)
    found = list(records)
    while records and found[-1].lsn < wal.end.lsn:
        records = wal.read_raw(found[-1].lsn + 1, ALL)
        found += records
    return [(record.epoch, record.lsn, bytes(record.payload)) for record in found]


def test_copies_have_the_same_records_and_links_whatever_their_groups_were() -> None:
    one, two = shared(SimulatedDisk()), shared(SimulatedDisk(), OTHER)
    for number in range(20):
        put(one, b"x" * number, request_id=bytes([number]) * 16)
        if number % 3 == 0:
            flush(one)
    ship(one, two)
    flush(two)
    assert one.end == two.end
    assert contents(one) == contents(two)
    assert [r.request_id for r in two.read(1)] == [bytes([n]) * 16 for n in range(20)]


def test_a_record_is_shipped_before_it_is_durable() -> None:
    one, two = shared(SimulatedDisk()), shared(SimulatedDisk(), OTHER)
    put(one, b"first")
    ship(one, two)
    flush(two)
    assert (one.durable_lsn, two.durable_lsn) == (0, 1)


def test_records_are_read_from_memory_and_from_files_alike() -> None:
    disk = SimulatedDisk()
    one = shared(disk)
    for number in range(300):
        put(one, b"%d" % number * 150)
    from_memory = contents(one)
    one.close()
    again = shared(disk.after_kill())
    assert contents(again) == from_memory
    assert again.end == one.end
    pieces, lsn = [], 1
    while records := again.read_raw(lsn, 1000):
        assert len(records) == 1 or sum(record.nbytes for record in records) <= 1000
        pieces += records
        lsn = records[-1].lsn + 1
    assert [(r.epoch, r.lsn, bytes(r.payload)) for r in pieces] == from_memory
    links = [record.link for record in pieces]
    assert [again.end_at(record.lsn) for record in pieces] == [
        LogEnd(record.lsn, record.epoch, link) for record, link in zip(pieces, links, strict=True)
    ]
    assert again.end_at(0) == LogEnd(0, 0, bytes(8))
    assert again.end_at(301) is None


def test_old_records_leave_memory_but_never_before_they_are_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nearql.engine.storage.wal_shared.RECENT_BYTES", 1000)
    disk = SimulatedDisk()
    one = shared(disk)
    for number in range(50):
        put(one, b"%d" % number * 50)
    assert [lsn for _, lsn, _ in contents(one)] == list(range(1, 51))
    assert disk.calls["pread"] == 0
    flush(one)
    assert one._recent_bytes <= 1000
    assert [lsn for _, lsn, _ in contents(one)] == list(range(1, 51))


def test_where_memory_is_short_durable_records_are_read_from_the_files() -> None:
    one, two = shared(SimulatedDisk()), shared(SimulatedDisk(), OTHER)
    for number in range(10):
        put(one, b"%d" % number * 50)
    flush(one)
    put(one, b"not durable yet")
    expected = contents(one)
    one.forget_durable()
    assert [one.remembers(lsn) for lsn in (1, 10, 11)] == [False, False, True]
    assert contents(one) == expected
    ship(one, two)  # from the files,
    ship(one, two)  # and from memory
    assert two.end == one.end
    one.truncate(10)  # where the cut is now, memory knows nothing any more
    put(one, b"another")
    assert one.read_raw(11, ALL)[0].previous_link == one.end_at(10).link  # type: ignore[union-attr]
    flush(one)
    one.forget_durable()
    assert one._recent_bytes == 0


def test_a_record_that_is_not_the_next_one_is_a_bug_of_the_caller() -> None:
    one, two = shared(SimulatedDisk()), shared(SimulatedDisk(), OTHER)
    put(one, b"a")
    put(one, b"b")
    put(two, b"other")
    second = one.read_raw(2, ALL)[0]
    with pytest.raises(AssertionError, match="not the next record"):
        two.append_raw(second)  # the LSN fits, the link does not
    with pytest.raises(AssertionError, match="not the next record"):
        two.append_raw(one.read_raw(1, ALL)[0])


@pytest.mark.parametrize("place", [0, 20, 79, 80, 83])
def test_damaged_records_are_not_taken(place: int) -> None:
    one = shared(SimulatedDisk())
    put(one, b"abcd")
    sent = bytearray(b"".join(pack_records(one.read_raw(1, ALL))))
    sent[place] ^= 1
    with pytest.raises(errors.Corruption, match="damaged"):
        unpack_records(bytes(sent))
    with pytest.raises(errors.Corruption, match="cut short"):
        unpack_records(b"".join(pack_records(one.read_raw(1, ALL)))[:-1])


def test_a_record_of_a_later_version_is_refused_by_name() -> None:
    one = shared(SimulatedDisk())
    put(one, b"abcd")
    record = one.read_raw(1, ALL)[0]
    later = RawRecord.of(record.header._replace(kind=77), record.payload)
    with pytest.raises(errors.Unavailable, match="upgrade NearQL"):
        unpack_records(b"".join(pack_records([later])))


# ---- Epochs ------------------------------------------------------------------------------


def test_epochs_are_known_after_a_restart_and_a_cut() -> None:
    disk = SimulatedDisk()
    one = shared(disk)
    for epoch in (1, 1, 3, 3, 3, 7):
        put(one, b"x" * 20_000, epoch=epoch)
    assert list(one.epochs) == [(1, 1), (3, 3), (7, 6)]
    one.close()
    one = shared(disk.after_kill())
    assert list(one.epochs) == [(1, 1), (3, 3), (7, 6)]
    assert [one.epoch_at(lsn) for lsn in range(7)] == [0, 1, 1, 3, 3, 3, 7]
    one.truncate(5)
    assert list(one.epochs) == [(1, 1), (3, 3)]
    one.truncate(2)
    assert list(one.epochs) == [(1, 1)]
    assert one.end.epoch == 1


def test_epochs_of_trimmed_records_come_from_the_checkpoint() -> None:
    disk = SimulatedDisk()
    one = shared(disk)
    for epoch in (1, 2, 3, 4, 5):
        put(one, b"x" * 40_000, epoch=epoch)
    flush(one)
    one.trim(4)
    one.close()
    again = SharedWal.open(
        DIRECTORY, IDENTITY, SETTINGS, fs=disk.after_kill(), flusher=ManualFlusher(),
        on_fatal=unexpected,
    )  # fmt: skip
    again.learn_epochs(((1, 1), (2, 2), (3, 3)), 3)
    assert again.epochs == ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5))
    with pytest.raises(errors.NotFound) as info:
        again.read_raw(1, ALL)
    assert info.value.code == "log_trimmed"


# ---- Cuts --------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [0, 3, 10])
@pytest.mark.parametrize("cut", [0, 2, 3, 7, 9, 10])
def test_a_cut_leaves_the_records_before_it(flushed: int, cut: int) -> None:
    disk = SimulatedDisk()
    one = shared(disk)
    for number in range(flushed):
        put(one, b"%d" % number * 15_000)  # four to a file
    flush(one)
    for number in range(flushed, 10):
        put(one, b"%d" % number * 15_000)
    before, ends = contents(one), [one.end_at(lsn) for lsn in range(11)]
    one.truncate(cut)
    assert one.end == ends[cut]
    assert (one.last_lsn, one.durable_lsn) == (cut, min(cut, one.durable_lsn))
    assert contents(one) == before[:cut]
    put(one, b"new", epoch=2)
    flush(one)
    expected = [*before[:cut], (2, cut + 1, b"new")]
    assert contents(one) == expected
    again = shared(disk.after_power_loss(random.Random(1)))
    assert contents(again) == expected


def test_a_kill_in_the_middle_of_a_cut_leaves_a_log_that_ends_there_or_later() -> None:
    for crash_at in range(1, 100):
        for seed in range(6):
            disk = SimulatedDisk()
            one = shared(disk)
            for number in range(10):
                put(one, b"%d" % number * 15_000)
            flush(one)
            one.write_hint()
            before = contents(one)
            disk.steps, disk.crash_at = 0, crash_at
            try:
                one.truncate(2)
            except PowerLoss:
                ended = False
            else:
                ended = True
            chance = random.Random(seed)
            disk = disk.after_kill() if seed == 0 else disk.after_power_loss(chance)
            again = shared(disk)
            found = contents(again)
            assert found == before[: len(found)]
            assert len(found) == 2 if ended else len(found) >= 2
        if ended:
            return
    raise AssertionError("the cut never ended")


# ---- A log that was a node's own -----------------------------------------------------------


@pytest.mark.parametrize("records", [0, 3])
def test_a_nodes_own_log_goes_on_as_a_shared_one(records: int) -> None:
    disk = SimulatedDisk()
    own = open_wal(disk)
    for number in range(records):
        commit(own, b"own %d" % number)
    own.close()
    one = shared(disk.after_kill())
    assert one.first_shared_lsn == records + 1
    put(one, b"shared", epoch=2)
    flush(one)
    assert contents(one) == [(2, records + 1, b"shared")]
    assert [bytes(r.payload) for r in one.read(1)][-1] == b"shared"
    assert len(list(one.read(1))) == records + 1
    if records:
        with pytest.raises(errors.NotFound):
            one.read_raw(1, ALL)
    disk = disk.after_power_loss(random.Random(3))
    one = shared(disk)
    assert one.epochs == (((1, 1), (2, 4)) if records else ((2, 1),))
    one.truncate(records - 1 if records else 0)
    assert put(one, b"other", epoch=3) == max(records, 1)
    flush(one)
    assert shared(disk.after_kill()).end == one.end


def test_what_a_node_alone_writes_is_as_before() -> None:
    disk = SimulatedDisk()
    own = open_wal(disk)
    commit(own, b"x")
    assert own.FORMAT == 1
    assert Wal.FORMAT != SharedWal.FORMAT
    assert own._active.file.header.format == 1


def test_a_log_keeps_about_so_many_bytes() -> None:
    disk = SimulatedDisk()
    one = shared(disk)
    for _ in range(20):
        put(one, b"x" * 15_000)
    flush(one)
    bases = [file.base_lsn for file in one._files]
    assert one.lsn_keeping(0) == bases[-1]
    assert one.lsn_keeping(100_000) == bases[-2]
    assert one.lsn_keeping(ALL) == 1


def test_listeners_hear_of_own_records_and_of_durable_ones() -> None:
    one, two = shared(SimulatedDisk()), shared(SimulatedDisk(), OTHER)
    heard: list[tuple[str, int]] = []
    one.on_logged = lambda lsn: heard.append(("logged", lsn))
    one.on_durable = lambda lsn: heard.append(("durable", lsn))
    two.on_logged = one.on_logged
    put(one, b"a")
    one.append(RecordKind.EPOCH_START, [], epoch=2, timestamp_ms=1)
    ship(one, two)
    flush(one)
    assert heard == [("logged", 1), ("logged", 2), ("durable", 2)]

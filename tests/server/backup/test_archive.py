"""Which pieces of an archive make a log, whatever overlaps, lacks or parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.errors import Conflict, Corruption
from nearql.engine.storage.wal_format import PAYLOAD_SCHEMA, RecordHeader, RecordKind
from nearql.engine.storage.wal_raw import RawRecord
from nearql.server.backup.archive import Archive, Part, Piece, Reached, mark_of, path, reach_of
from support.backups import repository

TABLE = "22222222-2222-2222-2222-222222222222"


def piece(first: int, last: int, epoch: int = 1) -> Piece:
    return Piece(first, last, epoch, f"{epoch:08x}{last:08x}", 1000 * last)


def spans(pieces: list[Piece], after: int = 0) -> list[tuple[int, int, int]]:
    """(epoch, first, last) of what is read."""
    ordered = sorted(pieces, key=lambda one: (one.first, one.last))
    return [(part.piece.epoch, part.first, part.last) for part in path(ordered, after)]


def test_pieces_follow_each_other_to_the_end_or_to_a_gap() -> None:
    assert spans([]) == []
    assert spans([piece(1, 3), piece(4, 9)]) == [(1, 1, 3), (1, 4, 9)]
    assert spans([piece(1, 3), piece(4, 9)], after=5) == [(1, 6, 9)]
    assert spans([piece(1, 3), piece(5, 9)]) == [(1, 1, 3)]
    assert spans([piece(5, 9)]) == []
    assert spans([piece(1, 3)], after=3) == []


def test_of_two_that_overlap_each_record_is_read_once() -> None:
    assert spans([piece(1, 5), piece(3, 9)]) == [(1, 1, 5), (1, 6, 9)]
    assert spans([piece(1, 9), piece(3, 5)]) == [(1, 1, 9)]
    assert spans([piece(1, 4), piece(1, 4)]) == [(1, 1, 4)]


def test_a_later_epoch_counts_from_where_it_begins() -> None:
    lost = [piece(1, 5, 1), piece(6, 9, 1), piece(8, 8, 2), piece(9, 20, 2)]
    assert spans(lost) == [(1, 1, 5), (1, 6, 7), (2, 8, 8), (2, 9, 20)]
    assert spans([piece(1, 9, 1), piece(1, 4, 3)]) == [(3, 1, 4)]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8), st.integers(1, 3)), max_size=12),
    st.integers(0, 10),
)
def test_what_is_read_is_dense_and_ends_where_nothing_goes_on(
    given_pieces: list[tuple[int, int, int]], after: int
) -> None:
    pieces = [piece(first, first + more, epoch) for first, more, epoch in given_pieces]
    pieces.sort(key=lambda one: (one.first, one.last))
    parts = path(pieces, after)
    wanted, epoch = after + 1, 0
    for part in parts:
        assert part.first == wanted
        assert part.piece.epoch >= epoch
        epoch = part.piece.epoch
        assert part.piece.first <= part.first <= part.last <= part.piece.last
        better = [p for p in pieces if p.first <= wanted <= p.last and p.epoch > part.piece.epoch]
        assert not better
        wanted = part.last + 1
    assert not any(one.first <= wanted <= one.last and one.epoch >= epoch for one in pieces)


def test_a_note_counts_at_the_end_that_it_names_alone() -> None:
    tip = piece(4, 9)
    parts = [Part(piece(1, 3), 1, 3), Part(tip, 4, 9)]
    here, there = Reached(9, 1, tip.mark, 50_000), Reached(9, 1, "other", 90_000)
    assert reach_of(parts, None, [there, Reached(3, 1, "x", 99_000)]) == 8_999
    assert reach_of(parts, None, [there, here]) == 50_000
    base = Reached(7, 1, "", 7_000)
    assert reach_of([], base, [Reached(7, 2, "m", 8_000)]) == 7_000  # of another history
    assert reach_of([], base, [Reached(7, 1, "m", 8_000), Reached(8, 1, "m", 9_000)]) == 8_000
    assert reach_of([], base, []) == 7_000
    assert reach_of([], None, []) is None
    assert reach_of([], None, [Reached(0, 0, "", 5)]) == 5


def logged(lsn: int, epoch: int, link: bytes) -> RawRecord:
    header = RecordHeader(
        payload_size=1, payload_crc=crc32c(b"x"), kind=int(RecordKind.BATCH), flags=0,
        schema=PAYLOAD_SCHEMA, epoch=epoch, lsn=lsn, link=link, request_id=bytes(16),
        timestamp_ms=1000 * lsn, tag=bytes(8), group_back=0,
    )  # fmt: skip
    return RawRecord.of(header, b"x")


def test_a_backup_that_has_what_an_unclean_failover_gave_up_says_so(tmp_path: Path) -> None:
    archive = Archive(repository(tmp_path / "copies"), "11111111-1111-1111-1111-111111111111")
    shared = logged(1, 1, bytes(8))
    backed = logged(2, 1, shared.link)  # in the backup, and in no log any more
    begun = logged(2, 2, shared.link)
    after = logged(3, 2, begun.link)
    archive.put(TABLE, 0, [begun, after], mark_of(shared))
    pieces = archive.pieces(TABLE, 0)
    with pytest.raises(Conflict) as caught:
        [*archive.records(path(pieces, 2, 1), backed.link, 1)]
    assert caught.value.code == "backup_given_up"
    assert "up to LSN 2" in caught.value.detail
    assert "epoch 2" in caught.value.detail
    found = [*archive.records(path(pieces, 1, 1), shared.link, 1)]
    assert [record.lsn for record in found] == [2, 3]
    with pytest.raises(Corruption) as damaged:  # of one epoch: no failover explains that
        [*archive.records(path(pieces, 2, 2), backed.link, 2)]
    assert damaged.value.code == "backup_damaged"

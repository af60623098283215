"""Which pieces of an archive make a log, whatever overlaps, lacks or parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nearql.server.backup.archive import Part, Piece, Reached, path, reach_of


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

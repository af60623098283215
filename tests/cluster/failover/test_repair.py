"""Copies compared at one LSN: how the LSN is found while rows are written, and who is wrong."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from nearql.cluster.repair import (
    CORRUPT,
    DISPUTED,
    DIVERGED,
    OK,
    UNKNOWN,
    Digest,
    compare,
    judge,
)
from nearql.engine.errors import Corruption, NearQLError, Unavailable


class Copies:
    """Copies by name; each question moves the log on by `rate`, while there are records left."""

    def __init__(self, held: dict[str, bytes], rate: int = 0, records: int = 10_000) -> None:
        self.held, self.rate, self.left = held, rate, records
        self.at = 100
        self.lock = threading.Lock()
        self.errors: dict[str, NearQLError] = {}

    def ask(self, node: str, lsn: int | None, wait_s: float) -> Digest:
        if node in self.errors:
            raise self.errors[node]
        with self.lock:
            step = min(self.rate, self.left)
            self.at, self.left = self.at + step, self.left - step
            if lsn is None or lsn < self.at:
                return Digest(self.at)
            if lsn > self.at + self.left:  # it never comes
                return Digest(self.at)
            return Digest(lsn, lsn, len(self.held[node]), self.held[node])


def states(copies: Copies) -> dict[str, str]:
    return {v.node: v.state for v in compare(copies.ask, list(copies.held), 60.0)}


def test_copies_that_hold_the_same_agree() -> None:
    found = compare(Copies(dict.fromkeys("abc", b"x")).ask, "abc", 60.0)
    assert {v.state for v in found} == {OK}
    assert {(v.lsn, v.rows) for v in found} == {(100, 1)}


def test_an_lsn_ahead_is_found_while_rows_are_written() -> None:
    assert set(states(Copies(dict.fromkeys("abc", b"x"), rate=40)).values()) == {OK}


def test_an_lsn_is_found_where_writes_stop_in_the_middle() -> None:
    assert set(states(Copies(dict.fromkeys("ab", b"x"), rate=5, records=23)).values()) == {OK}


def test_the_odd_one_of_three_has_diverged() -> None:
    assert states(Copies({"a": b"x", "b": b"y", "c": b"x"})) == {
        "a": OK, "b": DIVERGED, "c": OK,
    }  # fmt: skip


def test_of_two_that_disagree_nobody_knows_which_is_right() -> None:
    assert states(Copies({"a": b"x", "b": b"y"})) == {"a": DISPUTED, "b": DISPUTED}


def test_what_can_not_be_read_or_asked_is_told() -> None:
    copies = Copies(dict.fromkeys("abcd", b"x"))
    copies.errors = {"c": Corruption("a file is bad"), "d": Unavailable("away")}
    assert states(copies) == {"a": OK, "b": OK, "c": CORRUPT, "d": UNKNOWN}


def test_copies_that_never_meet_are_not_judged() -> None:
    found = judge({"a": Digest(5), "b": Digest(9)}, {}, None)
    assert {v.state for v in found} == {UNKNOWN}
    assert judge({}, {}, 7) == []


@given(st.dictionaries(st.sampled_from("abcde"), st.sampled_from([b"x", b"y", b"z"]), min_size=1))
def test_only_a_majority_calls_others_wrong(held: dict[str, bytes]) -> None:
    found = {
        v.node: v.state for v in judge({n: Digest(1, 1, 1, h) for n, h in held.items()}, {}, 1)
    }
    for node, state in found.items():
        same = sum(other == held[node] for other in held.values())
        if state == OK:
            assert same * 2 > len(held) or same == len(held)
        elif state == DIVERGED:
            assert same * 2 < len(held)
        else:
            assert state == DISPUTED
    assert not {OK, DISPUTED} <= set(found.values())

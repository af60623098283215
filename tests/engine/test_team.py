"""A team shares work with idle threads and never waits for busy ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from nearql.engine.team import Team


@pytest.fixture
def team() -> Iterator[Team]:
    """Three threads, the caller's included."""
    made = Team(3)
    yield made
    made.close()


def test_results_come_in_order(team: Team) -> None:
    assert team.map(lambda number: number * 2, range(100)) == [2 * n for n in range(100)]
    assert team.map(lambda number: number * 2, []) == []
    assert team.map(lambda number: number * 2, [4]) == [8]


def test_threads_really_work_at_once(team: Team) -> None:
    """Three items that wait for each other end only if three threads hold them."""
    together = threading.Barrier(3, timeout=30)
    assert sorted(team.map(lambda _: together.wait(), range(3))) == [0, 1, 2]


def test_one_thread_is_the_caller_alone() -> None:
    alone = Team(1)
    caller = threading.get_ident()
    assert alone.map(lambda _: threading.get_ident(), range(5)) == [caller] * 5
    alone.close()


def test_busy_helpers_are_not_waited_for(team: Team) -> None:
    """While both helpers are held up by another caller, the caller does all by itself."""
    release, held = threading.Event(), threading.Barrier(4, timeout=30)

    def hold(_: int) -> bool:
        held.wait()
        return release.wait(30)

    kept: list[bool] = []
    other = threading.Thread(target=lambda: kept.extend(team.map(hold, range(3))))
    other.start()
    held.wait()
    caller = threading.get_ident()
    assert team.map(lambda _: threading.get_ident(), range(4)) == [caller] * 4
    release.set()
    other.join(30)
    assert kept == [True] * 3


def test_helpers_may_use_the_team_in_turn(team: Team) -> None:
    """More nested calls than threads: nobody waits for a thread that never comes."""

    def outer(number: int) -> int:
        return sum(team.map(lambda inner: inner * number, range(10)))

    assert team.map(outer, range(20)) == [45 * number for number in range(20)]


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_an_error_reaches_the_caller(team: Team, bad: int) -> None:
    with pytest.raises(ZeroDivisionError):
        team.map(lambda number: 1 // (number - bad), range(6))
    assert team.map(lambda number: number, range(3)) == [0, 1, 2]


def test_an_error_in_a_helper_reaches_the_caller(team: Team) -> None:
    caller = threading.get_ident()
    both = threading.Barrier(2, timeout=30)

    def fail_in_helper(_: int) -> None:
        both.wait()
        if threading.get_ident() != caller:
            raise KeyError("in a helper")

    with pytest.raises(KeyError, match="in a helper"):
        team.map(fail_in_helper, range(2))

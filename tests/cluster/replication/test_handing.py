"""Many primaries handed over at once, in made-up time."""

from __future__ import annotations

import threading

from nearql.cluster.replication.handing import AT_ONCE, TIME_IS_UP, all_within

MANY = {f"shard-{number}": "b" for number in range(5 * AT_ONCE)}


class Time:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


def test_many_that_fail_take_as_long_as_one() -> None:
    time, all_begun = Time(), threading.Barrier(AT_ONCE)
    left: list[float] = []

    def silent(uuid: str, node: str, timeout_s: float) -> str:
        left.append(timeout_s)
        all_begun.wait(60)
        time.now_ms = 4_000
        return "no answer"

    found = all_within(MANY, silent, 3.0, time)
    assert left == [3.0] * AT_ONCE
    assert sorted(found.values()) == ["no answer"] * AT_ONCE + [TIME_IS_UP] * 4 * AT_ONCE


def test_those_that_succeed_leave_the_others_what_is_left() -> None:
    time, lock = Time(), threading.Lock()
    left: list[float] = []

    def quick(uuid: str, node: str, timeout_s: float) -> str:
        assert node == "b"
        with lock:
            left.append(timeout_s)
            time.now_ms += 10
        return ""

    assert all_within(MANY, quick, 3.0, time) == dict.fromkeys(MANY, "")
    assert len(left) == len(MANY)
    assert max(left) == 3.0
    assert 3.0 - len(MANY) / 100 <= min(left) < 2.7

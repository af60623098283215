"""Threads that step back, and those that they start; never the one that asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nearql.engine.priority import step_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are alike elsewhere")
MOST = 19  # the kernel's


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_a_thread_that_steps_back(steps: int) -> tuple[int, int]:
    """Its niceness, and that of a thread which it starts."""

    def look() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as below:
            return niceness(), below.submit(niceness).result()

    with ThreadPoolExecutor(1, initializer=step_back, initargs=(steps,)) as pool:
        return pool.submit(look).result()


def test_a_thread_and_those_it_starts_step_back_and_no_other() -> None:
    before = niceness()
    wanted = min(MOST, before + 5)
    assert in_a_thread_that_steps_back(5) == (wanted, wanted)
    assert niceness() == before


def test_where_it_is_forbidden_all_stay_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    assert in_a_thread_that_steps_back(5) == (niceness(), niceness())


def test_the_threads_of_duckdb_come_after_those_of_searches() -> None:
    code = """
import os
from nearql.query import duck
duck.configure(duck.DuckOptions(threads=3))
before = set(os.listdir("/proc/self/task"))
duck.shared()
started = set(os.listdir("/proc/self/task")) - before
assert len(started) >= 2, started
own = os.getpriority(os.PRIO_PROCESS, os.getpid())
print(own, sorted({os.getpriority(os.PRIO_PROCESS, int(one)) for one in started}))
duck.close()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    own, _, theirs = ran.stdout.strip().partition(" ")
    assert theirs == f"[{min(MOST, int(own) + 10)}]"

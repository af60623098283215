"""Threads that come after others where cores are short.

Linux gives each thread a niceness of its own, which the threads that it starts inherit: of a core
that two threads want, one that has stepped back by 5 gets a quarter, by 10 a tenth; of a core that
nobody else wants, all of it. Nothing is ever starved.

Only threads that hold nothing which searches need may step back: not the interpreter's lock, not an
allocator's. One that holds such a lock and is not run lets all wait who come before it. (Measured:
with the threads of loads and joins stepped back, too, the slowest hundredth of searches under
overload took eight times as long.) DuckDB's own threads are such: native, with an allocator of
their own.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

PROCESSORS = 10  # steps of DuckDB's own threads


def step_back(steps: int) -> None:
    """Let this thread, and those that it starts from now on, come after others for a core.

    Elsewhere than on Linux all threads are alike, and where a sandbox forbids it they stay so.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + steps)

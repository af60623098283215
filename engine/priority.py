"""Which threads come first where cores are short: searches, then loads, then what may take long.

Linux gives each thread a niceness of its own, which the threads that it starts inherit. One step is
about a quarter of the time: of a core that two threads want, one that has stepped back by 5 gets a
quarter, by 10 a tenth; of a core that nobody else wants, all of it. Nothing is ever starved.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

LOADS, STATEMENTS, PROCESSORS = 3, 5, 10  # bulk rows; statements beyond searches; DuckDB's threads


def step_back(steps: int) -> None:
    """Let this thread, and those that it starts from now on, come after others for a core.

    Elsewhere than on Linux all threads are alike, and where a sandbox forbids it they stay so.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + steps)

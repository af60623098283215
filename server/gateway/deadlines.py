"""Points in time: the query layer's (time.monotonic() in seconds) as the engine's `Deadline`."""

from __future__ import annotations

import time

from nearql.engine.deadline import Deadline


def until(at: float) -> Deadline:
    """The deadline at this reading of the monotonic clock; one that has passed is up at once."""
    return Deadline(max(0, int((at - time.monotonic()) * 1000)))

"""The bound on writes under way in one table; beyond it, writers are told to come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from nearql.engine.errors import Overloaded
from nearql.engine.settings import EngineSettings


class Admission:
    """Invariant: at most `write_queue_batches` writes and `write_queue_bytes` bytes are inside.

    One write alone is always let in, however large: refusing it would not help it later.
    """

    def __init__(self, table: str, settings: EngineSettings) -> None:
        self._table = table
        self._batches_limit = settings.write_queue_batches
        self._bytes_limit = settings.write_queue_bytes
        self._batches = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def entered(self, nbytes: int) -> Iterator[None]:
        """Count a write as under way.

        Raises:
            Overloaded: too many are.
        """
        self._enter(nbytes)
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1
                self._bytes -= nbytes

    def _enter(self, nbytes: int) -> None:
        with self._lock:
            full = self._batches >= self._batches_limit or self._bytes + nbytes > self._bytes_limit
            if self._batches and full:
                raise Overloaded(
                    f"The write queue of table {self._table} is full: {self._batches} writes with "
                    f"{self._bytes} bytes are under way (settings engine.write_queue_batches, "
                    "engine.write_queue_bytes). Try again shortly."
                )
            self._batches += 1
            self._bytes += nbytes

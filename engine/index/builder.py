"""One thread of a node that builds indexes, a segment after the other, fairly between tables.

A table that has something to build is put into the queue once; it builds one segment's index when
its turn comes and queues up again. So a small table doesn't wait for all of a large one, and never
more than one build's memory is in use. One that must wait for memory lets the others go first. The
thread starts with the first build and is let go when the node closes; what it had under way is
called off, finished files stay.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Protocol

logger = logging.getLogger(__name__)


class Buildable(Protocol):
    """A table's indexes, as the builder sees them."""

    def build_next(self) -> bool:
        """Build one segment's index; whether there may be more to do."""


class Builder:
    """Thread-safe. inline: work in the thread that asks for it, for tests. name: its thread's."""

    def __init__(self, name: str = "nearql-index-builder", *, inline: bool = False) -> None:
        self._name = name
        self._inline = inline
        self._changed = threading.Condition()
        self._queue: deque[Buildable] = deque()
        self._thread: threading.Thread | None = None
        self._busy: Buildable | None = None
        self._closed = False

    def ask(self, table: Buildable) -> None:
        """Have a table build what it lacks; harmless when repeated."""
        if self._inline:
            self._at_once(table)
            return
        with self._changed:
            if self._closed or table in self._queue:
                return
            self._queue.append(table)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def wanted(self) -> bool:
        """Whether other tables wait for their turn."""
        with self._changed:
            return bool(self._queue)

    def _at_once(self, table: Buildable) -> None:
        if self._busy is None:  # else what runs asks for itself, and looks again when it ends
            self._busy = table
            try:
                while table.build_next():
                    pass
            finally:
                self._busy = None

    def forget(self, table: Buildable) -> None:
        """Take a table out of the queue and wait for its build under way, which was called off."""
        with self._changed:
            while table in self._queue:
                self._queue.remove(table)
            self._changed.wait_for(lambda: self._busy is not table)
            while table in self._queue:  # it queued up again meanwhile
                self._queue.remove(table)

    def close(self) -> None:
        """End the thread; every table must have been forgotten."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (table := self._next()) is not None:
            more = False
            try:
                more = table.build_next()
            except Exception:  # a bug of ours must not end all building
                logger.exception("building an index failed")
            with self._changed:
                self._busy = None
                if more and not self._closed and table not in self._queue:
                    self._queue.append(table)
                self._changed.notify_all()

    def _next(self) -> Buildable | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue)
            if self._closed:
                return None
            self._busy = self._queue.popleft()
            return self._busy

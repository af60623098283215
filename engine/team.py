"""A team of threads in which the caller works too, so that a busy machine never makes it wait.

Items lie in one queue. The caller and its helpers take them one by one; the caller then waits for
items that a helper holds, but never for a helper to begin: one that has not started by then is
called off. So with idle cores the work is shared, with busy ones the caller does nearly all of it
itself, and a helper may use the team in turn without a deadlock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import TypeVar

from nearql.engine import spans

T = TypeVar("T")
R = TypeVar("R")


class Team:
    """Up to `threads` threads, the caller's own included. Safe for use from several threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "nearql-search")
        self._check: Callable[[], None] | None = None

    def checking(self, check: Callable[[], None] | None) -> Team:
        """The same threads, for one piece of work: `check` is called before each item and raises
        where the work should end.
        """
        if check is None:
            return self
        other = copy(self)
        other._check = check
        return other

    def check(self) -> None:
        """Raise if the work should end."""
        if self._check is not None:
            self._check()

    def alone(self) -> Team:
        """The caller's thread only, with the same check."""
        other = copy(self)
        other.threads = 1
        return other

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The function's results in order; its first exception, after all that began have ended."""
        function = self._checked(function)
        helpers = min(self.threads, len(items)) - 1
        if helpers < 1:
            return [function(item) for item in items]
        results: dict[int, R] = {}
        numbers = itertools.count()

        def work() -> None:
            while (number := next(numbers)) < len(items):
                results[number] = function(items[number])

        helping = work if spans.tracer is None else spans.tracer.helping(work)
        futures = [self._pool.submit(helping) for _ in range(helpers)]
        try:
            work()
        finally:
            begun = [future for future in futures if not future.cancel()]
            errors = [future.exception() for future in begun]
        for error in errors:
            if error is not None:
                raise error
        return [results[number] for number in range(len(items))]

    def _checked(self, function: Callable[[T], R]) -> Callable[[T], R]:
        check = self._check
        if check is None:
            return function

        def checked(item: T) -> R:
            check()
            return function(item)

        return checked

    def close(self) -> None:
        """Let the threads go; every map must have ended."""
        self._pool.shutdown()

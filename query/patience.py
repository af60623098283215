"""Time for parsing and planning: both run in Python, where nothing interrupts them from outside.

Whoever works on a statement asks `check` in its loops; it raises once the statement's time is up.
The deadline belongs to the thread that plans.

Texts that take long to parse are parsed one at a time: many threads that all want Python would each
take as long, and keep it from whoever serves short statements.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nearql.engine.errors import StatementTimeout


def _never() -> float:
    return float("inf")


class _Until(threading.local):
    deadline: Callable[[], float] = staticmethod(_never)


_UNTIL = _Until()


class until:  # used like a function; a class costs a third of a generator
    """Let `check` raise from `deadline()` (time.monotonic) on, within a block.

    It is asked each time: a client that goes away makes it the past.
    """

    __slots__ = ("_before", "_deadline")

    def __init__(self, deadline: Callable[[], float]) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._before, _UNTIL.deadline = _UNTIL.deadline, self._deadline

    def __exit__(self, *exception: object) -> None:
        _UNTIL.deadline = self._before


def check() -> None:
    """Raise StatementTimeout if the time is up."""
    if time.monotonic() > _UNTIL.deadline():
        raise timed_out()


_LONG_TEXT = 4096  # characters; about 10 ms where each is a sign
_LOOK_S = 0.05
_turn = threading.RLock()


@contextmanager
def turn(text: str) -> Iterator[None]:
    """Wait until no other long text is being parsed; short ones pass.

    Raises:
        StatementTimeout: the time was up before.
    """
    if len(text) < _LONG_TEXT:
        yield
        return
    while not _turn.acquire(timeout=_LOOK_S):
        check()
    try:
        yield
    finally:
        _turn.release()


def timed_out() -> StatementTimeout:
    """The error of a statement whose time is up."""
    return StatementTimeout(
        "The statement took longer than statement_timeout_ms allows. "
        "Raise it with SET, or ask for less."
    )

"""Threads that wait: for what the loop will tell them, and for a log to be on its disk."""

from __future__ import annotations

import itertools
import threading
from typing import Generic, TypeVar

from nearql.engine.shard.copy import ShardCopy

_T = TypeVar("_T")


class Waiter(Generic[_T]):
    """One thread's question. The answer is given once."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self._answer: _T | None = None

    def give(self, answer: _T) -> None:
        """Answer it; a second answer changes nothing."""
        if not self._given.is_set():
            self._answer = answer
            self._given.set()

    def wait(self, timeout_s: float) -> _T | None:
        """The answer; None where none came in time."""
        self._given.wait(timeout_s)
        return self._answer


class Questions(Generic[_T]):
    """Questions under way, by number. `ask` and `drop` in any thread, `answer` in the loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, Waiter[_T]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def ask(self) -> tuple[int, Waiter[_T]]:
        """A number for a new question, and who waits for it."""
        number, waiter = next(self._numbers), Waiter[_T]()
        self._open[number] = waiter
        return number, waiter

    def answer(self, number: int, answer: _T) -> None:
        """Give the answer, if somebody still waits."""
        waiter = self._open.pop(number, None)
        if waiter is not None:
            waiter.give(answer)

    def drop(self, number: int) -> None:
        """Nobody waits any more."""
        self._open.pop(number, None)

    def answer_all(self, answer: _T) -> None:
        """Give everybody the same answer."""
        for number in list(self._open):
            self.answer(number, answer)


class _Durability:
    """A listener that waits."""

    def __init__(self) -> None:
        self.more = threading.Event()

    def logged(self, lsn: int) -> None:
        """Nobody writes."""

    def durable(self, lsn: int) -> None:
        """Look again."""
        self.more.set()

    def applied(self, lsn: int) -> None:
        """Nobody asks."""


def until_durable(copy: ShardCopy) -> None:
    """Wait until the disk has the whole log; it has, when the copy has just been opened."""
    listener = _Durability()
    copy.listen(listener)
    while copy.durable_lsn < copy.end.lsn:
        listener.more.wait()
        listener.more.clear()
    copy.listen(None)

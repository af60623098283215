"""Which searches the event loop runs itself.

A search of a millisecond costs as much again in a worker thread: the loop wakes the thread, the
thread the loop, each on a core that has gone cold, and many threads that all want the interpreter
take it from each other. So what was short in all of its last runs is run where it was read. Only a
search for plain columns can be: the rows of one table bound its work, no parameter changes how many
rows it asks for, its filter is one that is kept, and it waits for nothing. The loop's own turn
stays short:

    one search      at most `http.inline_ms`, by its last runs; one that takes much longer than
                    that goes back to the threads until it is short again
    many at once    at most BURST, without the loop looking after anything else; if more come, then
                    for CROWDED_S all go to the threads, where searches share calls

Requests that the loop finds together, and whose query vectors alone differ, are one call of the
engine where an index answers them: they share nearly all that a request costs here.

    read from connections    1: q    2: q    3: w    4: q    5: w
    joined, by text, settings, user, filter         (1 2 4)    (3 5)
    departed, behind the last of them               one call   one call

Times of runs in threads are the thread's own time on a core: beside others each takes longer than
it would alone, and that must not keep it there.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from nearql.engine.strategy import SHARED_QUERIES
from nearql.query.plan_cache import Prepared

BURST = SHARED_QUERIES - 1  # as many as are not cheaper in one call
CROWDED_S = 0.1
_MUCH = 4  # times the limit

M = TypeVar("M")
T = TypeVar("T")
Answers = Callable[[list[M]], Sequence[T | Exception]]


@dataclass(eq=False)
class _Group:
    """Requests of one key that wait for the loop's next step. tell: each one's."""

    prepared: Prepared
    answer: Answers[Any, Any]
    members: list[Any] = field(default_factory=list)
    tell: list[Callable[[Any], None]] = field(default_factory=list)


class Inline:
    """Decides for one event loop. limit_ms: `http.inline_ms`; 0 = nothing is run there."""

    def __init__(self, limit_ms: int, has_room: Callable[[], bool]) -> None:
        """has_room: whether a search would begin at once, as far as memory goes."""
        self._limit_s = limit_ms / 1000
        self._has_room = has_room
        self._burst = 0
        self._crowded_until = 0.0
        self._groups: dict[Hashable, _Group] = {}
        self.runs = 0  # requests that were answered, and the calls that did it
        self.calls = 0

    def takes(self, prepared: Prepared, settings: Mapping[str, Any]) -> bool:
        """Whether to run this now, in the loop."""
        if prepared.pace.longest(settings) > self._limit_s:
            return False
        now = time.monotonic()
        if self._burst >= BURST:
            self._crowded_until = now + CROWDED_S
        return now >= self._crowded_until and self._has_room()

    def ask(self, key: Hashable, prepared: Prepared, one: M, answer: Answers[M, T]) -> Future[T]:
        """As `join`, for who waits."""
        future: Future[T] = asyncio.get_running_loop().create_future()
        self.join(key, prepared, one, answer, partial(_settle, future))
        return future

    def join(
        self, key: Hashable, prepared: Prepared, one: M, answer: Answers[M, T],
        tell: Callable[[T | Exception], None],
    ) -> None:  # fmt: skip
        """Have one request answered with those of the same key that the loop finds now.

        answer: gives each of them its answer, or its error. tell: is given this one's.
        """
        if not self._burst:  # behind what was read from other connections
            asyncio.get_running_loop().call_soon(self._depart)
        self._burst += 1
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(prepared, answer)
        group.members.append(one)
        group.tell.append(tell)

    def _depart(self) -> None:
        groups, self._groups, self._burst = list(self._groups.values()), {}, 0
        for group in groups:
            self._run(group)

    def _run(self, group: _Group) -> None:
        count = len(group.members)
        self.runs += count
        self.calls += 1
        before = time.monotonic()
        try:
            told = group.answer(group.members)
        except Exception as error:  # noqa: BLE001 - raised where each of them waits for it
            told = [error] * count
        if time.monotonic() - before > _MUCH * self._limit_s * count:
            group.prepared.pace.forget()
        for tell, outcome in zip(group.tell, told, strict=True):
            tell(outcome)


def _settle(future: Future[T], outcome: T | Exception) -> None:
    if future.done():  # the request is gone
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

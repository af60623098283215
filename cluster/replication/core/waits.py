"""Writers that wait until what they wrote is as safe as they asked for.

Those whose LSN is not reached yet lie in two heaps, by what they wait for first (the commit, or the
primary's own disk); those that then still lack copies are few, and are looked at each time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from nearql.cluster.replication.core.events import ALL_COPIES, Await

_Heap = list[tuple[int, int, Await]]


class Waits:
    """All that wait in one reign."""

    def __init__(self) -> None:
        self._for_commit: _Heap = []
        self._for_disk: _Heap = []
        self._for_copies: list[Await] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._for_commit) + len(self._for_disk) + len(self._for_copies)

    def add(self, wait: Await) -> None:
        """Remember one."""
        self._count += 1
        heap = self._for_commit if wait.concern.committed else self._for_disk
        heapq.heappush(heap, (wait.lsn, self._count, wait))

    def met(
        self, commit_lsn: int, durable_lsn: int, has_copies: Callable[[Await], bool]
    ) -> list[Await]:
        """Take out those whose concern is met. has_copies: whether enough copies have it."""
        reached = [
            *self._for_copies,
            *_reached(self._for_commit, commit_lsn),
            *_reached(self._for_disk, durable_lsn),
        ]
        if not reached:
            return []
        done = [wait for wait in reached if has_copies(wait)]
        self._for_copies = [wait for wait in reached if wait not in done] if done else reached
        return done

    def overdue(self, now_ms: int) -> list[Await]:
        """Take out those whose time is up."""
        return self._take(lambda wait: wait.deadline_ms <= now_ms)

    def everybody(self) -> list[Await]:
        """Take all out."""
        return self._take(lambda wait: True)

    def _take(self, wanted: Callable[[Await], bool]) -> list[Await]:
        waiting = [*(entry[2] for entry in (*self._for_commit, *self._for_disk)), *self._for_copies]
        taken = [wait for wait in waiting if wanted(wait)]
        if taken:
            self._for_commit = _without(self._for_commit, wanted)
            self._for_disk = _without(self._for_disk, wanted)
            self._for_copies = [wait for wait in self._for_copies if not wanted(wait)]
        return taken


def copies_needed(wait: Await, copies_of_shard: int) -> int:
    """On how many copies the write must be durable."""
    copies = wait.concern.copies
    return copies_of_shard if copies == ALL_COPIES else copies


def _reached(heap: _Heap, lsn: int) -> Iterator[Await]:
    while heap and heap[0][0] <= lsn:
        yield heapq.heappop(heap)[2]


def _without(heap: _Heap, unwanted: Callable[[Await], bool]) -> _Heap:
    kept = [entry for entry in heap if not unwanted(entry[2])]
    heapq.heapify(kept)
    return kept

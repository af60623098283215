"""Outcomes of the last writes by request id: a retried write is answered and not done again.

Replicated state: built from the log alone, evicted by count in log order, part of each checkpoint,
so that every copy remembers the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.engine.request_id import NO_REQUEST, asker, check_same
from nearql.engine.shard.records import Counts


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a write ended: the position of its last record, and what it reported."""

    lsn: int
    epoch: int
    counts: Counts


class Dedup:
    """Invariant: holds at most `limit` entries, the youngest ones, in log order."""

    def __init__(self, limit: int, entries: Iterable[tuple[bytes, Recorded]] = ()) -> None:
        self._limit = limit
        self._entries = OrderedDict((asker(one), (one, recorded)) for one, recorded in entries)
        self._evict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, request_id: bytes | None) -> Recorded | None:
        """The outcome of that write, if it is remembered.

        Raises:
            Conflict: code `request_id_reused`; the remembered write was another one.
        """
        found = None if request_id is None else self._entries.get(asker(request_id))
        if found is None or request_id is None:
            return None
        check_same(found[0], request_id)
        return found[1]

    def add(self, request_id: bytes, recorded: Recorded) -> None:
        """Remember a write that was applied; without a request id there is nothing to remember."""
        if request_id != NO_REQUEST:
            self._entries[asker(request_id)] = request_id, recorded
            self._evict()

    def copy(self) -> Dedup:
        """The entries at this moment."""
        return Dedup(self._limit, self._entries.values())

    def pack(self) -> bytes:
        """As a checkpoint stores it."""
        return bytes(msgpack.packb([_packed(*entry) for entry in self._entries.values()]))

    @classmethod
    def unpack(cls, data: bytes | memoryview, limit: int) -> Dedup:
        """What `pack` made."""
        return cls(limit, (_unpacked(entry) for entry in msgpack.unpackb(data)))

    def _evict(self) -> None:
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        assert len(self._entries) <= self._limit
        lsns = [recorded.lsn for _, recorded in self._entries.values()]
        assert lsns == sorted(lsns)


def _packed(request_id: bytes, recorded: Recorded) -> list[Any]:
    c = recorded.counts
    counts = [c.inserted, c.updated, c.deleted, c.skipped]
    return [request_id, recorded.lsn, recorded.epoch, counts]


def _unpacked(entry: list[Any]) -> tuple[bytes, Recorded]:
    request_id, lsn, epoch, counts = entry
    return request_id, Recorded(lsn, epoch, Counts(*counts))

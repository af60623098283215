"""Outcomes of the last writes by request id: a retried write is answered and not done again.

Replicated state: built from the log alone, part of each checkpoint, so that every copy remembers
the same. The oldest in log order go first: beyond a count, beyond a size, and those that are old by
the time that records carry. That time never goes back here, whatever a primary's clock does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from nearql.engine.request_id import NO_REQUEST, asker, check_same
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.records import Counts

_ENTRY_BYTES = 400  # of Python objects per remembered write, measured


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a write ended: the position of its last record, what it reported, and the time of it.

    timestamp_ms: the primary's clock; 0 = unknown, by a checkpoint of an earlier version.
    """

    lsn: int
    epoch: int
    counts: Counts
    timestamp_ms: int = 0

    @property
    def nbytes(self) -> int:
        """About what remembering it takes."""
        return _ENTRY_BYTES + len(self.counts.skipped or b"")


class Dedup:
    """Invariant: holds the youngest entries within the settings' bounds, in log order."""

    def __init__(
        self, settings: EngineSettings, entries: Iterable[tuple[bytes, Recorded]] = ()
    ) -> None:
        self._settings = settings
        self._entries = OrderedDict((asker(one), (one, recorded)) for one, recorded in entries)
        self._bytes = sum(recorded.nbytes for _, recorded in self._entries.values())
        self._now_ms = max((r.timestamp_ms for _, r in self._entries.values()), default=0)
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
        """Remember a write that was applied; one without a request id only moves the time on."""
        self._now_ms = max(self._now_ms, recorded.timestamp_ms)
        if request_id != NO_REQUEST:
            self._entries[asker(request_id)] = request_id, recorded
            self._bytes += recorded.nbytes
        self._evict()

    def copy(self) -> Dedup:
        """The entries at this moment."""
        return Dedup(self._settings, self._entries.values())

    def pack(self) -> bytes:
        """As a checkpoint stores it."""
        return bytes(msgpack.packb([_packed(*entry) for entry in self._entries.values()]))

    @classmethod
    def unpack(cls, data: bytes | memoryview, settings: EngineSettings) -> Dedup:
        """What `pack` made."""
        return cls(settings, (_unpacked(entry) for entry in msgpack.unpackb(data)))

    def _evict(self) -> None:
        while self._entries and self._is_due(next(iter(self._entries.values()))[1]):
            _, (_, gone) = self._entries.popitem(last=False)
            self._bytes -= gone.nbytes

    def _is_due(self, oldest: Recorded) -> bool:
        """Whether the oldest entry must go."""
        limits = self._settings
        old = 0 < oldest.timestamp_ms < self._now_ms - limits.dedup_ms
        many = len(self._entries) > limits.dedup_entries
        return old or many or self._bytes > limits.dedup_bytes

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        assert len(self._entries) <= self._settings.dedup_entries
        assert self._bytes == sum(r.nbytes for _, r in self._entries.values())
        assert self._bytes <= self._settings.dedup_bytes
        lsns = [recorded.lsn for _, recorded in self._entries.values()]
        assert lsns == sorted(lsns)


def _packed(request_id: bytes, recorded: Recorded) -> list[Any]:
    c = recorded.counts
    counts = [c.inserted, c.updated, c.deleted, c.skipped]
    return [request_id, recorded.lsn, recorded.epoch, counts, recorded.timestamp_ms]


def _unpacked(entry: list[Any]) -> tuple[bytes, Recorded]:
    request_id, lsn, epoch, counts, *time = entry
    return request_id, Recorded(lsn, epoch, Counts(*counts), *time)

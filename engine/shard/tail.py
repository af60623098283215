"""The tail of a shard: statements that were logged here and are not applied yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from nearql.engine.keys import Key
from nearql.engine.request_id import NO_REQUEST, asker, check_same
from nearql.engine.shard.records import Statement


@dataclass(slots=True)
class Pending:
    """A statement in the tail. applied: set, under the shard's lock, when read views show it."""

    statement: Statement
    keys: dict[Key, bool]  # whether each key that it touches exists after it
    nbytes: int
    applied: bool = False


class Tail:
    """Invariant: in log order, none applied. The shard's lock guards it.

    oldest_lsn: of the first one, infinite where none is; may be read without the lock.
    nbytes: of all records' payloads; likewise.
    """

    def __init__(self) -> None:
        self._pending: deque[Pending] = deque()
        self._keys: dict[Key, tuple[bool, int]] = {}  # key -> (exists, LSN of who says so)
        self._in_flight: dict[bytes, Pending] = {}
        self.oldest_lsn: float = inf
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def newest(self) -> Pending | None:
        """The one logged last."""
        return self._pending[-1] if self._pending else None

    def add(self, pending: Pending) -> None:
        """One more was logged."""
        statement = pending.statement
        self._pending.append(pending)
        self.oldest_lsn = min(self.oldest_lsn, statement.lsn)
        self.nbytes += pending.nbytes
        for key, exists in pending.keys.items():
            self._keys[key] = exists, statement.lsn
        if statement.request_id != NO_REQUEST:
            self._in_flight[asker(statement.request_id)] = pending

    def take(self, committed_lsn: int) -> Iterator[Pending]:
        """Those that are committed, to be applied; each leaves the tail when the next is asked.

        They are `applied` when the caller has published them, which it says itself.
        """
        while self._pending and self._pending[0].statement.lsn <= committed_lsn:
            pending = self._pending[0]
            yield pending
            self._pending.popleft()
            self._forget(pending)
        self.oldest_lsn = self._pending[0].statement.lsn if self._pending else inf

    def _forget(self, pending: Pending) -> None:
        statement = pending.statement
        for key in pending.keys:
            if self._keys[key][1] == statement.lsn:
                del self._keys[key]
        self._in_flight.pop(asker(statement.request_id), None)
        self.nbytes -= pending.nbytes

    def clear(self) -> None:
        """Others decide from now on what becomes of these."""
        self._pending.clear()
        self._keys.clear()
        self._in_flight.clear()
        self.oldest_lsn, self.nbytes = inf, 0

    def under_way(self, request_id: bytes) -> Pending | None:
        """The statement of this request id.

        Raises:
            Conflict: code `request_id_reused`; that was another one.
        """
        found = self._in_flight.get(asker(request_id))
        if found is not None:
            check_same(found.statement.request_id, request_id)
        return found

    def amend(self, held: set[Key], keys: Sequence[Key]) -> None:
        """Of these keys, `held` are those that exist in the state; make it those that exist after
        the tail.
        """
        if self._keys:
            for key in keys:
                if (known := self._keys.get(key)) is not None:
                    (held.add if known[0] else held.discard)(key)

    def check_invariants(self, applied_lsn: int) -> None:
        """Raise AssertionError where it contradicts itself."""
        lsns = [pending.statement.lsn for pending in self._pending]
        assert lsns == sorted(lsns)
        assert not lsns or lsns[0] > applied_lsn
        assert self.oldest_lsn == (lsns[0] if lsns else inf)
        assert set(self._keys) <= {key for p in self._pending for key in p.keys}
        assert self.nbytes == sum(pending.nbytes for pending in self._pending)

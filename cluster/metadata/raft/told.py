"""A copy of the metadata that is told what voters apply: by this node's sidecar, or by a voter's.

["state", index, state]        the whole, at first and when a leader's snapshot replaced it
["applied", index, command]    each command after that, in order
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from nearql.cluster.metadata.codec import decode_command, from_plain, unpack
from nearql.cluster.metadata.commands import RegisterNode
from nearql.cluster.metadata.state import Metadata, apply


class Told:
    """Thread-safe; one thread at a time tells."""

    def __init__(self) -> None:
        self._state, self._index = Metadata(), 0
        self._listeners: list[Callable[[Metadata], None]] = []
        self._telling = threading.Lock()
        self.refused: Counter[str] = Counter()  # registrations, by code
        self.first = threading.Event()  # set once a state was told

    @property
    def state(self) -> Metadata:
        """The newest state; immutable."""
        return self._state

    @property
    def index(self) -> int:
        """Up to which entry of Raft's log it goes."""
        return self._index

    def watch(self, listener: Callable[[Metadata], None]) -> None:
        """Call `listener` with each new state, in order, from the thread that tells."""
        with self._telling:
            self._listeners.append(listener)

    def on_state(self, index: int, dumped: bytes) -> None:
        """A whole state; an older one, of somebody who was restarted, changes nothing."""
        if index >= self._index:
            self._set(index, from_plain(Metadata, unpack(dumped)))
        self.first.set()

    def on_applied(self, index: int, command: bytes) -> None:
        """One command; one that is applied here already changes nothing."""
        if index > self._index:
            decoded = decode_command(command)
            state, result = apply(self._state, decoded)
            if result.code and isinstance(decoded, RegisterNode):
                self.refused[result.code] += 1
            self._set(index, state)

    def _set(self, index: int, state: Metadata) -> None:
        with self._telling:
            self._state, self._index = state, index
            listeners = [*self._listeners]
        for listener in listeners:
            listener(state)

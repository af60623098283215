"""How long a link waits, and for what."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    connect_s: per address. handshake_s: from a connection to a proved name. ping_s: silence after
    which an end says that it is there. silence_s: after which the other end is gone.
    retry_s, retry_limit_s: the first and the longest pause between attempts.
    """

    connect_s: float = 1.0
    handshake_s: float = 3.0
    ping_s: float = 0.5
    silence_s: float = 5.0
    retry_s: float = 0.05
    retry_limit_s: float = 1.0


class Backoff:
    """Pauses that double, each shortened by chance so that nodes do not come in step."""

    def __init__(self, patience: Patience, chance: random.Random | None = None) -> None:
        self._first_s, self._limit_s = patience.retry_s, patience.retry_limit_s
        self._chance = chance or random.Random()
        self._next_s = self._first_s

    def next_s(self) -> float:
        """The pause before the next attempt: between half and all of what is due."""
        due, self._next_s = self._next_s, min(self._next_s * 2, self._limit_s)
        return due * (0.5 + self._chance.random() / 2)

    def reset(self) -> None:
        """An attempt succeeded."""
        self._next_s = self._first_s

"""How much one key may ask: requests per second, and at a time.

A bucket per key holds as many tokens as it may make requests in a second and fills evenly. What a
key has of its own wins over the node's settings; without either nothing is counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nearql.engine.errors import Overloaded
from nearql.server.access.principal import Principal

KEYS_KEPT = 10_000  # signed tokens may have any number of subjects


@dataclass(slots=True)
class _Use:
    """tokens: requests that may come now; at: when that was so; running: at this time."""

    tokens: float
    at: float
    running: int = 0


class Quotas:
    """Of one application; used by its event loop alone. rate, concurrency: 0 = no limit."""

    def __init__(
        self, rate: int, concurrency: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._concurrency = concurrency
        self._clock = clock
        self._used: OrderedDict[str, _Use] = OrderedDict()

    def limit(self, principal: Principal) -> bool:
        """Whether anything about this principal is to be counted."""
        if not principal.key_id:
            return False
        own = principal.rate is not None or principal.concurrency is not None
        return own or bool(self._rate or self._concurrency)

    @contextmanager
    def request(self, principal: Principal) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            Overloaded: the key has asked too often, or asks too much at a time.
        """
        rate = self._rate if principal.rate is None else principal.rate
        most = self._concurrency if principal.concurrency is None else principal.concurrency
        use = self._use(principal.key_id, rate)
        if most and use.running >= most:
            raise Overloaded(
                f"The key of {principal.name} has {most} requests under way, its limit; wait for "
                "one to end.",
                code="key_concurrency_exceeded",
            )
        if rate and not self._take(use, rate):
            raise Overloaded(
                f"The key of {principal.name} may make {rate} requests per second.",
                code="key_rate_exceeded",
            )
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1

    def _use(self, key_id: str, rate: int) -> _Use:
        use = self._used.get(key_id)
        if use is None:
            use = self._used[key_id] = _Use(float(rate), self._clock())
            if len(self._used) > KEYS_KEPT:
                self._forget()
        else:
            self._used.move_to_end(key_id)
        return use

    def _forget(self) -> None:
        """The longest unused that has nothing under way."""
        idle = next((key for key, use in self._used.items() if not use.running), None)
        if idle is not None:
            del self._used[idle]

    def _take(self, use: _Use, rate: int) -> bool:
        now = self._clock()
        use.tokens = min(float(rate), use.tokens + (now - use.at) * rate)
        use.at = now
        if use.tokens < 1.0:
            return False
        use.tokens -= 1.0
        return True

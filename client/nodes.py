"""Which node a call goes to: reads in turn, writes to the leader, none to one that seems dead.

Each node has a circuit breaker:

    closed ──failure──> open for 0.5 s, doubled each time up to 30 s, with jitter
       ^                  │ the time is over
       └──any answer── half open: one call may try it, the others still go elsewhere

Invariant: with one node, or with all of them open, there is still a choice, the node whose time is
over first. Nobody is refused by a guess of ours.

The nodes of a cluster tell in each answer which nodes there are (the header NearQL-Nodes). Whoever
was given the address of one of them then uses all. An address that no node calls its own is a
balancer's, or of another network: then the nodes' addresses may lead nowhere from here, and what
was given stays.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from nearql.client.errors import UsageError
from nearql.client.network import Address

OPEN_FIRST = 0.5  # seconds that a node is left alone after its first failure
OPEN_LONGEST = 30.0


@dataclass(slots=True)
class _Circuit:
    """failures: in a row. open_until: monotonic seconds; 0 where the last answer was one."""

    failures: int = 0
    open_until: float = 0.0


class Nodes:
    """The nodes that a transport was given; safe to share between threads.

    Args:
        addresses: at least one, each once.
        clock: monotonic seconds. jitter: share of the variable half of a time.
    """

    def __init__(
        self,
        addresses: Iterable[Address],
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.given = self.addresses = tuple(dict.fromkeys(addresses))
        self.is_cluster = False  # a node has told of others
        self._told = ""
        self._names = {_plain(address) for address in self.given}  # given, or told by a node
        self.leader: Address | None = None  # where the last redirect of a write led
        self._circuits = {address: _Circuit() for address in self.addresses}
        self._turns = itertools.count()
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()

    def learn(self, told: str) -> None:
        """Take in what a node says of all nodes: their URLs, with commas between."""
        if told == self._told:
            return
        with self._lock:
            self._told, self.is_cluster = told, True
            found = tuple(dict.fromkeys(_addresses(told)))
            names = {_plain(address) for address in found}
            self._names = names.union(map(_plain, self.given))
            if not any(_plain(address) in names for address in self.given):
                return
            plain = {_plain(address): address for address in self.given}
            known = tuple(plain.get(_plain(address), address) for address in found)
            if all(address.scheme == "https" for address in self.given):
                known = tuple(address for address in known if address.scheme == "https")
            self.addresses = known
            for address in known:
                self._circuits.setdefault(address, _Circuit())

    def is_known(self, address: Address) -> bool:
        """Whether the address was given, or a node called it one of the cluster's."""
        return _plain(address) in self._names

    def choose(self, *, writes: bool, tried: Collection[Address] = ()) -> Address:
        """Where to send a call that has been at `tried` in vain."""
        if len(self.addresses) == 1 and not (writes and self.leader):
            return self.addresses[0]
        with self._lock:
            leader = self.leader
            if writes and leader is not None and leader not in tried:
                return leader
            return self._next(tried)

    def _next(self, tried: Collection[Address]) -> Address:
        now, turn = self._clock(), next(self._turns)
        count = len(self.addresses)
        order = [self.addresses[(turn + i) % count] for i in range(count)]
        fresh = [address for address in order if address not in tried] or order
        ready = [address for address in fresh if self._circuits[address].open_until <= now]
        if not ready:
            return min(fresh, key=lambda address: self._circuits[address].open_until)
        circuit = self._circuits[ready[0]]
        if circuit.failures:  # half open: this call tries it, and the next ones don't
            circuit.open_until = now + self._open_for(circuit)
        return ready[0]

    def has_other(self, tried: Collection[Address]) -> bool:
        """Whether there is a node that was not tried."""
        return any(address not in tried for address in self.addresses)

    def failed(self, address: Address) -> None:
        """The node did not answer: leave it alone for a while."""
        with self._lock:
            if self.leader == address:
                self.leader = None
            circuit = self._circuits.get(address)
            if circuit is not None:
                circuit.failures += 1
                circuit.open_until = self._clock() + self._open_for(circuit)

    def answered(self, address: Address) -> None:
        """The node answered, whatever it said."""
        circuit = self._circuits.get(address)
        if circuit is not None and circuit.failures:
            with self._lock:
                circuit.failures, circuit.open_until = 0, 0.0

    def _open_for(self, circuit: _Circuit) -> float:
        half: float = min(OPEN_LONGEST, OPEN_FIRST * 2.0 ** (circuit.failures - 1)) / 2
        return half + half * self._jitter()


def _addresses(told: str) -> Iterable[Address]:
    for url in told.split(","):
        try:
            yield Address.parse(url.strip())
        except UsageError:  # a node of a later version may tell more than addresses
            continue


def _plain(address: Address) -> tuple[str, int, str]:
    """What makes two addresses the same node: localhost is 127.0.0.1."""
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return host, address.port, address.path

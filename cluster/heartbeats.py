"""Heartbeats of nodes to the controller, and its answers.

    node        -> controller   "beat":  incarnation, whom I hear, ends of leaderless shards, echo
    controller  -> node         "echo":  reign, its clock

A node sends the newest echo back as it came. So the controller knows that the node hears it, too: a
heartbeat whose echo is of another reign or older than `ECHO_S` does not count as a sign of life,
except during a node's first moments. A reign is one stretch of leading; each has a random name.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgpack
import structlog

from nearql.cluster.cluster import Cluster
from nearql.cluster.failover import Heard, Observations
from nearql.cluster.metadata.state import Metadata

log = structlog.get_logger("nearql.cluster")

BEAT_S = 0.5
ECHO_S = 1.5
BEAT, ECHO = "node_beat", "node_echo"
Ends = Callable[[], Mapping[str, tuple[int, int]]]


class Beats(Protocol):
    """The way to other nodes for small messages that may be lost; `cluster.replication`'s link."""

    def tell(self, node_id: str, topic: str, payload: bytes) -> bool:
        """Send, if there is a connection."""

    def hear(self, topic: str, listener: Callable[[str, bytes], None]) -> None:
        """Call `listener` with a node's id and each message of it; it must return at once."""

    def heard(self) -> Mapping[str, float]:
        """Seconds since anything came from each node."""


def boottime() -> float:
    """Seconds of a clock that also goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hearing:
    """When each node was last heard, also of those whose connections have ended since.

    Implements `Beats` over another one. It knows what it saw when it was asked: ask often.
    """

    def __init__(self, beats: Beats, clock: Callable[[], float] = boottime) -> None:
        self._beats, self._clock = beats, clock
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()
        self.tell, self.hear = beats.tell, beats.hear

    def heard(self) -> Mapping[str, float]:
        """Seconds since anything came from each node."""
        with self._lock:
            now = self._clock()
            for node_id, seconds in self._beats.heard().items():
                self._last[node_id] = max(now - seconds, self._last.get(node_id, 0.0))
            return {node_id: now - last for node_id, last in self._last.items()}


@dataclass(frozen=True, slots=True)
class Reign:
    """One stretch of leading. name: random; since: when it began, by `boottime`."""

    name: bytes
    since: float


class Ear:
    """What the controller hears during its reign. Thread-safe."""

    def __init__(self, beats: Beats, clock: Callable[[], float] = boottime) -> None:
        self._beats, self._clock = beats, clock
        self._lock = threading.Lock()
        self._reign: Reign | None = None
        self._heard: dict[str, Heard] = {}
        self._first: dict[tuple[str, int], float] = {}
        beats.hear(BEAT, self._on_beat)

    def begin(self) -> None:
        """Forget everything, and listen from now on."""
        with self._lock:
            self._reign = Reign(os.urandom(8), self._clock())
            self._heard, self._first = {}, {}

    def end(self) -> None:
        """Answer nobody any more."""
        with self._lock:
            self._reign = None

    @property
    def reigns(self) -> bool:
        """Whether `begin` was called, and `end` was not."""
        return self._reign is not None

    def observations(self, me: str) -> Observations | None:
        """What was heard so far; None outside of a reign."""
        with self._lock:
            if self._reign is None:
                return None
            return Observations(me, self._reign.since, dict(self._heard), self._beats.heard())

    def _on_beat(self, node_id: str, payload: bytes) -> None:
        now = self._clock()
        beat = _unpacked(payload)
        with self._lock:
            reign = self._reign
            if reign is None or beat is None:
                return
            self._heard[node_id] = self._noted(node_id, beat, now, reign)
        self._beats.tell(node_id, ECHO, msgpack.packb([reign.name, now]))

    def _noted(self, node_id: str, beat: dict[str, Any], now: float, reign: Reign) -> Heard:
        incarnation = int(beat["incarnation"])
        first = self._first.setdefault((node_id, incarnation), now)
        name, told = beat["echo"] or (b"", 0.0)
        fresh = name == reign.name and now - told <= ECHO_S
        before = self._heard.get(node_id)
        live_at = now if fresh or now - first <= ECHO_S else before.live_at if before else first
        ends = {shard: (int(epoch), int(lsn)) for shard, (epoch, lsn) in beat["ends"].items()}
        return Heard(incarnation, now, live_at, beat["hears"], ends)


class Voice:
    """Tells the controller that this node lives, from a thread of its own."""

    def __init__(self, cluster: Cluster, beats: Beats, ends: Ends = dict) -> None:
        """ends: (epoch, LSN) of this node's copies, by shard uuid."""
        self._cluster, self._beats, self._ends = cluster, beats, ends
        self._echo: list[Any] | None = None
        self._stopped = threading.Event()
        beats.hear(ECHO, self._on_echo)
        self._thread = threading.Thread(target=self._run, name="node-beats", daemon=True)

    def start(self) -> None:
        """Begin to speak; this process must have registered."""
        self._thread.start()

    def close(self) -> None:
        """Say nothing more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_S):
            try:
                self._cluster.register_if_fenced()
                self.speak()
            except Exception as error:  # a node that falls silent for a bug would be fenced
                log.exception("beat_failed", reason=str(error))

    def speak(self) -> None:
        """One heartbeat to whoever leads, if that is another node."""
        leader, hears = self._cluster.leader(), self._beats.heard()
        if leader is None or leader.node_id == self._cluster.node_id:
            return
        wanted = leaderless(self._cluster.metadata.state, hears)
        beat = {
            "incarnation": self._cluster.incarnation,
            "hears": dict(hears),
            "ends": {shard: end for shard, end in self._ends().items() if shard in wanted},
            "echo": self._echo,
        }
        self._beats.tell(leader.node_id, BEAT, msgpack.packb(beat))

    def _on_echo(self, _node_id: str, payload: bytes) -> None:
        echo = msgpack.unpackb(payload)
        if isinstance(echo, list) and len(echo) == 2:
            self._echo = echo


def leaderless(state: Metadata, hears: Mapping[str, float]) -> set[str]:
    """Shards whose primary is gone or was not heard for a while: their logs' ends matter soon."""
    lost = {node.node_id for node in state.nodes.values() if node.fenced}
    lost |= {node_id for node_id, seconds in hears.items() if seconds > 2 * BEAT_S}
    return {
        shard.uuid
        for row in state.tables.values()
        for shard in row.shards
        if shard.primary is None or shard.primary in lost
    }


def with_own_ends(
    seen: Observations, incarnation: int, now: float, ends: Mapping[str, tuple[int, int]]
) -> Observations:
    """The observations with the controller's own copies among them."""
    own = Heard(incarnation, now, now, seen.hears, ends)
    return replace(seen, nodes={**seen.nodes, seen.me: own})


def _unpacked(payload: bytes) -> dict[str, Any] | None:
    try:
        beat = msgpack.unpackb(payload)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    known = isinstance(beat, dict) and {"incarnation", "hears", "ends", "echo"} <= beat.keys()
    return beat if known else None

"""Nodes that don't vote, as a voter's sidecar serves them: on the voters' port, over the same TLS.

    hello {..., "guest": true} -> | <- welcome |      the name is proved by the certificate

    ["follow"]            <- ["state", index, state], then ["applied", index, command] ... and
                             ["status", {...}] twice a second, which also says "still here"
    ["submit", command]   <- ["done", outcome, result, index]
    ["barrier"]           <- ["done", outcome, None, index]

A connection carries one request. Who is no member may submit one thing, a registration with a
one-time token: that is how a node joins. A guest that reads too slowly is cut off and comes again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from nearql.cluster.metadata.codec import decode_command
from nearql.cluster.metadata.commands import RegisterNode
from nearql.cluster.metadata.raft.library import Outcome
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import Corruption

BEHIND = 10_000  # frames that may wait for a guest
STATUS_S = 0.5
ANSWER_S = 10.0


class Voter(Protocol):
    """What guests ask of."""

    @property
    def state(self) -> Metadata:
        """What this voter has applied."""

    def submit(self, command: bytes, done: Callable[[Outcome, Any], None]) -> None:
        """Propose a command; b"" is a barrier."""

    def begin(self, start: Callable[[int, bytes], None]) -> None:
        """Call `start` with (index, the whole state), in the thread that applies."""

    def index(self) -> int:
        """Up to where this voter has applied."""

    def brief(self) -> dict[str, Any]:
        """leader and term."""


class Guests:
    """Thread-safe; each guest's connection has a thread of its own, which calls `serve`."""

    def __init__(self, voter: Voter) -> None:
        self._voter = voter
        self._lock = threading.Lock()
        self._followers: list[queue.Queue[tuple[Any, ...]]] = []

    def tell(self, *frame: Any) -> None:
        """Pass on what was applied, in the thread that applies."""
        with self._lock:
            followers = [*self._followers]
        for follower in followers:
            try:
                follower.put_nowait(frame)
            except queue.Full:
                self._forget(follower)  # its thread notices, and hangs up

    def serve(self, name: str, request: list[Any], send: Callable[..., None]) -> str:
        """Answer one request; a word if it was refused. send: raises OSError once nobody reads."""
        kind, *arguments = request
        if kind == "submit" and len(arguments) == 1 and isinstance(arguments[0], bytes):
            refusal = self._refusal(name, arguments[0])
            return refusal or self._ask(arguments[0], send)
        if not self._is_member(name):
            return "not_a_member"
        if kind == "barrier":
            return self._ask(b"", send)
        return self._follow(send) if kind == "follow" else "malformed"

    def _is_member(self, name: str) -> bool:
        return any(row.name == name for row in self._voter.state.nodes.values())

    def _refusal(self, name: str, payload: bytes) -> str:
        try:
            command = decode_command(payload)
        except Corruption:
            return "malformed"
        if isinstance(command, RegisterNode):
            if command.name != name:
                return "name"
            return "" if self._is_member(name) or command.join_digest else "not_a_member"
        return "" if self._is_member(name) else "not_a_member"

    def _ask(self, command: bytes, send: Callable[..., None]) -> str:
        ended, answer = threading.Event(), []

        def done(outcome: Outcome, result: Any) -> None:
            answer.append((outcome.value, result, self._voter.index()))
            ended.set()

        self._voter.submit(command, done)
        ended.wait(ANSWER_S)
        send("done", *(answer[0] if answer else (Outcome.UNKNOWN.value, None, 0)))
        return ""

    def _follow(self, send: Callable[..., None]) -> str:
        follower: queue.Queue[tuple[Any, ...]] = queue.Queue(BEHIND)

        def start(index: int, state: bytes) -> None:
            follower.put(("state", index, state))
            with self._lock:
                self._followers.append(follower)

        self._voter.begin(start)
        try:
            while True:
                send("status", self._voter.brief())
                self._pass_on(follower, send)
        finally:
            self._forget(follower)

    def _pass_on(self, follower: queue.Queue[tuple[Any, ...]], send: Callable[..., None]) -> None:
        """Send what comes within STATUS_S."""
        until = time.monotonic() + STATUS_S
        try:
            while (left := until - time.monotonic()) > 0:
                send(*follower.get(timeout=left))
                if follower.full():
                    raise OSError("the guest reads too slowly")
        except queue.Empty:
            return

    def _forget(self, follower: queue.Queue[tuple[Any, ...]]) -> None:
        with self._lock:
            self._followers = [other for other in self._followers if other is not follower]

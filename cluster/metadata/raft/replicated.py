"""Metadata of a cluster, as the data process sees it: `log.MetadataLog` through the sidecar.

The sidecar tells every command that it applies; this end applies them to its own state, so that
reading it costs nothing. If the sidecar ends it is started again, and the state stays readable
meanwhile; `ticking` says whether it may be trusted to be recent enough to accept writes.

A proposal keeps its request id through every retry, so that one whose fate is unknown is asked for
again rather than done again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog

from nearql.cluster.clock import ClockWatch
from nearql.cluster.metadata.codec import MAX_BYTES, encode_command
from nearql.cluster.metadata.commands import Command, Initialise, Result
from nearql.cluster.metadata.local import node_identity
from nearql.cluster.metadata.raft.frames import Closed, Frames
from nearql.cluster.metadata.raft.library import Outcome
from nearql.cluster.metadata.raft.sidecar import SidecarConfig
from nearql.cluster.metadata.raft.told import Told
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import TooLarge, Unavailable, WriteUnknown
from nearql.engine.storage.files import FileSystem

log = structlog.get_logger("nearql.metadata")

STALE_S = 2.0  # without a tick for so long, the sidecar counts as gone
HUNG_S = 60.0  # and is ended, if it says nothing at all for so long
_RETRY_S = 0.05
_ATTEMPT_S = 2.0
_HAND_OVER_S = 1.0
_RESTART_S, _RESTART_LIMIT_S = 0.2, 10.0


REFUSED_BY_PEER = {
    "by_peer_duplicate_name": "Another node of this name is connected. Stop one of them, and give "
    "each node a name and a certificate of its own.",
    "by_peer_protocol": "Versions that are too far apart. Upgrade one version after the other, one "
    "node after the other.",
    "by_peer_cluster": "It belongs to another cluster. Look at cluster.voters, or put this node's "
    "data directory aside.",
    "by_peer_name": "The certificate does not have node.name. `nearql cluster certs` makes one.",
    "by_peer_not_a_voter": "Its cluster.voters lacks this node. The list is the same on all.",
}


@dataclass
class _Waiting:
    """A request to the sidecar, and what became of it."""

    number: int
    ended: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome = Outcome.UNKNOWN
    result: Any = None


class ReplicatedMetadata:
    """Implements `log.MetadataLog` for a voter of a cluster. Thread-safe."""

    def __init__(self, config: SidecarConfig, fs: FileSystem) -> None:
        """Start the sidecar. The state is empty until the first was told: see `wait_ready`."""
        self.config = config
        fs.make_directory(Path(config.directory))
        self._node_id = node_identity(Path(config.directory), fs)
        self.restarts = 0
        self.fatal = ""  # the last reason for which a sidecar gave up, while none runs
        self.fatal_code = ""
        self.clock = ClockWatch()
        self.status: dict[str, Any] = {}
        self._copy = Told()
        self._ticked, self._ticks = 0.0, -1
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._frames: Frames | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False  # the sidecar that runs has told its state
        self._closed = threading.Event()
        self._supervisor = threading.Thread(
            target=self._supervise, name="metadata-sidecar", daemon=True
        )
        self._supervisor.start()

    @property
    def node_id(self) -> str:
        """See `log.MetadataLog.node_id`."""
        return self._node_id

    @property
    def state(self) -> Metadata:
        """The newest state that this node has applied."""
        return self._copy.state

    @property
    def refused_registrations(self) -> Mapping[str, int]:
        """Of nodes that were not let in, by code, as far as applied by this process."""
        return self._copy.refused

    @property
    def ticking(self) -> bool:
        """Whether the sidecar runs and has ticked within STALE_S; else accept no write."""
        return (
            self._ready and self._frames is not None and time.monotonic() - self._ticked < STALE_S
        )

    @property
    def leading(self) -> bool:
        """Whether this node's sidecar believes to lead; a reason to route, never an authority."""
        return self.ticking and bool(self.status.get("leading"))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    @property
    def sidecar_pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def propose(self, command: Command, *, timeout_ms: int = 5000) -> Result:
        """Commit and apply; see `log.MetadataLog.propose`."""
        payload = encode_command(command)
        if len(payload) > MAX_BYTES:
            raise TooLarge(
                f"This change of metadata has {len(payload)} bytes; at most {MAX_BYTES} are "
                "possible. Use fewer columns, or shorter defaults and checks."
            )
        return Result(*self._request(("submit", payload), timeout_ms))

    def barrier(self, *, timeout_ms: int = 5000) -> None:
        """Return when `state` has everything that was committed before this call."""
        self._request(("barrier",), timeout_ms)

    def watch(self, listener: Callable[[Metadata], None]) -> None:
        """Call `listener` with each new state, in order, from the thread that applies."""
        self._copy.watch(listener)

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the sidecar has told what its disk holds.

        Raises:
            Unavailable: it did not within the time; the reason, if it gave one.
        """
        if not self._copy.first.wait(timeout_s):
            reason = self.fatal or "it has not answered"
            raise Unavailable(
                f"The metadata sidecar did not start within {timeout_s:g} s: {reason}.",
                code="metadata_unavailable",
            )

    def open(self, timeout_s: float = 60.0) -> ReplicatedMetadata:
        """Wait until the state is recent, and give a new cluster its identity; self.

        Raises:
            Unavailable: no sidecar or no leader within the time.
        """
        self.wait_ready(timeout_s)
        self.barrier(timeout_ms=int(timeout_s * 1000))
        if not self.state.cluster_id:
            # The same request of every voter: the first one counts.
            first = Initialise(request_id="initialise", cluster_id=str(uuid.uuid4()))
            self.propose(first, timeout_ms=int(timeout_s * 1000))
        return self

    def close(self) -> None:
        """Let another voter lead, and end the sidecar; who waits is told the outcome is unknown."""
        self._hand_over()
        self._closed.set()
        with self._lock:
            frames = self._frames
        if frames is not None:
            frames.abort()
        self._supervisor.join()

    def _hand_over(self) -> None:
        """A leader that ends by itself costs the others no election timeout."""
        deadline = time.monotonic() + _HAND_OVER_S
        while self.leading and self.status.get("links_up") and time.monotonic() < deadline:
            with self._lock:
                frames = self._frames
            if frames is not None:
                with contextlib.suppress(Closed):
                    frames.write(next(self._numbers), "hand_over")
            self._closed.wait(_RETRY_S)

    # ---- asking -----------------------------------------------------------------------------

    def _request(self, request: tuple[Any, ...], timeout_ms: int) -> Any:
        """Ask until it is applied or the time is up."""
        deadline = time.monotonic() + timeout_ms / 1000
        perhaps = False
        while not self._closed.is_set():
            waiting = self._ask(request)
            if waiting is not None:
                # A command that was lost on its way to the leader is never answered: ask again.
                waiting.ended.wait(min(_ATTEMPT_S, max(0.0, deadline - time.monotonic())))
                with self._lock:
                    self._waiting.pop(waiting.number, None)
                if waiting.outcome is Outcome.APPLIED:
                    return waiting.result
                perhaps = perhaps or waiting.outcome is Outcome.UNKNOWN
            if time.monotonic() + _RETRY_S >= deadline:
                break
            self._closed.wait(_RETRY_S)
        if perhaps and request[0] == "submit":
            raise WriteUnknown(
                f"No answer from the metadata's voters within {timeout_ms} ms: the change may "
                "have happened. Look, or ask again with the same request id."
            )
        raise Unavailable(self._why(), code="no_leader")

    def _ask(self, request: tuple[Any, ...]) -> _Waiting | None:
        """Send one request; None where there is no sidecar to ask."""
        with self._lock:
            frames = self._frames
            if frames is None or not self._ready:
                return None  # nothing is sent to one that may yet refuse to start
            waiting = _Waiting(next(self._numbers))
            self._waiting[waiting.number] = waiting
        try:
            frames.write(waiting.number, *request)
        except Closed:
            waiting.ended.set()
        return waiting

    def _why(self) -> str:
        if self._closed.is_set():
            return "The node is shutting down."
        if not self.ticking:
            return f"The metadata sidecar is not running{': ' + self.fatal if self.fatal else ''}."
        up = self.status.get("links_up", [])
        return (
            f"The metadata has no leader: {len(up) + 1} of {len(self.config.voters)} voters can "
            "be reached from here, and a majority is needed. Start the others, or look why "
            "they can't be reached."
        )

    # ---- the sidecar ------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Run sidecars, one after the other. The kernel ends them if this thread should die."""
        pause = _RESTART_S
        while not self._closed.is_set():
            self._ready = False
            ours, theirs = socket.socketpair()
            ours.settimeout(HUNG_S)  # it tells its status a few times a second
            with theirs:
                process = self._start(theirs)
            frames = Frames(ours)
            with self._lock:
                self._frames, self._process = frames, process
            self._listen(frames)
            with self._lock:
                self._frames = None
                lost, self._waiting = list(self._waiting.values()), {}
            for waiting in lost:
                waiting.ended.set()
            frames.close()
            process.kill()
            code = process.wait()
            if not self._closed.is_set():
                self.restarts += 1
                log.error("metadata_sidecar_ended", exit_code=code, reason=self.fatal)
                pause = _RESTART_S if self._ready else min(2 * pause, _RESTART_LIMIT_S)
                self._closed.wait(pause)

    def _start(self, connection: socket.socket) -> subprocess.Popen[bytes]:
        text = json.dumps(asdict(self.config))
        descriptor = connection.fileno()
        return subprocess.Popen(
            [sys.executable, "-m", "nearql.cluster.metadata.raft.sidecar",
             str(descriptor), str(os.getpid()), text],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _listen(self, frames: Frames) -> None:
        """Hear what the sidecar tells, until it ends."""
        if self._closed.is_set():
            return
        hear: dict[str, Callable[..., None]] = {
            "state": self._on_state, "applied": self._copy.on_applied, "done": self._on_done,
            "status": self._on_status, "fatal": self._on_fatal,
        }  # fmt: skip
        try:
            while True:
                kind, *arguments = frames.read()
                hear[kind](*arguments)
        except Closed:
            return

    def _on_state(self, index: int, dumped: bytes) -> None:
        self._copy.on_state(index, dumped)
        self._ready = True
        self.fatal = self.fatal_code = ""

    def _on_done(self, number: int, outcome: str, result: Any) -> None:
        with self._lock:
            waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.outcome, waiting.result = Outcome(outcome), result
            waiting.ended.set()

    def _on_status(self, status: dict[str, Any]) -> None:
        self.clock.look()
        before, self.status = self.status, status
        self._tell_refusals(before.get("refused", {}), status["refused"])
        if status["ticks"] != self._ticks:
            self._ticks, self._ticked = status["ticks"], time.monotonic()

    def _tell_refusals(self, before: dict[str, int], now: dict[str, int]) -> None:
        """Log what another voter refuses this one for, once until the sidecar starts anew."""
        for word, text in REFUSED_BY_PEER.items():
            if now.get(word) and not before.get(word):
                log.error("refused_by_voter", reason=word.removeprefix("by_peer_"), text=text)

    def _on_fatal(self, reason: str, code: str = "") -> None:
        self.fatal, self.fatal_code = reason, code

"""Metadata of a node that does not vote: `log.MetadataLog`, told by one of the voters.

It follows one voter, the next one if that falls silent, and asks it for what it proposes. It starts
no sidecar and keeps nothing on disk but its node id: a node that starts needs a voter anyway to say
what is committed by now.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import structlog

from nearql.cluster.clock import ClockWatch
from nearql.cluster.metadata.codec import encode_command
from nearql.cluster.metadata.commands import Command, Result
from nearql.cluster.metadata.local import node_identity
from nearql.cluster.metadata.raft.frames import MAX_FRAME_BYTES
from nearql.cluster.metadata.raft.library import Outcome
from nearql.cluster.metadata.raft.messages import MAX_MESSAGE_BYTES
from nearql.cluster.metadata.raft.replicated import STALE_S
from nearql.cluster.metadata.raft.streams import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    Patience,
    Refused,
    abort,
    dial,
    receive,
    send,
)
from nearql.cluster.metadata.raft.told import Told
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import InvalidRequest, Unavailable, WriteUnknown
from nearql.engine.storage.files import FileSystem

log = structlog.get_logger("nearql.metadata")

_RETRY_S = 0.2
_SILENCE_S = 5.0
_ATTEMPT_S = 12.0


@dataclass(frozen=True, slots=True)
class FollowConfig:
    """name: this node's; voters: (host, port) by name; directory: of the node's identity."""

    name: str
    voters: Mapping[str, tuple[str, int]]
    directory: str
    tls: TlsFiles


class FollowedMetadata:
    """Implements `log.MetadataLog`. Thread-safe."""

    def __init__(self, config: FollowConfig, fs: FileSystem) -> None:
        """Begin to follow. The state is empty until a voter has told his: see `open`."""
        fs.make_directory(Path(config.directory))
        self.config = config
        self.node_id = node_identity(Path(config.directory), fs)
        self.fatal = ""  # why no voter lets this node in
        self.status: dict[str, Any] = {}
        self.clock = ClockWatch()
        self._copy = Told()
        self._news = threading.Condition()
        self._heard_at = 0.0
        self._closed = threading.Event()
        self._stream: ssl.SSLSocket | None = None
        self._copy.watch(self._on_news)
        self._thread = threading.Thread(target=self._run, name="metadata-follower", daemon=True)
        self._thread.start()

    @property
    def state(self) -> Metadata:
        """The newest state that a voter has told."""
        return self._copy.state

    @property
    def refused_registrations(self) -> Mapping[str, int]:
        """Of nodes that were not let in, by code, as far as applied by this process."""
        return self._copy.refused

    @property
    def ticking(self) -> bool:
        """Whether a voter spoke within STALE_S; else accept no write."""
        return self._copy.first.is_set() and time.monotonic() - self._heard_at < STALE_S

    @property
    def leading(self) -> bool:
        """Never: who does not vote does not lead."""
        return False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def open(self, timeout_s: float = 60.0) -> FollowedMetadata:
        """Wait until the state is recent; self.

        Raises:
            Unavailable: no voter, or none that lets this node in, within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._copy.first.wait(_RETRY_S) and not self.fatal:
            if time.monotonic() > deadline:
                break
        if not self._copy.first.is_set():
            reason = self.fatal or "none can be reached"
            raise Unavailable(f"No voter tells this node the metadata: {reason}.", code="no_leader")
        self.barrier(timeout_ms=max(1, int((deadline - time.monotonic()) * 1000)))
        return self

    def propose(self, command: Command, *, timeout_ms: int = 5000) -> Result:
        """Commit and apply; see `log.MetadataLog.propose`."""
        return Result(*self._asked(["submit", encode_command(command)], timeout_ms))

    def barrier(self, *, timeout_ms: int = 5000) -> None:
        """Return when `state` has everything that was committed before this call."""
        self._asked(["barrier"], timeout_ms)

    def watch(self, listener: Any) -> None:
        """Call `listener` with each new state, in order, from the following thread."""
        self._copy.watch(listener)

    def close(self) -> None:
        """Follow nobody any more."""
        self._closed.set()
        if (stream := self._stream) is not None:
            abort(stream)
        self._thread.join()

    # ---- asking ---------------------------------------------------------------------------------

    def _asked(self, request: list[Any], timeout_ms: int) -> Any:
        """Ask one voter after the other until one has it applied, and this node, too."""
        deadline = time.monotonic() + timeout_ms / 1000
        perhaps = False
        for voter in self._voters_for_ever():
            left = deadline - time.monotonic()
            if left <= 0 or self._closed.is_set():
                break
            outcome, result, index = self._ask(voter, request, left)
            if outcome is Outcome.APPLIED:
                if not (result and result[0]):  # a refusal changed nothing: nothing to wait for
                    self._wait_for(index, deadline)
                return result
            perhaps = perhaps or outcome is Outcome.UNKNOWN
            self._closed.wait(min(_RETRY_S, max(0.0, deadline - time.monotonic())))
        if perhaps and request[0] == "submit":
            raise WriteUnknown(
                f"No answer from the metadata's voters within {timeout_ms} ms: the change may "
                "have happened. Look, or ask again with the same request id."
            )
        raise Unavailable(
            "No voter of the metadata answers, or they have no leader: a majority of them must "
            f"run. {self.fatal}",
            code="no_leader",
        )

    def _ask(self, voter: str, request: list[Any], left_s: float) -> tuple[Outcome, Any, int]:
        sent = False
        try:
            with self._connected(voter) as stream:
                stream.settimeout(min(left_s, _ATTEMPT_S))
                sent = True
                send(stream, msgpack.packb(request))
                answer = msgpack.unpackb(receive(stream, MAX_MESSAGE_BYTES))
        except (OSError, InvalidRequest, Refused):
            return (Outcome.UNKNOWN if sent else Outcome.REFUSED), None, 0
        if answer[0] == "refused":
            self.fatal = str(answer[1])
            return Outcome.REFUSED, None, 0
        return Outcome(answer[1]), answer[2], answer[3]

    def _wait_for(self, index: int, deadline: float) -> None:
        left = max(0.0, deadline - time.monotonic())
        with self._news:
            if not self._news.wait_for(lambda: self._copy.index >= index, left):
                raise WriteUnknown("The change is committed, and has not arrived here yet.")

    def _on_news(self, _state: Metadata) -> None:
        with self._news:
            self._news.notify_all()

    # ---- following ------------------------------------------------------------------------------

    def _voters_for_ever(self) -> Iterator[str]:
        """Names, the leader's first."""
        names = sorted(self.config.voters, key=lambda name: name != self.status.get("leader"))
        return itertools.cycle(names)

    def _run(self) -> None:
        for voter in self._voters_for_ever():
            if self._closed.is_set():
                return
            try:
                with self._connected(voter) as stream:
                    self._follow(voter, stream)
            except (OSError, InvalidRequest, Refused) as error:
                log.info("voter_not_followed", voter=voter, reason=str(error))
            self._closed.wait(_RETRY_S)

    @contextmanager
    def _connected(self, voter: str) -> Iterator[ssl.SSLSocket]:
        hello = {
            "protocol": PROTOCOL, "oldest": OLDEST_PROTOCOL, "name": self.config.name, "to": voter,
            "guest": True, "cluster": self.state.cluster_id,
        }  # fmt: skip
        stream, _ = dial(self.config.voters[voter], hello, self.config.tls, Patience())
        with stream:
            yield stream

    def _follow(self, voter: str, stream: ssl.SSLSocket) -> None:
        stream.settimeout(_SILENCE_S)
        self._stream = stream
        send(stream, msgpack.packb(["follow"]))
        hear: dict[str, Callable[..., None]] = {
            "state": self._copy.on_state, "applied": self._copy.on_applied,
            "status": self._on_status, "refused": self._on_refused,
        }  # fmt: skip
        while not self._closed.is_set():
            kind, *arguments = msgpack.unpackb(receive(stream, MAX_FRAME_BYTES))
            hear[kind](*arguments)
            self._heard_at = time.monotonic()

    def _on_status(self, status: dict[str, Any]) -> None:
        self.status, self.fatal = status, ""
        self.clock.look()

    def _on_refused(self, word: str) -> None:
        self.fatal = word
        raise Refused(word)

"""The sidecar: one voter of the metadata in a process of its own, child of the data process.

A long JSON parse or sort in the data process holds Python's lock for hundreds of milliseconds; in
one process with Raft that looks like a dead leader to the others. Here nothing but Raft runs.

The only connection is the socket it was born with:

    in    [id, "submit", command]        propose a command
          [id, "barrier"]                wait until all that was committed before is applied
          [id, "hand_over"]              if this voter leads: let another one lead
    out   ["state", index, state]        once, and when a leader's snapshot replaced it
          ["applied", index, command]    each command after that, in order
          ["done", id, outcome, result]  a request's end, behind what it applied
          ["status", {...}]              a few times a second
          ["fatal", reason, code]        the last word

It ends when that socket closes, so that no voter outlives its data process; and by exit code 70
where its disk failed or its log is damaged: what it says then is for the operator.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nearql.cluster.metadata.codec import decode_command, from_plain, pack, to_plain, unpack
from nearql.cluster.metadata.local import node_identity
from nearql.cluster.metadata.raft import library
from nearql.cluster.metadata.raft.frames import Closed, Frames
from nearql.cluster.metadata.raft.guests import Guests
from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.library import Outcome, Timing
from nearql.cluster.metadata.raft.member import BARRIER, MemberConfig, RaftMember
from nearql.cluster.metadata.raft.mesh import Mesh, MeshConfig
from nearql.cluster.metadata.state import Metadata, apply
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import NearQLError
from nearql.engine.storage.files import FileSystem, LocalFileSystem, write_atomic

FATAL_EXIT = 70
DISK_FULL, DAMAGED = "storage_full", "metadata_corrupt"  # codes of last words
STATUS_S = 0.2
IDLE_TICK_S = 0.05
_TOLD_AT_ONCE = 500
_LEARNING = "learning"  # a file: this disk was empty when others knew the cluster
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class SidecarConfig:
    """What the data process tells its sidecar; plain values, no secrets.

    name: this voter's; voters: (host, port) by name, this one included; listen: (host, port).
    """

    name: str
    voters: dict[str, tuple[str, int]]
    listen: tuple[str, int]
    directory: str
    ca_file: str
    cert_file: str
    key_file: str
    bootstrap: bool = False
    election_min_s: float = 1.0
    election_max_s: float = 2.5
    compact_entries: int = 5000


class MetadataMachine:
    """The metadata state machine, telling what it applies."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.state = Metadata()
        self.index = 0
        self._tell = tell

    def apply(self, index: int, command: bytes) -> list[Any]:
        """See `member.Machine`; the result as plain values."""
        self.state, result = apply(self.state, decode_command(command))
        self.index = index
        self._tell("applied", index, command)
        return [result.code, result.detail, result.value]

    def dump(self) -> bytes:
        """See `member.Machine`."""
        return pack(to_plain(self.state))

    def parse(self, dumped: bytes) -> Metadata:
        """See `member.Machine`."""
        return from_plain(Metadata, unpack(dumped))

    def adopt(self, index: int, state: Metadata) -> None:
        """See `member.Machine`."""
        self.state, self.index = state, index
        self.tell_state()

    def tell_state(self) -> None:
        """The whole state, for who has none."""
        self._tell("state", self.index, self.dump())


class Sidecar:
    """Everything of the process but its exit."""

    def __init__(self, config: SidecarConfig, frames: Frames, fs: FileSystem) -> None:
        """Recover from the disk and listen; raises NearQLError, OSError."""
        library.self_check()
        self._config, self._frames, self._fs = config, frames, fs
        self._out: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._marker = Path(config.directory) / _LEARNING
        self.machine = MetadataMachine(self._tell_all)
        self.guests = Guests(self)
        others = tuple(sorted(name for name in config.voters if name != config.name))
        path = Path(config.directory) / "log"
        fs.make_directory(path.parent)
        if others and not fs.exists(path):
            write_atomic(fs, self._marker, b"")  # before the log: never a log that forgot to learn
        journal = RaftJournal(path, fs, self.fatal)
        self._marked = fs.exists(self._marker)
        self._may_found = config.bootstrap
        tls = TlsFiles(Path(config.ca_file), Path(config.cert_file), Path(config.key_file))
        peers = {name: config.voters[name] for name in others}
        node_id = node_identity(path.parent, fs)
        self.mesh = Mesh(
            MeshConfig(config.name, peers, config.listen, tls, node_id=node_id),
            self._on_message,
            self._on_link,
            lambda: self.machine.state.cluster_id,
        )
        self.mesh.guests = self.guests.serve
        timing = Timing(config.election_min_s, config.election_max_s)
        self.member = RaftMember(
            MemberConfig(config.name, others, timing, config.compact_entries, self._marked),
            journal,
            self.machine,
            self.mesh,
            clock=time.monotonic,
            on_fatal=self.fatal,
        )
        if journal.snapshot is None:
            self.machine.tell_state()
        self._ticks = 0

    def run(self) -> NoReturn:
        """Tick for ever. This is the process's main thread."""
        threading.Thread(target=self._write, name="to-parent", daemon=True).start()
        threading.Thread(target=self._read, name="from-parent", daemon=True).start()
        self.mesh.start()
        next_status = 0.0
        while True:
            self.member.tick(IDLE_TICK_S)
            self._ticks += 1
            if self._marked:
                self._look_at_learning()
            if time.monotonic() >= next_status:
                next_status = time.monotonic() + STATUS_S
                self._tell("status", self.status())

    def status(self) -> dict[str, Any]:
        """What the data process shows of Raft."""
        rules = self.member.library
        return {
            "leader": self._leader(), "leading": rules.leading, "term": rules.term,
            "committed": rules.committed, "applied": rules.applied, "ticks": self._ticks,
            "learning": self.member.learning, "links_up": self.mesh.links_up(),
            "log_bytes": self.member.journal.size_bytes, "syncs": self.member.journal.syncs,
            "refused": dict(self.mesh.refused), "guarded": dict(self.member.guard.counts),
        }  # fmt: skip

    def _leader(self) -> str | None:
        """The leader's name, if it can be reached. The library stands for election only while it is
        connected to somebody, so that alone it goes on naming the leader that it had.
        """
        name = self.member.library.leader
        reached = name == self._config.name or name in self.mesh.links_up()
        return name if reached else None

    def fatal(self, reason: str) -> NoReturn:
        """Tell the parent, and end at once: nothing may leave this member any more."""
        try:
            self._frames.write("fatal", reason, DISK_FULL if "no space left" in reason else "")
        except Closed:
            print(f"nearql metadata sidecar: {reason}", file=sys.stderr, flush=True)
        os._exit(FATAL_EXIT)

    # ---- learning ---------------------------------------------------------------------------

    def _look_at_learning(self) -> None:
        """An empty disk founds a cluster only if told to, and if no peer it needs knows one."""
        if self._may_found:
            known = dict(self.mesh.peer_clusters)
            if any(known.values()) or self.machine.state.cluster_id:
                self._may_found = False  # a cluster exists: learn it
            elif len(known) >= len(self._config.voters) // 2:
                self.member.stop_learning()
        if not self.member.learning:
            self._marked = False
            self._fs.unlink(self._marker)
            self._fs.sync_directory(self._marker.parent)

    # ---- from and to the parent -------------------------------------------------------------

    def _tell(self, *frame: Any) -> None:
        self._out.put(frame)

    def _tell_all(self, *frame: Any) -> None:
        self._tell(*frame)
        self.guests.tell(*frame)

    # ---- `guests.Voter` ---------------------------------------------------------------------

    @property
    def state(self) -> Metadata:
        """See `guests.Voter`."""
        return self.machine.state

    def submit(self, command: bytes, done: Callable[[Outcome, Any], None]) -> None:
        """See `guests.Voter`. What would go to a leader that can't be reached is refused at once:
        the library would send it nowhere, and never answer.
        """
        if self._leader() is None:
            done(Outcome.REFUSED, None)
        else:
            self.member.post_submit(command, done)

    def begin(self, start: Callable[[int, bytes], None]) -> None:
        """See `guests.Voter`."""
        self.member.post(lambda: start(self.machine.index, self.machine.dump()))

    def index(self) -> int:
        """See `guests.Voter`."""
        return self.machine.index

    def brief(self) -> dict[str, Any]:
        """See `guests.Voter`."""
        return {"leader": self._leader(), "term": self.member.library.term}

    # ---- the parent's socket ----------------------------------------------------------------

    def _write(self) -> None:
        while True:
            frames = [self._out.get()]
            while len(frames) < _TOLD_AT_ONCE and not self._out.empty():
                frames.append(self._out.get())  # nobody else takes from it
            try:
                self._frames.write_all(frames)
            except Closed:
                os._exit(0)

    def _read(self) -> None:
        while True:
            try:
                number, request, *arguments = self._frames.read()
            except Closed:
                os._exit(0)  # the data process has gone, and its voter with it
            if request == "hand_over":
                self.member.post_hand_over()
                continue
            command = arguments[0] if request == "submit" else BARRIER
            self.submit(command, self._answer(number))

    def _answer(self, number: int) -> Callable[[Outcome, Any], None]:
        return lambda outcome, result: self._tell("done", number, outcome.value, result)

    def _on_message(self, sender: str, data: bytes) -> None:
        self.member.post_message(sender, data)

    def _on_link(self, name: str, up: bool) -> None:
        self.member.post_link(name, up)


def main(argv: list[str]) -> NoReturn:
    """argv: the socket's file descriptor, the parent's process id, the configuration as JSON."""
    descriptor, parent, text = int(argv[0]), int(argv[1]), argv[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes us
    frames = Frames(socket.socket(fileno=descriptor))
    plain = json.loads(text)
    plain["voters"] = {name: tuple(address) for name, address in plain["voters"].items()}
    plain["listen"] = tuple(plain["listen"])
    try:
        sidecar = Sidecar(SidecarConfig(**plain), frames, LocalFileSystem())
    except (NearQLError, OSError) as error:
        told = (error.detail, error.code) if isinstance(error, NearQLError) else (str(error), "")
        frames.write("fatal", *told)
        os._exit(FATAL_EXIT)
    sidecar.run()


if __name__ == "__main__":
    main(sys.argv[1:])

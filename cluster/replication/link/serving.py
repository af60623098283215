"""Calls from other nodes: each runs in a thread of a bounded pool, and is cut off with its caller.

A handler gets a `Request` and yields the parts of its answer. It may raise any NearQLError, before
the first part or between two. When the caller gives up, or its connection ends, `cancelled` is set
and the next part that the handler yields is its last.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nearql.cluster.replication.link.call_frames import (
    MAX_REQUEST_BYTES,
    NUMBER,
    PART_BYTES,
    WINDOW_BYTES,
    Head,
    split,
    unpack_credit,
    unpack_head,
)
from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.dialer import Peer
from nearql.cluster.replication.link.frames import Frame, Kind, Malformed
from nearql.cluster.replication.link.link import Link, Source
from nearql.cluster.replication.link.remote_errors import pack_error
from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    InternalError,
    InvalidRequest,
    NearQLError,
    Overloaded,
    StatementTimeout,
    TooLarge,
)

logger = logging.getLogger(__name__)

THREADS = 32
SPARED = 8  # of so many threads one is for short calls alone
WAITING_BYTES = 512 << 20  # of requests that are being received or handled


class Cancelled(threading.Event):
    """Set when the caller gives up, or its connection ends."""

    def __init__(self) -> None:
        super().__init__()
        self._act: Callable[[], None] | None = None

    def then(self, act: Callable[[], None]) -> None:
        """Have `act` called then, or now; it may be called twice, and must not wait."""
        self._act = act
        if self.is_set():
            act()

    def set(self) -> None:
        """Set, and act."""
        super().set()
        if self._act is not None:
            self._act()


@dataclass(frozen=True, slots=True)
class Request:
    """A call. peer: who makes it, proved. deadline: what its caller still waits."""

    peer: Peer
    payload: bytes | bytearray
    deadline: Deadline
    cancelled: Cancelled

    @property
    def node_id(self) -> str:
        """Who makes it."""
        return self.peer.node_id


Handler = Callable[[Request], Iterable[bytes | memoryview]]


@dataclass(slots=True, eq=False)
class _Call:
    """A call under way: first its request comes, then its answer goes."""

    head: Head
    connection: Connection
    peer: Peer
    deadline: Deadline
    payload: bytearray = field(default_factory=bytearray)
    cancelled: Cancelled = field(default_factory=Cancelled)
    window: threading.Condition = field(default_factory=threading.Condition)
    room: int = WINDOW_BYTES  # bytes of the answer that may still be sent
    refused: bool = False  # what still comes of the request is thrown away


class Server:
    """Serves calls over one channel. The loop gives it frames; handlers run in its threads.

    Methods whose handlers take long, as statements do, get three quarters of the threads each, and
    never the last ones: what nodes ask of each other in between must not wait for users' work.
    """

    def __init__(self, link: Link, *, threads: int = THREADS, name: str = "call") -> None:
        self._link, self._threads = link, threads
        self._handlers: dict[str, Handler] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"replication-{name}")
        self._calls: dict[tuple[Connection, int], _Call] = {}
        self._running: Counter[str] = Counter()  # by method
        self._long: set[str] = set()
        self._bytes = 0
        self.counts: Counter[str] = Counter()

    def serve(self, method: str, handler: Handler, *, long: bool = False) -> None:
        """Answer this method from now on. long: it does what users ask for."""
        self._handlers[method] = handler
        if long:
            self._long.add(method)

    @property
    def running(self) -> int:
        """Handlers at work."""
        return self._running.total()

    def close(self) -> None:
        """Cancel all; in the loop. Threads end as their handlers do."""
        for call in self._calls.values():
            _cut_off(call)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- Frames, in the loop ------------------------------------------------------------------

    def take(self, source: Source, frame: Frame) -> None:
        """A frame of a caller."""
        try:
            if frame.kind == Kind.CALL:
                self._begin(source, unpack_head(frame.payload))
            elif frame.kind == Kind.CALL_CREDIT:
                number, count = unpack_credit(frame.payload)
                self._credit(self._calls.get((source.connection, number)), count)
            else:
                number, rest = split(frame.payload)
                self._go_on(frame.kind, self._calls.get((source.connection, number)), rest)
        except Malformed as error:
            source.connection.abort(str(error))

    def _begin(self, source: Source, head: Head) -> None:
        key = source.connection, head.number
        if key in self._calls:
            raise Malformed("malformed")
        call = _Call(head, source.connection, source.peer, Deadline(head.timeout_ms))
        self._calls[key] = call
        self.counts["calls"] += 1
        refusal = self._refusal(head)
        if refusal is not None:
            self.counts["refused"] += 1
            call.refused = True
            self._end(call, Kind.ANSWER_ERROR, pack_error(refusal))
            return
        self._running[head.method] += 1
        self._bytes += head.size
        if head.size == 0:
            self._dispatch(call)

    def _refusal(self, head: Head) -> NearQLError | None:
        if head.method not in self._handlers:
            return InvalidRequest(
                f"This node answers no {head.method!r}; upgrade all nodes to one version."
            )
        if head.size > MAX_REQUEST_BYTES:
            return TooLarge(f"A request of {head.size} bytes is above {MAX_REQUEST_BYTES}.")
        if self._is_full(head.method) or self._bytes + head.size > WAITING_BYTES:
            return Overloaded(
                f"This node handles {self.running} requests of other nodes already; nothing was "
                "done. Retry after a while."
            )
        return None

    def _is_full(self, method: str) -> bool:
        """Whether all threads are at work that a call of this method may have."""
        if method not in self._long:
            return self.running >= self._threads
        own = max(1, self._threads * 3 // 4)
        together = max(1, self._threads - -(-self._threads // SPARED))
        busy = sum(self._running[other] for other in self._long)
        return self._running[method] >= own or busy >= together or self.running >= self._threads

    def _go_on(self, kind: Kind, call: _Call | None, rest: memoryview) -> None:
        if call is None:
            return  # refused or cancelled: what still comes of it is thrown away
        if kind == Kind.CALL_CANCEL:
            self._forget(call)
            return
        call.payload += rest
        if len(call.payload) > call.head.size:
            raise Malformed("malformed")
        if len(call.payload) == call.head.size:
            self._dispatch(call)

    @staticmethod
    def _credit(call: _Call | None, count: int) -> None:
        if call is not None:
            with call.window:
                call.room = min(call.room + count, WINDOW_BYTES)
                call.window.notify()

    def gone(self, connection: Connection) -> None:
        """A connection has ended, and with it what its caller wanted."""
        for call in [call for call in self._calls.values() if call.connection is connection]:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        """The caller does not wait any more."""
        del self._calls[call.connection, call.head.number]
        _cut_off(call)
        if len(call.payload) < call.head.size:  # no handler will say that it has ended
            self._finished(call)

    def _finished(self, call: _Call) -> None:
        self._running[call.head.method] -= 1
        self._bytes -= call.head.size

    def _dispatch(self, call: _Call) -> None:
        self._pool.submit(self._work, call)

    def _end(self, call: _Call, kind: Kind, data: bytes) -> None:
        self._calls.pop((call.connection, call.head.number), None)
        call.connection.send(kind, NUMBER.pack(call.head.number), data)

    # ---- Handlers, in the pool's threads ------------------------------------------------------

    def _work(self, call: _Call) -> None:
        kind, data = Kind.ANSWER_END, b""
        try:
            self._answer(call)
        except NearQLError as error:
            kind, data = Kind.ANSWER_ERROR, pack_error(error)
        except Exception as error:  # the caller must learn that nothing more comes
            logger.exception("answering %r of node %r failed", call.head.method, call.peer.name)
            failure = InternalError(f"Answering {call.head.method!r} failed: {error!r}.")
            kind, data = Kind.ANSWER_ERROR, pack_error(failure)
        self._link.thread.soon(self._ended, call, kind, data)

    def _ended(self, call: _Call, kind: Kind, data: bytes) -> None:
        self._finished(call)
        if not call.cancelled.is_set():
            self._end(call, kind, data)

    def _answer(self, call: _Call) -> None:
        handler = self._handlers[call.head.method]
        request = Request(call.peer, call.payload, call.deadline, call.cancelled)
        parts = iter(handler(request))
        try:
            for part in parts:
                view = memoryview(part).cast("B")
                for at in range(0, len(view), PART_BYTES):
                    if not self._send_part(call, view[at : at + PART_BYTES]):
                        return
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _send_part(self, call: _Call, piece: memoryview) -> bool:
        """Send as soon as the caller has room; False where it does not wait any more."""
        with call.window:
            call.window.wait_for(
                lambda: call.room >= len(piece) or call.cancelled.is_set(), call.deadline.left_s
            )
            if call.cancelled.is_set():
                return False
            if call.room < len(piece):
                raise StatementTimeout("The caller took too long to take the answer.")
            call.room -= len(piece)
        number = NUMBER.pack(call.head.number)
        return self._link.thread.soon(call.connection.send, Kind.ANSWER_PART, number, piece)


def _cut_off(call: _Call) -> None:
    call.cancelled.set()
    with call.window:
        call.window.notify()

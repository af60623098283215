"""Calls to other nodes: a method and bytes go out, bytes come back as they are made.

A caller is a thread; what comes for it is put into its `Answer` by the loop. Where a call fails it
says whether it may have been done:

    Unavailable, code `node_unreachable`    certainly not: not all of the request was sent
    WriteUnknown, code `call_lost`          perhaps: the connection ended, or the time was up
    any other error                         is what the other node's handler raised
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType

from nearql.cluster.replication.link.call_frames import (
    CREDIT,
    MAX_REQUEST_BYTES,
    NUMBER,
    PART_BYTES,
    WINDOW_BYTES,
    Head,
    split,
)
from nearql.cluster.replication.link.connection import Connection
from nearql.cluster.replication.link.frames import Frame, Kind, Malformed
from nearql.cluster.replication.link.link import Channel, Link, Source
from nearql.cluster.replication.link.remote_errors import unpack_error
from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    NearQLError,
    StatementTimeout,
    TooLarge,
    Unavailable,
    WriteUnknown,
)

Watching = Callable[[Callable[[], None]], AbstractContextManager[None]]


class Answer:
    """The parts of an answer, as they come. One thread reads it; `close` gives up what is left."""

    def __init__(self, caller: Caller, number: int, node: str, timeout_ms: int) -> None:
        self._caller, self._number, self._node = caller, number, node
        self._deadline = Deadline(timeout_ms)
        self._changed = threading.Condition()
        self._parts: deque[bytes | memoryview] = deque()
        self._taken = 0  # bytes since the last credit
        self._ended = False
        self._failure: NearQLError | None = None
        self._sent = False  # the whole request goes out: it may be done from now on

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return self

    def __next__(self) -> bytes | memoryview:
        """The next part.

        Raises:
            NearQLError: see the module.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._ended, self._deadline.left_s)
            if self._parts:
                part = self._parts.popleft()
            elif not self._ended:
                failure = self._late()
                self._fail(failure)
                self._caller.give_up(self._number)
                raise failure
            elif self._failure is not None:
                raise self._failure
            else:
                raise StopIteration
        self._took(len(part))
        return part

    def _took(self, count: int) -> None:
        self._taken += count
        if self._taken >= WINDOW_BYTES // 2:
            self._caller.grant(self._number, self._taken)
            self._taken = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: the handler has ended, or the connection has."""
        with self._changed:
            return self._ended

    def close(self) -> None:
        """The rest is not wanted; the other node's handler is told so."""
        with self._changed:
            done, self._ended = self._ended, True
            self._parts.clear()
        if not done:
            self._caller.give_up(self._number)

    def cancel(self) -> None:
        """Nobody waits any more; from any thread. Its reader gets a StatementTimeout, and the other
        node's handler is told.
        """
        with self._changed:
            done = self._ended
            self._fail(StatementTimeout("Nobody waits for the answer any more."))
        if not done:
            self._caller.give_up(self._number)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    # ---- From the loop ------------------------------------------------------------------------

    def add(self, part: memoryview) -> None:
        """A part has come."""
        with self._changed:
            if not self._ended:
                self._parts.append(part)
                self._changed.notify()

    def sends(self) -> bool:
        """The whole request is about to have gone out; False where nobody waits any more, who was
        told then that it certainly had not.
        """
        with self._changed:
            self._sent = not self._ended
            return self._sent

    def end(self, failure: NearQLError | None) -> None:
        """Nothing more comes."""
        with self._changed:
            self._fail(failure)

    def _fail(self, failure: NearQLError | None) -> None:
        if not self._ended:
            self._ended, self._failure = True, failure
            self._changed.notify()

    def lost(self) -> NearQLError:
        """The error where the connection has ended."""
        if not self._sent:
            return unreachable(self._node)
        return WriteUnknown(
            f"The connection to node {self._node!r} ended before it answered: the request may have "
            "been done. Retry with the same request id to learn its outcome.",
            code="call_lost",
        )

    def _late(self) -> NearQLError:
        if not self._sent:
            return unreachable(self._node)
        return WriteUnknown(
            f"Node {self._node!r} did not answer in time: the request may have been done. Retry "
            "with the same request id to learn its outcome.",
            code="call_lost",
        )


class Caller:
    """Makes calls over one channel. `stream` and `call` are for threads, not for the loop."""

    def __init__(self, link: Link, channel: Channel) -> None:
        self._link, self._channel = link, channel
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[Answer, Connection | None]] = {}

    def call(
        self, node_id: str, method: str, payload: bytes,
        *, timeout_ms: int, watching: Watching | None = None,
    ) -> bytes:  # fmt: skip
        """The whole answer. watching: as in `Calls.call`. Raises: see the module."""
        with self.stream(node_id, method, payload, timeout_ms=timeout_ms) as answer:
            if watching is None:
                return b"".join(answer)
            with watching(answer.cancel):
                return b"".join(answer)

    def stream(self, node_id: str, method: str, payload: bytes, *, timeout_ms: int) -> Answer:
        """Begin a call; its answer's parts. Raises: see the module, most of it while reading."""
        if len(payload) > MAX_REQUEST_BYTES:
            raise TooLarge(
                f"A request to another node has {len(payload)} bytes, above the limit of "
                f"{MAX_REQUEST_BYTES}: send smaller batches."
            )
        assert not self._link.thread.inside, "calls wait: they are not for the loop"
        peer = self._link.peer(node_id)
        answer = Answer(self, next(self._numbers), peer.name if peer else node_id, timeout_ms)
        head = Head(answer._number, method, timeout_ms, len(payload))
        if not self._link.thread.soon(self._begin, node_id, answer, head, payload):
            raise unreachable(answer._node)
        return answer

    def _begin(self, node_id: str, answer: Answer, head: Head, payload: bytes) -> None:
        dialer = self._link.dialer(node_id, self._channel)
        if dialer is None or dialer.connection is None or not dialer.up:
            answer.end(unreachable(answer._node))
            return
        if len(payload) > PART_BYTES:
            self._open[head.number] = answer, dialer.connection
            self._link.background(self._send(dialer.connection, answer, head, payload))
        elif answer.sends():
            self._open[head.number] = answer, dialer.connection
            dialer.send(Kind.CALL, head.pack())
            self._part(dialer.connection, head.number, payload)

    async def _send(
        self, connection: Connection, answer: Answer, head: Head, payload: bytes
    ) -> None:
        """A long request, in parts, so that others of this channel are not held up."""
        if not connection.send(Kind.CALL, head.pack()):
            return  # its end was told to `gone`
        view = memoryview(payload)
        for at in range(0, len(view), PART_BYTES):
            await connection.writable()
            is_last = at + PART_BYTES >= len(view)
            if head.number not in self._open or (is_last and not answer.sends()):
                return
            if not self._part(connection, head.number, view[at : at + PART_BYTES]):
                return
            await asyncio.sleep(0)

    @staticmethod
    def _part(connection: Connection, number: int, data: bytes | memoryview) -> bool:
        return not data or connection.send(Kind.CALL_PART, NUMBER.pack(number), data)

    # ---- From answers ---------------------------------------------------------------------

    def grant(self, number: int, count: int) -> None:
        """The reader has taken so much."""
        self._link.thread.soon(self._tell, number, Kind.CALL_CREDIT, CREDIT.pack(number, count))

    def give_up(self, number: int) -> None:
        """Nobody reads this answer any more."""
        self._link.thread.soon(self._cancel, number)

    def _cancel(self, number: int) -> None:
        self._tell(number, Kind.CALL_CANCEL, NUMBER.pack(number))
        self._open.pop(number, None)

    def _tell(self, number: int, kind: Kind, payload: bytes) -> None:
        found = self._open.get(number)
        if found is not None and found[1] is not None:
            found[1].send(kind, payload)

    # ---- From the link ------------------------------------------------------------------------

    def take(self, source: Source, frame: Frame) -> None:
        """A frame of an answer."""
        try:
            number, rest = split(frame.payload)
        except Malformed as error:
            source.connection.abort(str(error))
            return
        found = self._open.get(number)
        if found is None or found[1] is not source.connection:
            return  # it was given up
        answer = found[0]
        if frame.kind == Kind.ANSWER_PART:
            answer.add(rest)
            return
        del self._open[number]
        answer.end(unpack_error(rest) if frame.kind == Kind.ANSWER_ERROR else None)

    def gone(self, connection: Connection) -> None:
        """A connection has ended, and with it the calls over it."""
        lost = [number for number, (_, used) in self._open.items() if used is connection]
        for number in lost:
            answer, _ = self._open.pop(number)
            answer.end(answer.lost())

    def close(self) -> None:
        """End every call. In the loop."""
        for answer, _ in self._open.values():
            answer.end(answer.lost())
        self._open.clear()


def unreachable(name: str) -> Unavailable:
    """The error where a request did not reach its node."""
    return Unavailable(
        f"Node {name!r} can't be reached just now; nothing was done.", code="node_unreachable"
    )

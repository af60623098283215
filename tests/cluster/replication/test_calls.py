"""Requests between nodes: answers, streams, errors, and what a caller knows when one is lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nearql.cluster.certificates import make_certificates
from nearql.cluster.replication.link.call_frames import WINDOW_BYTES
from nearql.cluster.replication.link.calls import Calls, Request
from nearql.cluster.replication.link.frames import Kind
from nearql.cluster.replication.link.link import Channel
from nearql.cluster.replication.link.remote_errors import pack_error, unpack_error
from nearql.cluster.replication.link.serving import Cancelled
from nearql.engine import errors
from nearql.engine.deadline import Deadline
from support.replication_links import End, frame_bytes, is_ended, say_hello, stranger, tls
from support.waiting import wait_for

LONG_MS = 60_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, ["a", "b"])
    return folder


class Node(End):
    """An end with calls."""

    def __init__(self, name: str, folder: Path, threads: int = 32) -> None:
        super().__init__(name, folder)
        self.calls = Calls(self.link, threads=threads)

    def close(self) -> None:
        self.thread.soon(self.calls.close)
        super().close()


Pair = tuple[Node, Node]


@pytest.fixture
def make(certificates: Path) -> Iterator[Callable[..., Pair]]:
    """Make a and b, connected; `threads` of b."""
    ends: list[Node] = []

    def make_pair(threads: int = 32) -> Pair:
        a, b = Node("a", certificates), Node("b", certificates, threads)
        ends.extend((a, b))
        a.knows(b.peer()).link.start()
        b.knows(a.peer()).link.start()
        a.until_up()
        return a, b

    yield make_pair
    for end in ends:
        end.close()


@pytest.fixture
def pair(make: Callable[..., Pair]) -> Pair:
    return make()


@pytest.fixture
def alone(certificates: Path) -> Iterator[Node]:
    """a, which knows b and can't reach it: only strangers speak as b."""
    end = Node("a", certificates)
    end.knows(replace(end.peer(), name="b", node_id="id-b", port=1)).link.start()
    yield end
    end.close()


def echo(request: Request) -> Iterable[bytes]:
    return [f"{request.peer.name} {request.peer.node_id} ".encode(), bytes(request.payload)]


@pytest.mark.parametrize("channel", [Channel.CALL, Channel.BEAT, Channel.BULK])
@pytest.mark.parametrize("size", [0, 1, 256 << 10, (3 << 20) + 7])
def test_an_answer_comes_back(pair: Pair, channel: Channel, size: int) -> None:
    a, b = pair
    b.calls.serve("echo", echo, channel=channel)
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    answer = a.calls.call(b.node_id, "echo", payload, timeout_ms=LONG_MS, channel=channel)
    assert answer == b"a id-a " + payload
    wait_for(lambda: b.calls.servers[channel].running == 0, "its place is free again")


def test_many_callers_at_once(pair: Pair) -> None:
    a, b = pair
    b.calls.serve("echo", echo)

    def call(n: int) -> bytes:
        return a.calls.call(b.node_id, "echo", b"%d" % n * 10_000, timeout_ms=LONG_MS)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(200)))
    assert answers == [b"a id-a " + b"%d" % n * 10_000 for n in range(200)]


def test_parts_come_as_they_are_made(pair: Pair) -> None:
    a, b = pair
    steps: queue.Queue[bytes] = queue.Queue()

    def parts(request: Request) -> Iterator[bytes]:
        while (part := steps.get(timeout=60)) != b"end":
            yield part

    b.calls.serve("parts", parts)
    with a.calls.stream(b.node_id, "parts", b"", timeout_ms=LONG_MS) as answer:
        for part in (b"one", b"two"):
            steps.put(part)
            assert next(answer) == part
        steps.put(b"end")
        assert list(answer) == []


def test_an_answer_that_nobody_reads_stops_at_its_window(pair: Pair) -> None:
    a, b = pair
    made: queue.Queue[int] = queue.Queue()
    part, many = bytes(256 << 10), 64

    def parts(request: Request) -> Iterator[bytes]:
        for n in range(many):
            made.put(n)
            yield part

    b.calls.serve("parts", parts)
    with a.calls.stream(b.node_id, "parts", b"", timeout_ms=LONG_MS) as answer:
        fitting = WINDOW_BYTES // len(part)
        assert [made.get(timeout=60) for _ in range(fitting + 1)] == list(range(fitting + 1))
        assert made.empty()
        assert sum(len(piece) for piece in answer) == many * len(part)


def test_who_closes_an_answer_stops_its_handler(pair: Pair) -> None:
    a, b = pair
    ended = threading.Event()

    def endless(request: Request) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            ended.set()

    b.calls.serve("endless", endless)
    with a.calls.stream(b.node_id, "endless", b"", timeout_ms=LONG_MS) as answer:
        assert next(answer) == b"x" * 1000
    assert ended.wait(60)
    wait_for(lambda: b.calls.servers[Channel.CALL].running == 0, "its place is free again")


def test_a_handler_that_waits_learns_that_its_caller_gave_up(pair: Pair) -> None:
    a, b = pair
    began, noticed = threading.Event(), threading.Event()

    def waiting(request: Request) -> Iterable[bytes]:
        began.set()
        if request.cancelled.wait(60):
            noticed.set()
        return []

    b.calls.serve("wait", waiting)
    with a.calls.stream(b.node_id, "wait", b"", timeout_ms=LONG_MS):
        assert began.wait(60)
    assert noticed.wait(60)


def test_a_call_that_another_thread_ends_is_ended_at_both_ends(pair: Pair) -> None:
    a, b = pair
    began, told = threading.Event(), threading.Event()

    def waiting(request: Request) -> Iterable[bytes]:
        request.cancelled.then(told.set)
        began.set()
        request.cancelled.wait(60)
        return []

    @contextmanager
    def watching(end: Callable[[], None]) -> Iterator[None]:
        def end_it() -> None:
            began.wait(60)
            end()
            end()

        ender = threading.Thread(target=end_it)
        ender.start()
        try:
            yield
        finally:
            ender.join()

    b.calls.serve("wait", waiting)
    with pytest.raises(errors.StatementTimeout):
        a.calls.call(b.node_id, "wait", b"", timeout_ms=LONG_MS, watching=watching)
    assert told.wait(60)
    wait_for(lambda: b.calls.servers[Channel.CALL].running == 0, "its place is free again")


def test_an_act_for_a_caller_that_is_gone_already_is_done_at_once() -> None:
    cancelled, told = Cancelled(), threading.Event()
    cancelled.set()
    cancelled.then(told.set)
    assert told.is_set()


def test_the_handler_has_what_is_left_of_the_callers_time(pair: Pair) -> None:
    a, b = pair
    left: queue.Queue[float] = queue.Queue()

    def asked(request: Request) -> Iterable[bytes]:
        left.put(request.deadline.left_s)
        return []

    b.calls.serve("asked", asked)
    a.calls.call(b.node_id, "asked", b"", timeout_ms=LONG_MS)
    assert 0 < left.get(timeout=60) <= LONG_MS / 1000


def test_an_error_of_the_handler_is_raised_at_the_caller(pair: Pair) -> None:
    a, b = pair

    def refuse(request: Request) -> Iterable[bytes]:
        raise errors.Conflict("the key 7 exists", code="duplicate_key", key=7, row=1)

    b.calls.serve("refuse", refuse)
    with pytest.raises(errors.Conflict, match="the key 7 exists") as caught:
        a.calls.call(b.node_id, "refuse", b"", timeout_ms=LONG_MS)
    assert caught.value.code == "duplicate_key"
    assert caught.value.extra == {"key": 7, "row": 1}


def test_an_error_after_the_first_part_ends_the_stream(pair: Pair) -> None:
    a, b = pair

    def parts(request: Request) -> Iterator[bytes]:
        yield b"one"
        raise errors.Corruption("segment 3 is damaged")

    b.calls.serve("parts", parts)
    with a.calls.stream(b.node_id, "parts", b"", timeout_ms=LONG_MS) as answer:
        assert next(answer) == b"one"
        with pytest.raises(errors.Corruption, match="segment 3"):
            next(answer)


def test_a_bug_in_a_handler_is_an_internal_error_and_harms_no_other_call(pair: Pair) -> None:
    a, b = pair
    b.calls.serve("bug", lambda request: [b"%d" % (1 // len(request.payload))])
    b.calls.serve("echo", echo)
    with pytest.raises(errors.InternalError, match="ZeroDivisionError"):
        a.calls.call(b.node_id, "bug", b"", timeout_ms=LONG_MS)
    assert a.calls.call(b.node_id, "echo", b"x", timeout_ms=LONG_MS) == b"a id-a x"


def test_a_method_that_nobody_serves_is_refused(pair: Pair) -> None:
    a, b = pair
    with pytest.raises(errors.InvalidRequest, match="upgrade"):
        a.calls.call(b.node_id, "later", b"x" * 10, timeout_ms=LONG_MS)


def test_calls_beyond_the_pool_are_refused_and_not_queued(make: Callable[..., Pair]) -> None:
    a, b = make(threads=1)
    began, release = threading.Event(), threading.Event()

    def slow(request: Request) -> Iterable[bytes]:
        began.set()
        release.wait(60)
        return [b"done"]

    b.calls.serve("slow", slow)
    with a.calls.stream(b.node_id, "slow", b"", timeout_ms=LONG_MS) as answer:
        assert began.wait(60)
        with pytest.raises(errors.Overloaded, match="nothing was done"):
            a.calls.call(b.node_id, "slow", b"x" * (1 << 20), timeout_ms=LONG_MS)
        release.set()
        assert b"".join(answer) == b"done"
    assert b.calls.servers[Channel.CALL].counts["refused"] == 1


def test_long_calls_leave_threads_to_each_other_and_to_short_ones(
    make: Callable[..., Pair],
) -> None:
    """Of eight threads one is for short calls alone, and one kind of long ones gets six."""
    a, b = make(threads=8)
    began, release = threading.Semaphore(0), threading.Event()

    def slow(request: Request) -> Iterable[bytes]:
        began.release()
        release.wait(60)
        return [b"done"]

    b.calls.serve("sql", slow, long=True)
    b.calls.serve("rows", slow, long=True)
    b.calls.serve("status", lambda request: [b"well"])

    def refused(method: str) -> None:
        with pytest.raises(errors.Overloaded, match="nothing was done"):
            a.calls.call(b.node_id, method, b"", timeout_ms=LONG_MS)

    def call(method: str) -> bytes:
        return a.calls.call(b.node_id, method, b"", timeout_ms=LONG_MS)

    with ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(call, "sql") for _ in range(6)]
        assert all(began.acquire(timeout=60) for _ in range(6))
        refused("sql")
        under_way.append(pool.submit(call, "rows"))
        assert began.acquire(timeout=60)
        refused("rows")
        assert call("status") == b"well"
        release.set()
        assert [one.result(60) for one in under_way] == [b"done"] * 7
    assert call("sql") == b"done"


def test_an_absent_node_is_unreachable_and_certainly_did_nothing(pair: Pair) -> None:
    a, b = pair
    for node_id in ("id-nobody", "id-a"):
        with pytest.raises(errors.Unavailable) as caught:
            a.calls.call(node_id, "echo", b"", timeout_ms=LONG_MS)
        assert caught.value.code == "node_unreachable"
        assert caught.value.definite


def test_a_connection_that_ends_meanwhile_leaves_the_outcome_unknown(pair: Pair) -> None:
    a, b = pair
    began, cancelled = threading.Event(), threading.Event()

    def slow(request: Request) -> Iterable[bytes]:
        began.set()
        if request.cancelled.wait(60):
            cancelled.set()
        return []

    b.calls.serve("slow", slow)
    with a.calls.stream(b.node_id, "slow", b"", timeout_ms=LONG_MS) as answer:
        assert began.wait(60)
        assert not answer.ended
        b.thread.run(b.link.stop())
        with pytest.raises(errors.WriteUnknown) as caught:
            next(answer)
        assert answer.ended
    assert caught.value.code == "call_lost"
    assert not caught.value.definite
    assert cancelled.wait(60)


def test_time_that_is_up_leaves_the_outcome_unknown(pair: Pair) -> None:
    a, b = pair
    began, cancelled = threading.Event(), threading.Event()

    def slow(request: Request) -> Iterable[bytes]:
        began.set()
        if request.cancelled.wait(60):
            cancelled.set()
        return []

    b.calls.serve("slow", slow)
    with a.calls.stream(b.node_id, "slow", b"", timeout_ms=LONG_MS) as answer:
        assert began.wait(60)
        answer._deadline = Deadline(0)
        with pytest.raises(errors.WriteUnknown, match="in time") as caught:
            next(answer)
    assert caught.value.code == "call_lost"
    assert cancelled.wait(60)


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_request_that_was_given_up_before_it_went_out_never_does(pair: Pair, size: int) -> None:
    """Who was told that certainly nothing was done can rely on it."""
    a, b = pair
    handled: queue.Queue[int] = queue.Queue()

    def note(request: Request) -> Iterable[bytes]:
        handled.put(len(request.payload))
        return []

    b.calls.serve("note", note)
    held = threading.Event()
    a.thread.soon(held.wait, 60)  # the loop does not turn
    with pytest.raises(errors.Unavailable) as caught:
        a.calls.call(b.node_id, "note", bytes(size), timeout_ms=0)
    held.set()
    assert caught.value.code == "node_unreachable"
    a.calls.call(b.node_id, "note", b"later", timeout_ms=LONG_MS)
    assert handled.get(timeout=60) == len(b"later")


@pytest.mark.parametrize(
    "error",
    [
        errors.SqlError("no such thing", position=17),
        errors.WriteUnknown("perhaps", shard=1, epoch=2, lsn=3),
        errors.Unavailable("not here", code="not_primary", primary=None),
        errors.NearQLError("plain", sqlstate="12345"),
    ],
)
def test_errors_are_the_same_after_the_wire(error: errors.NearQLError) -> None:
    again = unpack_error(pack_error(error))
    assert type(again) is type(error)
    for name in ("detail", "code", "sql_state", "position", "extra", "definite", "retryable"):
        assert getattr(again, name) == getattr(error, name)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa4kind\xa3Foo"])
def test_bytes_that_are_no_error_become_an_internal_one(data: bytes) -> None:
    assert type(unpack_error(data)) is errors.InternalError


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.CALL, b""),
        (Kind.CALL, bytes(8)),
        (Kind.CALL, bytes(8) + b"\x93\x01\x01\x01"),
        (Kind.CALL, bytes(8) + b"\x93\xa1x\x01\xff"),
        (Kind.CALL_PART, b"short"),
        (Kind.CALL_CANCEL, b""),
        (Kind.CALL_CREDIT, bytes(15)),
    ],
)
def test_a_malformed_call_ends_the_connection(
    alone: Node, certificates: Path, kind: Kind, payload: bytes
) -> None:
    with stranger(alone, tls(certificates, "b")) as stream:
        assert say_hello(stream, channel="call").refused == ""
        stream.sendall(frame_bytes(kind, payload))
        assert is_ended(stream)
    wait_for(lambda: alone.link.counts["ended_malformed"] == 1, "it is counted")


def test_calls_do_not_travel_with_records(alone: Node, certificates: Path) -> None:
    with stranger(alone, tls(certificates, "b")) as stream:
        assert say_hello(stream, channel="log").refused == ""
        stream.sendall(frame_bytes(Kind.CALL_CANCEL, bytes(8)))
        assert is_ended(stream)

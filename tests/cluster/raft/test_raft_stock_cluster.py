"""What three of stock PySyncObj 0.3.17 do where ours keep a rule; each names the test of ours.

One library, one member: test_raft_stock. Its rules at the edges: test_raft_guard.
"""

from __future__ import annotations

import ctypes
import gc
import queue
import shutil
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as syncobj
import pytest
from pysyncobj import tcp_connection
from pysyncobj.config import SyncObjConf
from pysyncobj.dns_resolver import globalDnsResolver
from pysyncobj.poller import createPoller
from pysyncobj.transport import TCPTransport, Transport

from support.raft_stock import StockCluster, stock_cluster
from support.waiting import wait_for

LEAKS = "ignore::pytest.PytestUnraisableExceptionWarning"  # the library's journals stay open


@pytest.mark.filterwarnings(LEAKS)
def test_stock_loses_acknowledged_commands_when_all_are_killed(tmp_path: Path) -> None:
    """Group 1: all dump at one length of the log; what came after is in the journals alone, and a
    start that finds the dump newer than the journal's head clears the journal.

    Ours: `test_no_acknowledged_command_is_lost_when_all_voters_are_killed`, and each schedule.
    """
    with stock_cluster(tmp_path / "before") as cluster:
        leader = cluster.leader()
        for number in range(20):
            cluster.commit(leader, f"early {number}", number)
        cluster.advance(0.3)
        for node in cluster.nodes.values():
            node.dumping = True  # the child of the fork writes
            node.forceLogCompaction()
        cluster.advance(0.1)
        for number in range(10):
            cluster.commit(leader, f"late {number}", number)
        cluster.advance(0.3)
        shutil.copytree(tmp_path / "before", tmp_path / "after")  # what kill -9 leaves
    with stock_cluster(tmp_path / "after") as cluster:
        cluster.leader()
        cluster.advance(1.0)
        for node in cluster.nodes.values():
            assert {f"early {number}" for number in range(20)} <= node.values.keys()
            assert not {f"late {number}" for number in range(10)} & node.values.keys()


def test_stock_waits_for_a_connect_as_long_as_the_kernel_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Group 8: after a long cut the next try hangs in the kernel's back-off, a minute and more.

    Ours: `test_a_black_hole_is_given_up_after_a_second`.
    """
    now = [0.0]
    monkeypatch.setattr(tcp_connection, "monotonicTime", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        crowd = [_begun(port) for _ in range(5)]  # the queue is full: further SYNs are dropped
        poller = createPoller("auto")
        link = tcp_connection.TcpConnection(poller, timeout=3.5)
        assert link.connect("127.0.0.1", port)
        for _ in range(30):
            now[0] += 2.0
            poller.poll(0.0)
        assert link.state == tcp_connection.CONNECTION_STATE.CONNECTING
        link.disconnect()
        for connection in crowd:
            connection.close()


def _begun(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", port))
    return connection


class _Asked:
    """Instead of `socket.getaddrinfo`: remembers which thread had to wait."""

    def __init__(self) -> None:
        self.threads: queue.Queue[int] = queue.Queue()

    def __call__(self, host: str, *_rest: Any, **_options: Any) -> Any:
        self.threads.put(threading.get_ident())
        raise socket.gaierror(f"nobody knows {host}")


def test_stock_resolves_names_in_the_thread_that_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group 10: with an absent peer and a name server that takes 2 s, each commit took 4 to 6 s.

    Ours: `test_a_slow_resolver_and_a_black_hole_delay_nobody_else`,
    `test_a_voter_that_is_gone_and_a_name_server_that_is_slow_stop_nobody`.
    """
    monkeypatch.setattr(syncobj, "pickle", pysyncobj.pickle)
    conf = SyncObjConf(autoTick=False, connectionRetryTime=0.0, dnsCacheTime=0, dnsFailCacheTime=0)
    asked = _Asked()
    monkeypatch.setattr(globalDnsResolver(), "_DnsCachingResolver__cache", {})
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", asked)
        node = syncobj.SyncObj("127.0.0.1:1", [], conf, transportClass=Transport)
        transport = TCPTransport(node, _node("localhost:9"), {_node("absent.example:1")})
        before = asked.threads.qsize()
        transport._connectIfNecessary()
        assert asked.threads.qsize() > before
        assert set(asked.threads.queue) == {threading.get_ident()}
    transport.destroy()
    node.destroy()


def _node(address: str) -> Any:
    from pysyncobj.node import TCPNode

    return TCPNode(address)


def test_stock_never_answers_a_forwarded_command_that_was_lost() -> None:
    """Group 12. Ours: `test_an_unanswered_proposal_is_unknown_and_not_refused`, by a deadline;
    asked again under the same request id it is done once.
    """
    with stock_cluster() as cluster:
        leader = cluster.leader()
        cluster.advance(0.5)
        follower = next(name for name in cluster.nodes if name != leader)
        answers: list[Any] = []
        cluster.lost = lambda message: message["type"] == "apply_command"
        cluster.nodes[follower].put("x", 1, callback=lambda *answer: answers.append(answer))
        cluster.advance(0.2)
        cluster.lost = lambda _message: False
        cluster.advance(60.0)
        assert answers == []
        assert cluster.leader() == leader
        cluster.commit(follower, "y", 2)


def test_stock_obeys_a_stranger() -> None:
    """Group 13: `add` and `readonly` of somebody without any proof; a peer's name is as easily
    claimed. Ours: `test_bytes_of_a_stranger_reach_no_decoder`.
    """
    with stock_cluster() as cluster:
        node = cluster.nodes[cluster.leader()]
        heard: list[Any] = []
        node._SyncObj__conf.dynamicMembershipChange = True
        transport = TCPTransport(node, _node("127.0.0.1:9"), {_node("127.0.0.1:8")})
        transport.setOnUtilityMessageCallback(
            "add", lambda arguments, _done: heard.append(arguments)
        )
        transport.setOnNodeConnectedCallback(lambda peer: heard.append(peer.id))
        transport.setOnReadonlyNodeConnectedCallback(lambda _peer: heard.append("a reader"))
        for message in (["add", "evil.example:1"], "127.0.0.1:8", "readonly"):
            transport._onIncomingMessageReceived(_Stranger(), message)
        assert heard == [["evil.example:1"], "127.0.0.1:8", "a reader"]
        node.removeOnTickCallback(transport._onTick)


class _Stranger:
    """A connection that has proved nothing."""

    state = tcp_connection.CONNECTION_STATE.CONNECTED
    sendRandKey = None

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments: None


def test_stock_keeps_whatever_a_stranger_announces() -> None:
    """Group 13: 2 GB are announced, and buffered as they come. Ours:
    `test_an_oversized_frame_is_refused_before_it_is_read`.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    poller = createPoller("auto")
    with theirs:
        link = tcp_connection.TcpConnection(poller, socket=ours, timeout=60.0)
        theirs.sendall(struct.pack("i", (2 << 30) - 1))
        for size in range(1, 9):
            theirs.sendall(bytes(32 << 10))
            expected = 4 + size * (32 << 10)
            wait_for(lambda e=expected: _held(poller, link) == e, "all of it", 60)  # type: ignore[misc]
        assert link.state == tcp_connection.CONNECTION_STATE.CONNECTED
        link.disconnect()


def _held(poller: Any, link: Any) -> int:
    """Bytes that a connection keeps."""
    poller.poll(0.01)
    return len(link._TcpConnection__readBuffer)


def test_stock_forgets_with_a_wiped_disk() -> None:
    """Group 14. Ours: `test_a_wiped_voter_gives_nothing_away`."""
    with stock_cluster() as cluster:
        leader = cluster.leader()
        holder, without = (name for name in cluster.nodes if name != leader)
        cluster.isolate(without)
        cluster.commit(leader, "promised", 1)
        cluster.advance(0.5)
        assert "promised" in cluster.nodes[holder].values
        cluster.kill(leader)
        cluster.kill(holder)
        cluster.start(holder)  # in memory alone: an empty disk
        cluster.cuts.clear()
        cluster.leader(holder, without)
        cluster.commit(holder, "later", 2)
        assert "promised" not in cluster.nodes[holder].values
        assert "promised" not in cluster.nodes[without].values


def test_stock_leads_on_for_half_a_minute_when_nobody_hears_it() -> None:
    """Group 15: and answers reads with what is no longer true. Ours:
    `test_a_leader_that_wakes_up_is_none_any_more`; a barrier shows what is committed.
    """
    with stock_cluster() as cluster:
        leader = cluster.leader()
        cluster.commit(leader, "x", 1)
        cluster.isolate(leader)
        others = [name for name in cluster.nodes if name != leader]
        new = cluster.leader(*others)
        cluster.commit(new, "x", 2)
        cluster.advance(20.0)
        assert cluster.nodes[leader].leads
        assert cluster.nodes[leader].values["x"] == 1


def test_stock_does_not_tick_while_somebody_else_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Group 16: its thread stands still for longer than any follower waits. Ours is a process of
    its own: `test_work_that_holds_the_lock_of_the_data_process_causes_no_election`.
    """
    monkeypatch.setattr(syncobj, "pickle", pysyncobj.pickle)
    conf = SyncObjConf(autoTick=False, raftMinTimeout=0.4)
    node = syncobj.SyncObj("127.0.0.1:1", [], conf, transportClass=Transport)
    ticks: list[float] = []
    ended = threading.Event()

    def tick() -> None:
        while not ended.is_set():
            node.doTick(0.0)
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    wait_for(lambda: len(ticks) > 3, "some ticks", 60)
    ctypes.PyDLL(None).usleep(1_500_000)  # as a long sort or JSON text does: the lock is held
    behind = len(ticks)
    wait_for(lambda: len(ticks) > behind + 3, "more ticks", 60)
    ended.set()
    thread.join()
    gaps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    assert max(gaps) > conf.raftMaxTimeout
    node.destroy()


class _Old(syncobj.SyncObj):  # type: ignore[misc]
    """A version with one method."""

    def __init__(self, file: Path) -> None:
        conf = SyncObjConf(autoTick=False, journalFile=str(file), raftMinTimeout=0.4)
        super().__init__("127.0.0.1:1", [], conf, transportClass=Transport)
        self.calls: list[str] = []

    def lead(self) -> None:
        self._SyncObj__raftElectionDeadline = 0
        for _ in range(6):
            self.doTick(0.0)

    @syncobj.replicated  # type: ignore[untyped-decorator]
    def put(self, key: str) -> None:
        self.calls.append(f"put {key}")


class _New(_Old):
    """The next version has one more."""

    @syncobj.replicated  # type: ignore[untyped-decorator]
    def drop(self, key: str) -> None:
        self.calls.append(f"drop {key}")


@pytest.mark.filterwarnings(LEAKS)
def test_stock_takes_one_command_for_another_after_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group 17: methods are numbered by their names' order. Ours: commands are named,
    `test_a_snapshot_of_the_first_version_is_read`.
    """
    monkeypatch.setattr(syncobj, "pickle", pysyncobj.pickle)
    old = _Old(tmp_path / "journal")
    old.lead()
    old.put("docs")
    for _ in range(4):
        old.doTick(0.0)
    assert old.calls == ["put docs"]
    old._doDestroy()
    new = _New(tmp_path / "journal")
    new.lead()
    assert new.calls == ["drop docs"]
    new._doDestroy()
    del old, new
    gc.collect()


def test_the_harness_commits_where_nothing_is_wrong() -> None:
    """Else what is shown above would show nothing."""
    with stock_cluster() as cluster:
        assert isinstance(cluster, StockCluster)
        for number, name in enumerate(("a", "b", "c")):
            cluster.leader()
            cluster.advance(0.5)
            cluster.commit(name, name, number)
        cluster.advance(0.5)
        assert [node.values for node in cluster.nodes.values()] == [{"a": 0, "b": 1, "c": 2}] * 3

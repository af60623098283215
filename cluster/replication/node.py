"""A node's part in replication: its copies' cores, run in one thread over one link.

    metadata.watch --push--> |                      | --propose--> metadata
    keeper  --attach/detach->|  loop: runners, link | <=========> other nodes
    statements --handle----->|                      | --Copy port-> engine

The thread turns at least every `tick_ms`. When it does not (another thread holds the interpreter,
the machine is starved), leases run out by themselves, and writes and linearizable reads are refused
as soon as half a lease has passed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import uuid
from collections import Counter as Counts
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from nearql.cluster.config import parse_address
from nearql.cluster.metadata.commands import Command, Result
from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.replication.clock import Clock, boottime_ms
from nearql.cluster.replication.codec import decode, encode
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.messages import Append, Message
from nearql.cluster.replication.core.timing import Timing
from nearql.cluster.replication.disks import DiskWatch
from nearql.cluster.replication.handing import all_within
from nearql.cluster.replication.handle import ShardHandle
from nearql.cluster.replication.link.calls import Calls
from nearql.cluster.replication.link.frames import Frame, Kind, Malformed
from nearql.cluster.replication.link.link import Channel, Link, LinkConfig, Patience, Peer, Source
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.replication.link.notices import Notices
from nearql.cluster.replication.runner import CopyRunner, log_state
from nearql.cluster.replication.status import (
    ReplicationStatus,
    ShardStatus,
    status_of,
)
from nearql.cluster.replication.transfer.pace import Pace
from nearql.cluster.replication.transfer.sink import Fetch
from nearql.cluster.replication.transfer.source import SnapshotSource
from nearql.cluster.replication.waiting import until_durable
from nearql.cluster.tls import TlsFiles
from nearql.engine.errors import NearQLError
from nearql.engine.shard.copy import ShardCopy
from nearql.engine.storage.wal import exit_process

logger = logging.getLogger(__name__)

ROOM_BYTES = 16 << 20  # that may wait to be sent to one node before more records are read
PUBLISH_MS = 20
_LOOK_AFTER_S = 1.0
_GONE = ShardStatus()  # of a copy that was detached while somebody asks


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """listen: (host, port). sync_bytes_per_s: of all snapshots that this node sends.

    disk_slow_ms, disk_stuck_ms: how long a disk may owe a sync; see `disks`.
    """

    name: str
    node_id: str
    listen: tuple[str, int]
    tls: TlsFiles
    sync_bytes_per_s: int = 200 << 20
    call_threads: int = 32
    disk_slow_ms: int = 5_000
    disk_stuck_ms: int = 20_000
    timing: Timing = field(default_factory=Timing)
    patience: Patience = field(default_factory=Patience)


Propose = Callable[..., Result]
Count = tuple[str, str, float, bool]  # name, help, value, whether it is a total
Renew = Callable[[str, str, str | None], ShardCopy]


class Replication:
    """See the module. For any thread, but where it says "in the loop"."""

    def __init__(
        self,
        config: ReplicationConfig,
        *,
        cluster_id: Callable[[], str],
        incarnation: Callable[[], int],
        propose: Propose,
        renew: Renew,
        clock: Clock = boottime_ms,
        give_up: Callable[[str], object] = exit_process,
    ) -> None:
        """Listen; nothing is sent or taken before `start`.

        cluster_id, incarnation: "" and 0 while this node has none. propose: `MetadataLog.propose`.
        renew: given table uuid, shard uuid and the new copy's alloc_id (None: any), puts a damaged
        copy's files aside and makes an empty one; called in a thread. give_up: ends the process.

        Raises:
            InvalidRequest: certificates. OSError: the address can't be had.
        """
        self.config, self.clock = config, clock
        self._incarnation, self._propose, self._renew = incarnation, propose, renew
        self.give_up = give_up
        self.thread = LoopThread()
        link = LinkConfig(
            config.name, config.node_id, config.listen, config.tls, cluster_id, incarnation,
            config.patience,
        )  # fmt: skip
        try:
            self.link = Link(link, self.thread)
        except BaseException:
            self.thread.close()
            raise
        self.calls = Calls(self.link, threads=config.call_threads)
        self.notices = Notices(self.link)
        self.link.on_frame[Kind.SHARD] = self._take
        self.disk = ThreadPoolExecutor(32, thread_name_prefix="replication-disk")
        self._asking = ThreadPoolExecutor(4, thread_name_prefix="replication-propose")
        self._fetching = ThreadPoolExecutor(2, thread_name_prefix="replication-fetch")
        self.source = SnapshotSource(self.calls, Pace(config.sync_bytes_per_s), self._fit_copy)
        self.counts: Counts[str] = Counts()
        self._runners: dict[str, CopyRunner] = {}
        self._handles: dict[str, ShardHandle] = {}
        self._statuses: dict[str, ShardStatus] = {}
        self._published_ms: dict[str, int] = {}
        self._fetches: dict[str, Fetch] = {}
        self._proposals: set[str] = set()  # request ids under way
        self._metadata: Metadata | None = None
        self._attached = itertools.count()  # cores of this process
        self._turned_ms = clock()
        self._moved, self._watchers = threading.Condition(), 0  # of copies: `wait_until`
        self._closed = threading.Event()
        self._disks = DiskWatch(
            lambda: list(self._runners.values()), config.disk_slow_ms, config.disk_stuck_ms,
            give_up,
        )  # fmt: skip

    # ---- Life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Accept other nodes, dial them, and let time pass."""
        self.link.start()
        self._disks.start()
        self.thread.soon(lambda: self.link.background(self._tick()))

    def close(self, timeout_s: float = 0.0) -> None:
        """Hand the primaries over, if in `timeout_s`, then end. Harmless when repeated."""
        if self._closed.is_set():
            return
        if timeout_s > 0:
            self.hand_over_all(timeout_s)
        self._closed.set()
        self._disks.close()
        for fetch in list(self._fetches.values()):
            fetch.given_up.set()
        self.thread.run(self._stop())
        self.thread.close()
        for runner in self._runners.values():
            runner.copy.follow()  # whoever waits learns that nobody can say
        for pool in (self._asking, self._fetching, self.disk):
            pool.shutdown(wait=True, cancel_futures=True)
        self.source.close()

    async def _stop(self) -> None:
        for runner in self._runners.values():
            runner.end()
        self.calls.close()
        await self.link.stop()

    @property
    def port(self) -> int:
        """On which it listens."""
        return self.link.port

    # ---- Copies ----------------------------------------------------------------------------

    def attach(self, table_uuid: str, shard: ShardRow, copy: ShardCopy) -> ShardHandle:
        """A copy on this disk is open: from now on it takes part."""
        until_durable(copy)
        return self.thread.run(self._attach(table_uuid, shard.uuid, copy))

    async def _attach(self, table_uuid: str, shard_uuid: str, copy: ShardCopy) -> ShardHandle:
        assert shard_uuid not in self._runners, f"shard {shard_uuid} is attached already"
        core = Core(
            self.config.node_id, copy.alloc_id.hex(), self._incarnation(),
            log=log_state(copy), promised_epoch=copy.promised_epoch, now_ms=self.clock(),
            timing=self.config.timing, number=next(self._attached),
        )  # fmt: skip
        runner = CopyRunner(shard_uuid, table_uuid, copy, core, self)
        handle = ShardHandle(
            runner, self.thread, self.clock,
            status=lambda: self._statuses.get(shard_uuid, _GONE),
            lag_ms=lambda: self.clock() - self._turned_ms,
            lease_ms=self.config.timing.lease_ms,
        )  # fmt: skip
        self._statuses[shard_uuid] = ShardStatus()
        self._runners[shard_uuid], self._handles[shard_uuid] = runner, handle
        runner.published = lambda: self._publish(runner)
        runner.look_after_log()
        if self._metadata is not None:
            self._tell(runner, self._metadata)
        return handle

    def detach(self, shard_uuid: str) -> None:
        """The copy takes no part any more; when this returns, nothing of replication uses it."""
        runner = self.thread.run(self._detach(shard_uuid))
        if runner is not None:
            if (fetch := self._fetches.get(shard_uuid)) is not None:
                fetch.given_up.set()
                fetch.ended.wait()
            wait(list(runner.busy))
            runner.copy.follow()

    async def _detach(self, shard_uuid: str) -> CopyRunner | None:
        runner = self._runners.pop(shard_uuid, None)
        self._handles.pop(shard_uuid, None)
        if runner is not None:
            runner.end()
        self._statuses.pop(shard_uuid, None)
        self._published_ms.pop(shard_uuid, None)
        return runner

    def shard(self, shard_uuid: str) -> ShardHandle | None:
        """The copy of a shard on this node, if there is one."""
        return self._handles.get(shard_uuid)

    def shards(self) -> Mapping[str, ShardHandle]:
        """All copies on this node."""
        return dict(self._handles)

    def _fit_copy(self, shard_uuid: str) -> ShardCopy | None:
        """A copy that others may take a snapshot of."""
        handle, runner = self._handles.get(shard_uuid), self._runners.get(shard_uuid)
        if handle is None or runner is None or not handle.readable:
            return None
        return runner.copy

    # ---- Metadata --------------------------------------------------------------------------

    def push(self, state: Metadata) -> None:
        """Metadata is this now. Returns at once."""
        self.thread.soon(self._learn, state)

    def _learn(self, state: Metadata) -> None:
        if self._metadata is not None and state.applied_index <= self._metadata.applied_index:
            return
        self._metadata = state
        self.link._set_peers(peers_of(state))
        for runner in list(self._runners.values()):
            self._tell(runner, state)

    def _tell(self, runner: CopyRunner, state: Metadata) -> None:
        table = state.tables.get(runner.table_uuid)
        rows = table.shards if table is not None else ()
        row = next((row for row in rows if row.uuid == runner.shard_uuid), None)
        incarnations = {node.node_id: node.incarnation for node in state.nodes.values()}
        fenced = frozenset(node.node_id for node in state.nodes.values() if node.fenced)
        runner.feed(ev.MetadataChanged(state.applied_index, row, incarnations, fenced))

    def propose(self, command: Command, done: Callable[[str], None]) -> None:
        """See `runner.Surroundings`: one at a time per request id."""
        if command.request_id in self._proposals or self._closed.is_set():
            return
        self._proposals.add(command.request_id)

        def ask() -> None:
            code: str | None = None
            try:
                code = self._propose(command, timeout_ms=2000).code
            except NearQLError as error:
                logger.info("metadata did not answer %s: %s", command.request_id, error.detail)
            finally:
                self.thread.soon(answered, code)

        def answered(code: str | None) -> None:
            self._proposals.discard(command.request_id)
            if code is not None:
                done(code)

        self._asking.submit(ask)

    # ---- The link, in the loop -----------------------------------------------------------------

    def send(self, node_id: str, shard_uuid: str, message: Message) -> bool:
        """See `runner.Surroundings`. Records have a connection of their own."""
        records = isinstance(message, Append) and bool(message.records)
        channel = Channel.LOG if records else Channel.BEAT
        return self.link.send(node_id, channel, Kind.SHARD, *encode(shard_uuid, message))

    def has_room(self, node_id: str) -> bool:
        """See `runner.Surroundings`."""
        dialer = self.link.dialer(node_id, Channel.LOG)
        if dialer is None or dialer.connection is None or not dialer.up:
            return False
        return dialer.connection.transport.get_write_buffer_size() < ROOM_BYTES

    def _take(self, source: Source, frame: Frame) -> None:
        try:
            shard_uuid, message = decode(frame.payload)
        except Malformed as error:
            source.connection.abort(str(error))
            return
        runner = self._runners.get(shard_uuid)
        if runner is None:
            self.counts["unknown_shard_messages"] += 1
        else:
            runner.feed(ev.Received(source.peer.node_id, message))

    # ---- Full synchronisation --------------------------------------------------------------------

    def fetch(self, runner: CopyRunner, effect: ef.FetchSnapshot) -> None:
        """See `runner.Surroundings`."""
        uuid = runner.shard_uuid
        fetch = Fetch(self.calls, runner.copy, uuid, effect.source, effect.at_least_lsn)
        self._fetches[uuid] = fetch

        def work() -> None:
            event: ev.Event = ev.SnapshotFailed()
            try:
                fetch.run()
                event = ev.SnapshotInstalled(runner.log_state())
                self.counts["snapshots_installed"] += 1
            except NearQLError as error:
                self.counts["snapshots_failed"] += 1
                logger.warning("no snapshot of shard %s: %s", uuid, error.detail)
            except Exception:  # the core must learn that nothing came
                self.counts["snapshots_failed"] += 1
                logger.exception("fetching a snapshot of shard %s failed", uuid)
            finally:
                fetch.ended.set()
                self.thread.soon(ended, event)

        def ended(event: ev.Event) -> None:
            self._fetches.pop(uuid, None)
            if isinstance(event, ev.SnapshotFailed):
                self.thread.loop.call_later(1.0, runner.feed, event)
            else:
                runner.feed(event)

        self._fetching.submit(work).add_done_callback(lambda _: fetch.ended.set())

    def renew(self, runner: CopyRunner, alloc_id: str | None) -> None:
        """See `runner.Surroundings`."""

        def work() -> None:
            copy = self._renew(runner.table_uuid, runner.shard_uuid, alloc_id)
            self.thread.soon(runner.replaced, copy)

        def check(done: object) -> None:
            error = future.exception()
            if error is not None:
                logger.error("no new copy of shard %s", runner.shard_uuid, exc_info=error)

        future = self.disk.submit(work)
        future.add_done_callback(check)

    # ---- Time, in the loop ---------------------------------------------------------------------

    async def _tick(self) -> None:
        tick_s = self.config.timing.tick_ms / 1000
        looked_s = 0.0
        while True:
            await asyncio.sleep(max(tick_s, len(self._runners) * 0.0005))
            self._turned_ms = self.clock()
            for runner in list(self._runners.values()):
                runner.feed(ev.Tick())
            looked_s += tick_s
            if looked_s >= _LOOK_AFTER_S:
                looked_s = 0.0
                self._look_after()

    def _look_after(self) -> None:
        for runner in list(self._runners.values()):
            runner.look_after_log()
        self.disk.submit(self.source.sweep)

    def _publish(self, runner: CopyRunner) -> None:
        """Let others see where the copy stands: at once where its part has changed."""
        uuid, now_ms, core = runner.shard_uuid, self.clock(), runner.core
        if self._watchers:
            self.thread.loop.call_soon(self._tell_watchers)  # after this, or what follows from it
        before = self._statuses.get(uuid)
        if before is None:
            return
        epoch = core.role.epoch if core.role is not None else core.copy.promise.epoch
        isr = tuple(core.copy.row.isr) if core.copy.row else ()
        same = (core.state.value, epoch, isr) == (before.role, before.epoch, before.isr)
        if same and now_ms - self._published_ms.get(uuid, 0) < PUBLISH_MS and not runner.alarm:
            return
        fetch = self._fetches.get(uuid)
        self._published_ms[uuid] = now_ms
        self._statuses[uuid] = status_of(
            core, now_ms, ages=runner.ages, alarm=runner.alarm, stopped=runner.ended,
            before=before, sync=fetch.progress if fetch else None,
        )  # fmt: skip

    def _tell_watchers(self) -> None:
        with self._moved:
            self._moved.notify_all()

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something holds of the copies here; asked whenever one of them has moved, and
        hence at least with every tick. False: the time was up first.

        is_so: does not wait; what it raises, this raises.
        """
        with self._moved:
            self._watchers += 1
            try:
                return self._moved.wait_for(is_so, timeout_s)
            finally:
                self._watchers -= 1

    # ---- Repair --------------------------------------------------------------------------------

    def condemn(self, shard_uuid: str, reason: str) -> None:
        """What the copy here holds is not what the others hold: it is to be made anew.

        Like damage found on its disk; metadata refuses where it is the last one in sync.
        """
        runner = self._runners.get(shard_uuid)
        if runner is not None:
            self.thread.soon(runner.feed, ev.Corrupted(reason, uuid.uuid4().hex))

    # ---- Handing over --------------------------------------------------------------------------

    def hand_over(self, shard_uuid: str, target: str, timeout_s: float) -> str:
        """Make the copy on node `target` the primary, losing nothing; "" or why it failed."""
        runner = self._runners.get(shard_uuid)
        if runner is None:
            return "this node has no copy of the shard"
        token, waiter = runner.hand_offs.ask()
        until_ms = self.clock() + int(timeout_s * 1000)
        self.thread.soon(runner.feed, ev.HandOff(target, until_ms))
        done = waiter.wait(timeout_s + 1)
        runner.hand_offs.drop(token)
        if done is None:
            return "no answer"
        return "" if done.ok else done.reason

    def hand_over_all(self, timeout_s: float) -> dict[str, str]:
        """Give all primaries to other nodes, in `timeout_s` and a second; by shard uuid, why it
        failed for some.
        """
        wanted = {
            uuid: target
            for uuid, status in list(self._statuses.items())
            if (target := _successor(status, self.config.node_id)) is not None
        }
        reasons = all_within(wanted, self.hand_over, timeout_s, self.clock)
        return {uuid: reason for uuid, reason in reasons.items() if reason}

    # ---- Status --------------------------------------------------------------------------------

    def heard(self) -> dict[str, float]:
        """Seconds since anything came from each node."""
        return self.link.heard()

    def positions(self) -> dict[str, tuple[int, int]]:
        """Last epoch and LSN of each copy, to choose among candidates."""
        ends = {uuid: runner.copy.end for uuid, runner in list(self._runners.items())}
        return {uuid: (end.epoch, end.lsn) for uuid, end in ends.items()}

    def status(self) -> ReplicationStatus:
        """All of it; cheap."""
        counts = tuple(
            (f"replication_{name}", text, value, is_total)
            for name, text, value, is_total in self._counters()
        )
        return ReplicationStatus(dict(self._statuses), counts)

    def _counters(self) -> list[Count]:
        """What `/metrics` shows beside the shards; documented in docs/operating.md."""
        link, calls = self.link.totals(), self.calls.servers[Channel.CALL]
        runners = list(self._runners.values())
        snapshots = self.counts
        lag_s = max(0, self.clock() - self._turned_ms) / 1000
        return [
            ("connections", "Channels to other nodes that are up.", link.up, False),
            ("connects", "Channels to other nodes that came up.", link.connects, True),
            ("refused_connections", "Connections that were none of ours.", link.refused, True),
            ("sent_bytes", "Sent to other nodes.", link.sent_bytes, True),
            ("received_bytes", "Received from other nodes.", link.received_bytes, True),
            ("calls", "Requests of other nodes.", calls.counts["calls"], True),
            ("calls_refused", "Those that were refused.", calls.counts["refused"], True),
            ("dropped_messages", "Messages that came while a copy waited for its disk.",
             sum(runner.dropped_messages for runner in runners), True),
            ("snapshot_sent_bytes", "Sent of snapshots.", self.source.sent_bytes, True),
            ("snapshots_installed", "Snapshots that copies here took.",
             snapshots["snapshots_installed"], True),
            ("snapshots_failed", "Snapshots that broke off.", snapshots["snapshots_failed"], True),
            ("loop_lag_seconds", "Since the thread of replication last turned.", lag_s, False),
        ]  # fmt: skip


def _successor(status: ShardStatus, me: str) -> str | None:
    """The copy in sync that has most of the log, where this one is the primary."""
    if status.primary != me or not status.peers:
        return None
    fit = [node for node in status.isr if node != me and node in status.peers]
    return max(fit, key=lambda node: (status.peers[node].durable_lsn, node), default=None)


def peers_of(state: Metadata) -> dict[str, Peer]:
    """The nodes that can be dialled, by node id."""
    found = {}
    for node in state.nodes.values():
        if node.replication:
            host, port = parse_address(node.replication)
            found[node.node_id] = Peer(node.name, node.node_id, host, port)
    return found

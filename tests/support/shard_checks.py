"""What must hold in every moment of a schedule; the first that does not ends it.

- committed: what any copy commits at an LSN is the same record everywhere and for ever;
- in sync: what the primary commits is durable on every member that metadata has at that moment,
  and who becomes a member has all that is committed;
- one primary per epoch; nobody answers while a later primary is active (the lease);
- acknowledged at majority is committed; nobody acknowledges what its disk does not have, nor in an
  older epoch than before;
- a committed record is never cut, where it counts (`_cut`);
- a linearizable read shows all that was answered before it was asked;
- nobody halts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core.events import Received
from nearql.cluster.replication.core.messages import Ack, Record, SyncOk
from nearql.cluster.replication.core.primary import Primary

if TYPE_CHECKING:
    from support.shard_node import Node
    from support.shard_world import World


class Broken(AssertionError):
    """An invariant does not hold."""


class Checks:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.committed: dict[int, Record] = {}
        self.commit_epochs: dict[int, int] = {}  # LSN -> the oldest epoch that committed it
        self.followed: dict[str, int] = {}  # alloc_id -> the newest epoch it has acknowledged in
        self.committed_lsn = 0
        self.reigns: dict[int, tuple[str, int]] = {}  # epoch -> who was active in it
        self.active_epoch = 0  # the newest of them

    def effect(self, node: Node, effect: Any) -> None:
        """Before it is carried out."""
        kind = type(effect)
        if kind is ef.Send:
            message = effect.message
            if type(message) is Ack:
                self._acknowledged(node, message)
        elif kind is ef.SetCommit:
            self._commit(node, effect.lsn)
        elif kind is ef.Truncate:
            self._cut(node, effect.end_lsn)
        elif kind is ef.Lead:
            self._lead(node, effect.epoch)

    def _lead(self, node: Node, epoch: int) -> None:
        who = node.name, node.incarnation
        if self.reigns.setdefault(epoch, who) != who:
            raise Broken(f"epoch {epoch} has two primaries: {self.reigns[epoch]} and {who}")
        self.active_epoch = max(self.active_epoch, epoch)

    def _acknowledged(self, node: Node, ack: Ack) -> None:
        if ack.durable_lsn > node.disk.durable_lsn:
            raise Broken(f"{node.name} acknowledged what it had not synced")
        self._follows(node, ack.epoch)
        self.followed[node.disk.alloc_id] = ack.epoch

    def _follows(self, node: Node, epoch: int) -> None:
        newest = self.followed.get(node.disk.alloc_id, 0)
        if epoch < newest:
            raise Broken(f"{node.name} follows epoch {epoch}, and had acknowledged in {newest}")

    def _commit(self, node: Node, lsn: int) -> None:
        assert node.core is not None
        assert node.core.role is not None
        disk, epoch = node.disk, node.core.role.epoch
        if lsn > disk.durable_lsn:
            raise Broken(f"{node.name} commits LSN {lsn} before it is durable there")
        for at in range(max(disk.first_lsn, disk.base_lsn + 1, node.committed_lsn + 1), lsn + 1):
            record = disk.at(at)
            assert record is not None
            if self.committed.setdefault(at, record) != record:
                raise Broken(f"{node.name} commits {record}, but {self.committed[at]} was")
            self.commit_epochs[at] = min(epoch, self.commit_epochs.get(at, epoch))
        node.committed_lsn = lsn
        self.committed_lsn = max(self.committed_lsn, lsn)
        if isinstance(node.core.role, Primary):
            for member in self.world.shard.isr:
                if not self._has(self.world.nodes[member], lsn):
                    raise Broken(f"LSN {lsn} was committed, but in-sync {member} does not have it")
            self._is_safe(lsn)

    def _is_safe(self, lsn: int) -> None:
        """What is committed lies on min_isr disks, those included that were lost since."""
        shard, nodes, lost = self.world.shard, self.world.nodes, self.world.nemesis.lost
        copies = sum(name in lost or self._has(nodes[name], lsn) for name in shard.replicas)
        if copies < shard.min_isr:
            raise Broken(f"LSN {lsn} was committed on {copies} disks only")

    def _has(self, node: Node, lsn: int) -> bool:
        """Whether an undamaged disk has what is committed up to `lsn`."""
        disk = node.disk
        if node.damaged or disk.alloc_id != self.world.shard.replicas[node.name]:
            return True  # a lost disk is allowed for
        if disk.base_lsn >= lsn:
            return True
        return disk.durable_lsn >= lsn and disk.at(lsn) == self.committed.get(lsn)

    def membership(self, added: set[str]) -> None:
        """Metadata has taken these into the in-sync set."""
        for member in sorted(added):
            if not self._has(self.world.nodes[member], self.committed_lsn):
                raise Broken(f"{member} joined the in-sync set without LSN {self.committed_lsn}")

    def _cut(self, node: Node, end_lsn: int) -> None:
        """Every primary has what was committed in earlier epochs and its own, so none of them cuts
        it. One that was deposed before the commit may lack it, and cut it from a copy that has not
        heard of the commit's epoch: such a copy has acknowledged nothing in it, so that nothing
        counts on it, and it is outside the in-sync set. (So it is in Raft, where a leader of an
        earlier term cuts from a follower what a later one has committed on others.)
        """
        event = node.events[0]  # from outside the core, which may err
        assert isinstance(event, Received)
        assert isinstance(event.message, SyncOk)
        epoch, shard = event.message.epoch, self.world.shard
        self._follows(node, epoch)
        counts = node.name in shard.isr and shard.replicas[node.name] == node.disk.alloc_id
        for record in node.disk.records[end_lsn - node.disk.first_lsn + 1 :]:
            if self.committed.get(record.lsn) != record:
                continue
            if counts or epoch >= self.commit_epochs[record.lsn]:
                raise Broken(f"{node.name} cut {record}, which was committed, in epoch {epoch}")

    def installed(self, node: Node) -> None:
        """A snapshot replaced the copy."""
        node.committed_lsn = node.disk.base_lsn
        if node.disk.base_lsn > self.committed_lsn:
            raise Broken(f"a snapshot at LSN {node.disk.base_lsn} is not committed")
        if node.name in self.world.shard.isr and not self._has(node, self.committed_lsn):
            raise Broken(f"in-sync {node.name} gave its log away")

    def answered(self, node: Node, record: Record, answer: ef.Answer, *, strong: bool) -> None:
        """A writer is told that its concern is met. strong: it asked for the commit."""
        self.leased(node, f"answered LSN {record.lsn}")
        if strong and self.committed.get(record.lsn) != record:
            raise Broken(f"{node.name} acknowledged {record}, which is not committed")
        if answer.committed and self.committed.get(record.lsn) != record:
            raise Broken(f"{node.name} called {record} committed, which it is not")
        if node.disk.durable_lsn < record.lsn:
            raise Broken(f"{node.name} acknowledged {record} before its own disk had it")

    def leased(self, node: Node, what: str) -> None:
        """Whoever answers as primary must be the newest one that is active."""
        core = node.core
        if core is not None and isinstance(core.role, Primary):
            epoch = core.role.epoch
            if epoch < self.active_epoch:
                raise Broken(f"{node.name} of epoch {epoch} {what} in epoch {self.active_epoch}")

    def read(self, node: Node, lsn: int, least: int) -> None:
        """A linearizable read shows everything up to `lsn`."""
        if lsn < least:
            raise Broken(f"stale read on {node.name}: LSN {lsn}, though {least} was known")

    def alarm(self, node: Node, effect: ef.Alarm) -> None:
        """A damaged copy says so; any other alarm is one too many."""
        if not node.damaged:
            raise Broken(f"{node.name} halted: {effect.reason}")

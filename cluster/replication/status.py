"""What replication says of itself: for `/v1/cluster`, `nearql.shards` and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nearql.cluster.replication.ages import Ages
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.primary import Primary
from nearql.cluster.replication.core.replica import Replica


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Another copy, as its primary knows it. lag_ms: 0 = it has all; else how old the
    first record is that it lacks.
    """

    durable_lsn: int
    applied_lsn: int
    lag_ms: int | None
    synced: bool


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """A copy that takes a snapshot. kind: full; done, total: bytes. One that is sent records alone
    is told of by its primary: `PeerStatus`.
    """

    kind: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One copy. role: the state's name. copies: of the shard, by metadata; members: those of them
    that a write concern counts on, without one that is being made (for a move, or one copy more).

    complete: in this life it once showed everything that was committed then. awaited_lsn: how far
    that is, once it is known: a copy that comes back has its log, and must be told how much of it
    is committed. fresh_ms: when a primary with a valid lease was last heard. refusals: of writes,
    by concern.
    """

    role: str = "empty"
    epoch: int = 0
    primary: str | None = None
    isr: tuple[str, ...] = ()
    copies: int = 0
    members: int = 0
    end_lsn: int = 0
    durable_lsn: int = 0
    commit_lsn: int = 0
    applied_lsn: int = 0
    lease_valid: bool = False
    fenced: int = 0
    alarm: str | None = None
    complete: bool = False
    awaited_lsn: int | None = None
    fresh_ms: int | None = None
    heard_commit_lsn: int = 0
    peers: Mapping[str, PeerStatus] = field(default_factory=dict)
    refusals: Mapping[str, str | None] = field(default_factory=dict)
    sync: SyncProgress | None = None

    def staleness_ms(self, now_ms: int, lease_ms: int) -> int | None:
        """How old what this replica shows may be; None where no primary was heard.

        A primary whose lease was valid when it spoke may have been one for a lease's length less.
        """
        return None if self.fresh_ms is None else now_ms - self.fresh_ms + lease_ms


@dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """All of this node's copies, by shard uuid, and counters: (name, help, value, is a total)."""

    shards: Mapping[str, ShardStatus]
    counts: tuple[tuple[str, str, float, bool], ...]


def status_of(
    core: Core, now_ms: int,
    *, ages: Ages, alarm: str | None, stopped: bool, before: ShardStatus, sync: SyncProgress | None,
) -> ShardStatus:  # fmt: skip
    """What the core of a copy shows. stopped: it takes no part any more. before: what it showed
    last. In the loop.
    """
    copy, log, role = core.copy, core.copy.log, core.role
    primary = role if isinstance(role, Primary) else None
    replica = role if isinstance(role, Replica) else None
    recorded = copy.row.primary if copy.row is not None else None
    awaited = before.awaited_lsn if before.awaited_lsn is not None else _awaited_lsn(core)
    following = replica.primary if replica is not None else recorded
    return ShardStatus(
        role="halted" if stopped else core.state.value,
        epoch=role.epoch if role is not None else copy.promise.epoch,
        primary=copy.node_id if primary is not None else following,
        isr=tuple(copy.row.isr) if copy.row else (),
        copies=len(copy.row.replicas) if copy.row else 0,
        members=len(copy.row.replicas) - (copy.row.adding is not None) if copy.row else 0,
        end_lsn=log.end_lsn,
        durable_lsn=log.durable_lsn,
        commit_lsn=log.commit_lsn,
        applied_lsn=log.applied_lsn,
        lease_valid=core.lease_valid(now_ms),
        fenced=core.fenced_messages,
        alarm=core.halted or alarm,
        complete=before.complete
        or (copy.in_sync and awaited is not None and log.applied_lsn >= awaited),
        awaited_lsn=awaited,
        fresh_ms=replica.fresh_ms if replica else None,
        heard_commit_lsn=replica._heard_commit if replica else log.commit_lsn,
        peers=_peers(primary, log.end_lsn, now_ms, ages) if primary and not stopped else {},
        refusals=_refusals(core, now_ms) if primary else {},
        sync=sync,
    )


def _awaited_lsn(core: Core) -> int | None:
    """Up to where a copy in sync must show its log to have all that was committed when this was
    asked; None while it can't know. What the primary of an epoch says is committed counts from
    EPOCH_START on: before, it may not know itself.
    """
    copy, role = core.copy, core.role
    if not copy.in_sync:
        return None
    if isinstance(role, Primary):
        return role.start_lsn if role.active else None
    if role is None or role.fresh_ms is None or not copy.log.vector:
        return None
    epoch, start_lsn = copy.log.vector[-1]
    heard = role._heard_commit
    return heard if epoch == role.epoch and heard >= start_lsn else None


def _refusals(core: Core, now_ms: int) -> dict[str, str | None]:
    concerns = {"one": ev.ONE, "majority": ev.MAJORITY, "all": _concern_of_all(core)}
    return {name: core.refusal(now_ms, concern) for name, concern in concerns.items()}


def _concern_of_all(core: Core) -> ev.Concern:
    """What must hold before a write of `all` is logged: every member is in sync. A copy that is
    being made is none yet; it joins the in-sync set only with all that was committed before.
    """
    row = core.copy.row
    if row is not None and set(row.replicas) - set(row.isr) == {row.adding}:
        return ev.MAJORITY  # of which the in-sync set, and so every member, is more
    return ev.ALL


def _peers(primary: Primary, end_lsn: int, now_ms: int, ages: Ages) -> dict[str, PeerStatus]:
    assert primary.copy.row is not None
    found = {}
    for node in primary.copy.row.replicas:
        peer = primary.peers.get(node)
        if node == primary.copy.node_id:
            continue
        if peer is None:
            found[node] = PeerStatus(0, 0, None, synced=False)
            continue
        lag_ms: int | None = 0
        if peer.durable_lsn < end_lsn:  # from before this reign: since it last had everything
            lag_ms = ages.behind_ms(peer.durable_lsn, now_ms)
            lag_ms = max(0, now_ms - peer.caught_up_ms) if lag_ms is None else lag_ms
        found[node] = PeerStatus(peer.durable_lsn, peer.applied_lsn, lag_ms, synced=True)
    return found

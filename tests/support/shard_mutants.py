"""The protocol without one of its rules, each under a name that says which.

The simulator must notice every one of them: a rule whose absence nobody notices would be one that
nobody tests. `mutant(name)` takes the rule away while it is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from nearql.cluster.metadata import nodes, shards, state
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.core import _HANDLERS, Core
from nearql.cluster.replication.core.insync import InSyncSet
from nearql.cluster.replication.core.lease import Promise
from nearql.cluster.replication.core.log import Log
from nearql.cluster.replication.core.peers import Peer
from nearql.cluster.replication.core.primary import Primary
from nearql.cluster.replication.core.questions import Questions
from nearql.cluster.replication.core.replica import Replica
from support.shard_node import _EFFECTS
from support.shard_world import World

Patch = tuple[Any, str, Any]


# ---- Metadata ------------------------------------------------------------------------------


def _same_epoch(shard: shards.ShardRow, node_id: str) -> shards.ShardRow:
    return shard


def _anybody(metadata: Any, shard: shards.ShardRow, command: shards.Promote) -> Any:
    refusal = shards._not_alive(metadata, command.node_id, command.incarnation)
    isr = tuple(sorted({*shard.isr, command.node_id}))
    return refusal or replace(shard, primary=command.node_id, epoch=shard.epoch + 1, isr=isr)


def _anybody_alive(world: World, candidates: list[str]) -> None:
    rows = world.metadata.nodes
    alive = [n for n in world.names if not rows[n].fenced and n in world.heard]
    _PROMOTE(world, candidates or alive)


_PROMOTE = World.promote


def _trusted(metadata: Any, node_id: str, incarnation: int) -> None:
    """Whatever incarnation the primary knows, it will do."""


def _stays_in_sync(metadata: Any, shard: shards.ShardRow, command: shards.CopyLost) -> Any:
    return replace(shard, replicas={**shard.replicas, command.node_id: command.new_alloc_id})


def _any_size(metadata: Any, shard: shards.ShardRow, command: shards.IsrChange) -> Any:
    changed = _ISR_CHANGE(metadata, replace(shard, min_isr=1), command)
    return (
        replace(changed, min_isr=shard.min_isr) if isinstance(changed, shards.ShardRow) else changed
    )


_ISR_CHANGE = shards._isr_change


def _handler(kind: type[Any], change: Callable[..., Any]) -> Patch:
    return state._HANDLERS, kind, shards._on_row(change)  # type: ignore[return-value]


# ---- Fencing, epochs -----------------------------------------------------------------------


def _hears_everybody(core: Core, event: Any) -> None:
    """Messages of older epochs are listened to."""
    message = event.message
    if isinstance(message, msg.Fenced) or core.halted is not None:
        return
    epoch = core.role.epoch if core.role is not None else 0
    if not isinstance(message, msg.LeaseRelease) and message.epoch < core.copy.promise.epoch:
        if core.role is not None:
            mine = replace(message, epoch=epoch)
            if isinstance(core.role, Replica) and isinstance(mine, msg.Append):
                core.role.session, core.role.synced = mine.session, True
                core.role.primary = event.sender
            core._deliver(event.sender, mine)
        return
    _ON_MESSAGE(core, event)


_ON_MESSAGE = Core._on_message


def _cut_by_anybody(core: Core, event: Any) -> None:
    """What a deposed primary said of the log is done, as if the present one had said it."""
    message, role = event.message, core.role
    deposed = isinstance(message, msg.SyncOk) and message.epoch < core.copy.promise.epoch
    if not deposed or not isinstance(role, Replica) or role.primary is None:
        _ON_MESSAGE(core, event)
    elif core.copy.settled:
        role.synced = False
        role.on_sync_ok(replace(message, epoch=role.epoch, session=role.session))


def _goes_on_reigning(core: Core, event: Any) -> None:
    """A higher epoch in a message ends no reign."""
    if event.message.epoch > core.copy.promise.epoch:
        return
    _ON_MESSAGE(core, event)


def _forgets(core: Core, epoch: int) -> None:
    core.copy.promise.epoch = max(core.copy.promise.epoch, epoch)


def _never_reigned(core: Core, row: shards.ShardRow) -> bool:
    return False


def _replaced_alone(core: Core, event: Any) -> None:
    """The new copy's files don't know what was promised."""
    persisted = core._persisted_epoch
    with patch.object(core, "_take_role", lambda *_, **__: None):
        _REPLACED(core, event)
    core._persisted_epoch = persisted
    if core.copy.row is not None and core._takes_part(core.copy.row):
        core._take_role(core.copy.row, reborn=False)


_REPLACED = Core._on_replaced


def _trusts_metadata(core: Core, row: shards.ShardRow) -> None:
    """Whatever it says is the newest."""


def _cuts_anything(replica: Replica, answer: msg.SyncOk) -> str | None:
    replica.copy.log.commit_lsn = min(replica.copy.log.commit_lsn, answer.cut_lsn)
    replica.copy.log.base_lsn = replica.copy.log.applied_lsn = replica.copy.log.commit_lsn
    return _ON_SYNC_OK(replica, answer)


def _lost_or_not(primary: Primary, sync: msg.Sync) -> bool:
    return True


# ---- Synchronising -------------------------------------------------------------------------


def _high_watermark(replica: Replica, answer: msg.SyncOk) -> str | None:
    """Cut at what one knows to be committed, and believe the rest (Kafka before KIP-101)."""
    log = replica.copy.log
    cut = log.commit_lsn if not replica.copy.in_sync else log.end_lsn
    return _ON_SYNC_OK(replica, replace(answer, cut_lsn=max(cut, log.commit_lsn)))


_ON_SYNC_OK = Replica.on_sync_ok


def _at_commit(replica: Replica, answer: msg.SyncOk) -> str | None:
    """Cut at what one knows to be committed here, which a restart forgets."""
    cut = min(answer.cut_lsn, replica.copy.log.commit_lsn)
    return _ON_SYNC_OK(replica, replace(answer, cut_lsn=cut))


def _any_answer(replica: Replica, epoch: int, session: msg.Session) -> bool:
    return not replica.synced and replica.copy.settled and epoch == replica.epoch


def _session_of_any(replica: Replica, message: msg.Append) -> None:
    replica.synced = True
    _ON_APPEND(replica, replace(message, session=replica.session))


_ON_APPEND = Replica.on_append


def _joins_anywhere(replica: Replica, message: msg.Append) -> bool:
    return message.prev_lsn <= replica.copy.log.end_lsn


def _full_for_anybody(primary: Primary, sender: str, cut: int) -> bool:
    return cut < primary.copy.log.end_lsn


def _gives_log_away(replica: Replica, answer: msg.SyncFull) -> None:
    if replica._is_answer(answer.epoch, answer.session) and replica.primary is not None:
        replica.copy.fetching = True
        replica.copy.out.append(ef.FetchSnapshot(replica.primary, replica.epoch, 0))


def _same_session(peer: Peer, sync: msg.Sync) -> bool:
    return sync.session == peer.session


def _any_copy(primary: Primary, sender: str, sync: msg.Sync) -> bool:
    peer = primary.peers.get(sender)
    return peer is None or sync.session >= peer.session


def _whole_log(replica: Replica) -> None:
    """Acknowledge whatever is in the log, before it was compared with the primary's."""
    replica.synced = True
    replica._acknowledge()
    replica.synced = False


def _asks_and_acknowledges(replica: Replica) -> None:
    _ASK(replica)
    if replica.primary is not None and replica.copy.settled:
        _whole_log(replica)


_ASK = Replica._ask


# ---- Commit --------------------------------------------------------------------------------


def _any_ack(primary: Primary, sender: str, ack: msg.Ack) -> None:
    peer = primary.peers.get(sender)
    if peer is not None and primary.active:
        end = primary.copy.log.end_lsn
        received, durable = min(ack.received_lsn, end), min(ack.durable_lsn, end)
        mine = replace(
            ack, epoch=primary.epoch, session=peer.session,
            received_lsn=max(received, durable), durable_lsn=durable,
        )  # fmt: skip
        _ON_ACK(primary, sender, mine)


_ON_ACK = Primary.on_ack


def _ack_of_any_epoch(core: Core, event: Any) -> None:
    message = event.message
    if isinstance(message, msg.Ack) and isinstance(core.role, Primary):
        _any_ack(core.role, event.sender, message)
    else:
        _ON_MESSAGE(core, event)


def _received_counts(peer: Peer, ack: msg.Ack, end_lsn: int, now_ms: int) -> None:
    _PEER_ACK(peer, replace(ack, durable_lsn=ack.received_lsn), end_lsn, now_ms)


_PEER_ACK = Peer.on_ack


def _only_proposed(in_sync: InSyncSet) -> frozenset[str]:
    return frozenset(in_sync.proposal.isr) if in_sync.proposal else in_sync.recorded


def _only_recorded(in_sync: InSyncSet) -> frozenset[str]:
    return in_sync.recorded


def _appended_is_durable(log: Log, lsn: int, generation: int) -> None:
    log.durable_lsn = log.end_lsn


def _unsynced_acknowledge(replica: Replica) -> None:
    log = replica.copy.log
    log.durable_lsn = log.end_lsn
    _ACKNOWLEDGE(replica)


_ACKNOWLEDGE = Replica._acknowledge


def _any_generation(log: Log, lsn: int, generation: int) -> None:
    log.durable_lsn = max(log.durable_lsn, min(lsn, log.end_lsn))


def _joins_early(in_sync: InSyncSet, node: str, peer: Peer, joining_lsn: int) -> bool:
    return _MAY_JOIN(in_sync, node, peer, 0)


_MAY_JOIN = InSyncSet._may_join


def _too_few(primary: Primary) -> None:
    """The commit LSN moves on whatever the size of the in-sync set."""
    row = primary.copy.row
    assert row is not None
    primary.copy.row = replace(row, min_isr=1)
    try:
        _ADVANCE(primary)
    finally:
        primary.copy.row = row


_ADVANCE = Primary.advance


def _down_to_one(in_sync: InSyncSet, peers: dict[str, Peer], joining_lsn: int) -> frozenset[str]:
    copy = in_sync._copy
    row = copy.row
    assert row is not None
    copy.row = replace(row, min_isr=1)
    try:
        return _WANTED(in_sync, peers, joining_lsn)
    finally:
        copy.row = row


_WANTED = InSyncSet._wanted


def _beyond_the_log(log: Log, lsn: int) -> bool:
    log.commit_lsn = max(log.commit_lsn, min(lsn, log.end_lsn))
    return True


# ---- The lease -----------------------------------------------------------------------------


def _never_binds(_promise: Promise, _now_ms: int) -> bool:
    return False


def _boots_free(self: Promise, epoch: int, until_ms: int) -> None:
    _PROMISE(self, epoch, 0)


_PROMISE = Promise.__init__


def _always(_primary: Primary) -> bool:
    return True


def _reads_at_once(primary: Primary) -> bool:
    return primary.active and primary.lease_valid


def _released_for_ever(promise: Promise, epoch: int, heartbeat: int) -> None:
    promise.until_ms = 0


def _keeps_the_lease(primary: Primary) -> None:
    """A hand-off releases the lease, and the primary goes on as if it had it."""


def _number_of_any_life(questions: Questions) -> int:
    questions._count += 1
    return questions._count


# ---- Clients -------------------------------------------------------------------------------


def _says_yes(primary: Primary) -> None:
    for wait in primary.waits.everybody():
        primary._answer(wait, known=True, met=True)
    _END(primary)


_END = Primary.end


def _property(function: Callable[[Any], Any]) -> property:
    return property(function)


MUTANTS: dict[str, list[Patch]] = {
    # The design's fourteen.
    "a restarted primary resumes its epoch": [
        (nodes, "_reign_anew", _same_epoch),
        (Core, "_may_have_reigned", _never_reigned),
    ],
    "a copy that was lost stays in sync": [_handler(shards.CopyLost, _stays_in_sync)],
    "an earlier life is taken into the set": [(shards, "_not_alive", _trusted)],
    "anybody is promoted": [
        _handler(shards.Promote, _anybody),
        (World, "promote", _anybody_alive),
    ],
    "min_isr is one": [
        (InSyncSet, "_wanted", _down_to_one),
        _handler(shards.IsrChange, _any_size),
        (Primary, "advance", _too_few),
    ],
    "no promise is waited for": [(Promise, "binds", _never_binds)],
    "messages of older epochs are heard": [(Core, "_on_message", _hears_everybody)],
    "logs are cut at the commit LSN known there": [(Replica, "on_sync_ok", _at_commit)],
    "logs are not cut": [(Replica, "on_sync_ok", _high_watermark)],
    "any acknowledgement counts": [(Core, "_on_message", _ack_of_any_epoch)],
    "acknowledgements of older sessions count": [(Primary, "on_ack", _any_ack)],
    "no lease is needed": [(Primary, "lease_valid", _property(_always))],
    "a shrunken set counts before metadata has it": [(InSyncSet, "_counted", _only_proposed)],
    "acknowledged before it is synced": [(Replica, "_acknowledge", _unsynced_acknowledge)],
    "an answer to an older SYNC is taken": [(Replica, "_is_answer", _any_answer)],
    "acknowledged beyond what was compared": [(Replica, "_ask", _asks_and_acknowledges)],
    # Ours.
    "a joining member counts only once metadata has it": [(InSyncSet, "_counted", _only_recorded)],
    "received counts as durable": [(Peer, "on_ack", _received_counts)],
    "appended counts as durable": [(Log, "note_durable", _appended_is_durable)],
    "a flush from before a cut counts": [(Log, "note_durable", _any_generation)],
    "a copy joins before it has all that is committed": [(InSyncSet, "_may_join", _joins_early)],
    "a copy commits what it has not synced": [(Log, "commit", _beyond_the_log)],
    "a promise is not persisted": [(Core, "_promise", _forgets)],
    "a restarted copy has promised nothing": [(Promise, "__init__", _boots_free)],
    "a release frees from later promises": [(Promise, "release", _released_for_ever)],
    "a released lease is relied on": [(Primary, "release_lease", _keeps_the_lease)],
    "reads before EPOCH_START is committed": [(Primary, "can_read", _property(_reads_at_once))],
    "an in-sync copy takes a snapshot": [
        (Primary, "_needs_snapshot", _full_for_anybody),
        (Replica, "on_sync_full", _gives_log_away),
    ],
    "a copy that is not listed is served": [(Primary, "_is_current", _any_copy)],
    "records of any session are taken": [(Replica, "on_append", _session_of_any)],
    "a deposed primary's SYNC_OK is taken": [(Core, "_on_message", _cut_by_anybody)],
    "a primary reigns on beside a later one": [(Core, "_on_message", _goes_on_reigning)],
    "commits with too few in sync": [(Primary, "advance", _too_few)],
    "metadata may go back": [(Core, "_went_back", _trusts_metadata)],
    "a committed record is cut": [(Replica, "on_sync_ok", _cuts_anything)],
    "a primary need not have what others committed": [(Primary, "_lost_knowingly", _lost_or_not)],
    "an answer to a former life's question is taken": [(Questions, "_number", _number_of_any_life)],
    "a session is known by its number alone": [(Peer, "asks_again", _same_session)],
    "a copy that is opened again resumes its epoch": [(Core, "_may_have_reigned", _never_reigned)],
    "a copy in the place of another one has promised nothing": [
        (Core, "_on_replaced", _replaced_alone)
    ],
    "writers of an ended reign are told yes": [(Primary, "end", _says_yes)],
}

# Those that schedules seldom or never notice, since another rule stands behind them: each has a
# scene of its own in tests/cluster/replication/test_rules.py.
DIRECTED = frozenset(
    {
        "an earlier life is taken into the set",
        "any acknowledgement counts",
        "acknowledgements of older sessions count",
        "a promise is not persisted",
        "a restarted copy has promised nothing",
        "a release frees from later promises",
        "a released lease is relied on",
        "an answer to a former life's question is taken",
        "a session is known by its number alone",
        "records of any session are taken",
        "an in-sync copy takes a snapshot",
        "a copy that is not listed is served",
        "a primary reigns on beside a later one",
        "commits with too few in sync",
        "metadata may go back",
        "a committed record is cut",
        "a primary need not have what others committed",
        "a copy in the place of another one has promised nothing",
    }
)


@contextmanager
def mutant(name: str) -> Iterator[None]:
    """The protocol without that rule."""
    with ExitStack() as stack:
        for place, attribute, value in MUTANTS[name]:
            if isinstance(place, dict):
                stack.enter_context(patch.dict(place, {attribute: value}))
            else:
                old = getattr(place, attribute)
                stack.enter_context(patch.object(place, attribute, value))
                stack.enter_context(_dispatched(_HANDLERS, old, value))
                stack.enter_context(_dispatched(_EFFECTS, old, value))
        yield


@contextmanager
def _dispatched(table: dict[Any, Any], old: Any, new: Any) -> Iterator[None]:
    """Dispatch tables hold the functions themselves."""
    changed = {key: new for key, function in table.items() if function is old}
    with patch.dict(table, changed):
        yield

"""One instant of all tables: the end of every shard's log while no shard's writer can go on.

Writers hold their shard's lock while they evaluate and log. Whoever holds the locks of all shards
at once, and notes where each log ends, has one instant: a write that was answered before it is in,
one that began after it is not, whichever tables they are of. On a cluster the primaries lie on
several nodes, so each node holds its own for a while, and says so:

    node asked    ask n2: hold ---> n2 locks, answers ends ----------------> lets go after HOLD_S
                  ask n3: hold      ---> n3 locks, answers ends -----------> lets go after HOLD_S
                  lock own shards             all ends are here: this is the cut

A hold begins after it was asked for and lasts HOLD_S. So if all answers are here in less than that
since the first was asked for, and none of their connections broke until then, there was an instant
at which all were held; else it is tried again.
A primary that does not know yet that it is one no more is found out by the metadata: after a
barrier, each shard's epoch must be the one that its holder led in.

Nobody waits for long: who can't have all locks soon lets go of all, waits for the one that kept it,
and tries again with that one first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from nearql.cluster.metadata.state import Metadata, TableRow
from nearql.cluster.replication.link.calls import Calls, Request
from nearql.engine.errors import InvalidRequest, NotFound, Unavailable
from nearql.engine.shard.shard import Shard
from nearql.engine.storage.wal_format import ZERO_LINK
from nearql.engine.storage.wal_raw import LogEnd
from nearql.engine.storage.wal_shared import SharedWal

if TYPE_CHECKING:
    from nearql.server.node import Node

HOLD_CALL = "backup_hold"
HOLD_S = 3.0  # that another node holds its writers, unless it is told to let go before
_MARGIN = 0.9  # of that: clocks of two nodes may run at rates that differ a little
_ROUNDS = (0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0)  # seconds to get all locks, try by try
_WAIT_S = 30.0  # for the one writer that kept us from it
_BARRIER_MS = 2000
_LOOK_S = 0.1  # between two looks whether the caller gave up
_PAUSE = threading.Event()  # never set


@dataclass(frozen=True, slots=True)
class Held:
    """A shard's log while it is held. epoch: in which its holder leads; of the log, where alone."""

    end: LogEnd
    epoch: int


@dataclass(frozen=True, slots=True)
class Cut:
    """One instant. ends: of logs, by (table's uuid, shard's number); state: the metadata then."""

    at_ms: int
    state: Metadata
    ends: Mapping[tuple[str, int], LogEnd]


class _Busy(Exception):
    """A writer keeps this shard for longer than a try lasts; None: another node, or a failover."""

    def __init__(self, shard: Shard | None) -> None:
        super().__init__("busy")
        self.shard = shard


def visible(state: Metadata) -> list[TableRow]:
    """Tables that people see, by name."""
    rows = (row for row in state.tables.values() if row.ready and not row.restoring)
    return sorted(rows, key=lambda row: row.table.name)


def cut(node: Node, between: Callable[[], None] = lambda: None) -> Cut:
    """Hold everybody for an instant; blocks.

    between: called several times a second while it waits, with nobody held; what it raises is
    passed on.

    Raises:
        Unavailable: a shard has no primary, a node does not answer, or a writer keeps its shard
            longer than one can wait.
    """
    first: Shard | None = None
    for patience_s in _ROUNDS:
        between()
        try:
            return _try(node, patience_s, first)
        except (_Busy, NotFound) as reason:  # NotFound: a table was dropped meanwhile
            first = reason.shard if isinstance(reason, _Busy) else None
            _wait_for(first, patience_s if first is None else _WAIT_S, between)
    raise Unavailable(
        "No instant was found at which all writers could be held: a statement keeps a table for "
        "very long. Take the backup again when it has ended (nearql.queries shows it).",
        code="backup_busy",
    )


def _wait_for(shard: Shard | None, seconds: float, between: Callable[[], None]) -> None:
    """Until nobody writes into the shard, or the time is up; None: all the time."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        between()
        if shard is None:
            _PAUSE.wait(min(left, _LOOK_S))
        elif shard.lock.acquire(timeout=min(left, _LOOK_S)):
            shard.lock.release()
            return


def _try(node: Node, patience_s: float, first: Shard | None) -> Cut:
    rows = visible(node.metadata.state)
    if node.member is None:
        places = [(row.table.uuid, shard) for row in rows for shard in _shards(node, row)]
        with holding([shard for _, shard in places], patience_s, first) as held:
            ends = {(u, s.number): h.end for (u, s), h in zip(places, held, strict=True)}
            return Cut(_now_ms(), node.metadata.state, ends)
    return _across(node, rows, patience_s, first)


def _shards(node: Node, row: TableRow) -> Sequence[Shard]:
    return node.copies.table(row.table.uuid).shards


def _across(node: Node, rows: list[TableRow], patience_s: float, first: Shard | None) -> Cut:
    """The same over all nodes that have primaries."""
    assert node.member is not None
    me, calls = node.member.cluster.node_id, node.member.replication.calls
    wanted = _by_primary(rows)
    places: dict[str, tuple[str, int]] = {
        shard.uuid: (row.table.uuid, number)
        for row in rows
        for number, shard in enumerate(row.shards)
    }
    held: dict[str, Held] = {}
    asked_at = time.monotonic()
    with ExitStack() as stack:
        for holder in sorted(wanted.keys() - {me}):
            held |= stack.enter_context(_held_there(calls, holder, wanted[holder], patience_s))
        mine = wanted.get(me, [])
        local = [_own(node, *places[uuid]) for uuid in mine]
        ends = stack.enter_context(holding(local, patience_s, first))
        held |= dict(zip(mine, ends, strict=True))
        at_ms = _now_ms()
        if time.monotonic() - asked_at > HOLD_S * _MARGIN:
            raise _Busy(None)
        node.metadata.barrier(timeout_ms=_BARRIER_MS)
        state = node.metadata.state
        if time.monotonic() - asked_at > HOLD_S * _MARGIN:
            raise _Busy(None)
    _check_epochs(state, held)
    return Cut(at_ms, state, {places[uuid]: one.end for uuid, one in held.items()})


def _by_primary(rows: list[TableRow]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        for shard in row.shards:
            if shard.primary is None:
                raise Unavailable(
                    f"Table {row.table.name!r} has no primary now: no backup can be taken. Try "
                    "again when a copy was promoted (`nearql cluster status`).",
                    code="no_primary",
                )
            found.setdefault(shard.primary, []).append(shard.uuid)
    return found


def _own(node: Node, table_uuid: str, number: int) -> Shard:
    return node.copies.table(table_uuid).shards[number]


def _check_epochs(state: Metadata, held: Mapping[str, Held]) -> None:
    epochs = {shard.uuid: shard.epoch for row in state.tables.values() for shard in row.shards}
    if any(epochs.get(uuid, one.epoch) != one.epoch for uuid, one in held.items()):
        raise _Busy(None)  # a primary was held that is none any more


# ---- Holding --------------------------------------------------------------------------------


@contextmanager
def holding(
    shards: Sequence[Shard], patience_s: float, first: Shard | None = None
) -> Iterator[list[Held]]:
    """Hold the writers of these shards of this node; where each of them is."""
    ordered = sorted(shards, key=lambda shard: shard is not first)
    until = time.monotonic() + patience_s
    with ExitStack() as stack:
        for shard in ordered:
            if not shard.lock.acquire(timeout=max(0.0, until - time.monotonic())):
                raise _Busy(shard)
            stack.callback(shard.lock.release)
        yield [_where(shard) for shard in shards]


def _where(shard: Shard) -> Held:
    wal = shard.wal
    if not isinstance(wal, SharedWal):
        epoch = shard.view_now().epoch
        return Held(LogEnd(wal.last_lsn, epoch, ZERO_LINK), epoch)
    leads = shard.gate.epoch
    if leads is None:  # who does not lead knows nothing of the log's end
        raise _Busy(None)
    return Held(wal.end, leads)


@contextmanager
def _held_there(
    calls: Calls, holder: str, shards: list[str], patience_s: float
) -> Iterator[dict[str, Held]]:
    asked = msgpack.packb([patience_s, shards])
    with calls.stream(holder, HOLD_CALL, asked, timeout_ms=int(HOLD_S * 2000)) as parts:
        told = msgpack.unpackb(bytes(next(parts)))
        if told is None:
            raise _Busy(None)
        yield {
            uuid: Held(LogEnd(lsn, epoch, link), leads)
            for uuid, (lsn, epoch, link, leads) in zip(shards, told, strict=True)
        }
        if parts.ended:
            raise _Busy(None)  # its connection broke: it let go, and its writers went on


def serve_holds(calls: Calls, shard_of: Callable[[str], Shard | None]) -> None:
    """Answer `backup_hold`: where these shards are, and hold them until the caller goes away, or
    for HOLD_S. None where a writer keeps one of them.
    """

    def answer(request: Request) -> Iterator[bytes]:
        patience_s, uuids = _asked(request.payload)
        found = [shard_of(uuid) for uuid in uuids]
        shards = [shard for shard in found if shard is not None]
        try:
            if len(shards) < len(uuids):
                raise _Busy(None)
            with holding(shards, patience_s) as held:
                yield msgpack.packb([[*_plain(one.end), one.epoch] for one in held])
                _until_cancelled(request)
        except _Busy:
            yield msgpack.packb(None)

    calls.serve(HOLD_CALL, answer)


def _until_cancelled(request: Request) -> None:
    event: threading.Event = request.cancelled
    event.wait(HOLD_S)


def _plain(end: LogEnd) -> tuple[int, int, bytes]:
    return end.lsn, end.epoch, end.link


def _asked(payload: bytes | bytearray) -> tuple[float, list[str]]:
    try:
        patience_s, uuids = msgpack.unpackb(payload)
        return min(float(patience_s), HOLD_S), [str(uuid) for uuid in uuids]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidRequest("A request to hold shards can't be read.") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""Write concern: refused before anything is logged, waited for afterwards (3-replication 2.5).

`one`, `majority`, `all` or a number of copies. What a timeout leaves open is told as
`write_unknown`, never as done or not done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from nearql.cluster.metadata.shards import ShardRow
from nearql.engine import spans
from nearql.engine.errors import (
    Conflict,
    InvalidValue,
    NearQLError,
    Unavailable,
    WriteUnknown,
)
from nearql.engine.schema import TableDef
from nearql.engine.types import WriteOutcome
from nearql.query.replicas import Position, Settled
from nearql.server.cluster_ports import CallPort, Serve, ShardPort
from nearql.server.gateway import envelope
from nearql.server.gateway.deadlines import until
from nearql.server.gateway.health import metadata_stale
from nearql.server.gateway.placement import no_primary, tables_named

if TYPE_CHECKING:
    from nearql.engine.deadline import Deadline
    from nearql.server.gateway.gateway import Gateway

ADMIT_S = 3.0  # longer than a promise lasts
Place = tuple[str, int, int]  # shard's uuid, epoch, LSN


def concern_of(text: str) -> str | int:
    """A concern as the replication core takes it."""
    return int(text) if text.isdigit() else text


@dataclass(frozen=True)
class ClusterReplicas:
    """The copies of tables in a cluster. Implements `query.replicas.Replicas`."""

    gateway: Gateway

    def check(self, table: TableDef, concern: str) -> None:
        """Refuse what can't be fulfilled now.

        Raises:
            InvalidValue: code `not_enough_copies`; the table never has as many.
            Unavailable: `not_primary`, `not_enough_replicas`, `metadata_stale`.
        """
        self._check_current()
        for number, shard in enumerate(self._shards(table)):
            # Of a move, the old copy and the new one are one of those that the table has.
            copies = len(shard.replicas) - (shard.removing is not None)
            if concern.isdigit() and int(concern) > copies:
                raise InvalidValue(
                    f"write_concern = {concern} needs {concern} copies, "
                    f"but table {table.name!r} has {copies}.",
                    code="not_enough_copies", sqlstate="53000",
                )  # fmt: skip
            self._check_writable(table, number, concern_of(concern))

    def _check_current(self) -> None:
        """Who ordered writes here may have been replaced, if nobody tells: then none is taken, also
        of those that another node passed on.
        """
        cluster, wait_until = self.gateway.cluster, self.gateway.replication.wait_until
        if not cluster.ticking and not wait_until(lambda: cluster.ticking, ADMIT_S):
            raise metadata_stale()

    def _check_writable(self, table: TableDef, number: int, concern: str | int) -> None:
        """As the copy's own check; a primary that metadata has made and that is not ready yet (it
        waits for its promise, or for what it takes over) is waited for a while.
        """
        refusals: list[Unavailable] = []

        def admitted() -> bool:
            shards = self._shards(table)
            if number >= len(shards):  # dropped a moment ago
                raise no_primary(table.name, number)
            try:
                self._copy(table, number, shards[number]).check_writable(concern)
            except Unavailable as error:
                if error.code != "not_primary" or shards[number].primary != self._here:
                    raise
                refusals[:] = [error]
                return False
            return True

        if not admitted() and not self.gateway.replication.wait_until(admitted, ADMIT_S):
            raise refusals[0]

    @property
    def _here(self) -> str:
        return self.gateway.cluster.node_id

    def settle(
        self, table: TableDef, outcome: WriteOutcome, concern: str, deadline: float
    ) -> Settled:
        """Wait until every shard's part fulfils the concern.

        Raises:
            WriteUnknown: the time was up first, or this is no longer the primary.
        """
        shards, left = self._shards(table), until(deadline)
        reached = []
        with spans.span("copies", concern=concern, shards=len(outcome.positions)) as span:
            for at in outcome.positions:
                copy = self._copy(table, at.shard, shards[at.shard])
                # What was done in an earlier reign, and is repeated now, is asked for in this one.
                epoch = copy.epoch if copy.applied_lsn >= at.lsn else at.epoch
                reached.append(copy.committed(at.lsn, epoch, concern_of(concern), left))
            settled = _together(Settled(one.acked, one.committed) for one in reached)
            span.tell(copies=settled.copies, committed=settled.committed)
        return settled

    def wait(self, written: Sequence[Position], copies: int, deadline: float) -> Settled:
        """WAIT: how far everything is that was written up to these positions.

        Each shard's primary is asked; one that can't be reached counts as no copy.
        """
        if not written:
            return Settled(sum(node.alive for node in self.gateway.cluster.nodes()), True)
        left = until(deadline)
        reached = []
        for node, places in self._by_primary(written).items():
            if node == self._here:
                reached.append(waited(self.gateway, places, copies, left))
            elif node is None:
                reached.append(Settled(0, False))
            else:
                reached.append(self._ask(node, places, copies, left))
        return _together(reached)

    def _ask(self, node: str, places: list[Place], copies: int, left: Deadline) -> Settled:
        timeout_ms = left.left_ms or 0
        message = envelope.pack({"copies": copies, "timeout_ms": timeout_ms}, msgpack.packb(places))
        try:
            told, _ = self.gateway.ask(node, envelope.WAIT, message, timeout_ms, writes=False)
        except Conflict:  # what the session wrote was lost
            raise
        except NearQLError:  # WAIT tells what is known; of this primary nothing is
            return Settled(0, False)
        return Settled(int(told["copies"]), bool(told["committed"]))

    def _by_primary(self, written: Sequence[Position]) -> dict[str | None, list[Place]]:
        state, found = self.gateway.metadata.state, dict[str | None, list[Place]]()
        for position in written:
            for row in tables_named(state, (str(position["table"]).lower(),)):
                shard = row.shards[int(position["shard"])]
                place = shard.uuid, int(position["epoch"]), int(position["lsn"])
                found.setdefault(shard.primary, []).append(place)
        return found

    def _shards(self, table: TableDef) -> tuple[ShardRow, ...]:
        row = self.gateway.metadata.state.tables.get(table.uuid)
        return row.shards if row is not None else ()

    def _copy(self, table: TableDef, number: int, shard: ShardRow) -> ShardPort:
        copy = self.gateway.replication.shards().get(shard.uuid)
        if copy is None:
            raise no_primary(table.name, number)
        return copy


def waited(gateway: Gateway, places: Iterable[Place], copies: int, left: Deadline) -> Settled:
    """How far writes of primaries on this node have come, waited for until the time is up."""
    own = gateway.replication.shards()
    return _together(_waited(own.get(uuid), (epoch, lsn), copies, left)
                     for uuid, epoch, lsn in places)  # fmt: skip


def _waited(copy: ShardPort | None, at: tuple[int, int], copies: int, left: Deadline) -> Settled:
    if copy is None:
        return Settled(0, False)
    epoch, lsn = at
    if epoch != copy.epoch:  # 409 where that was lost; else it is asked for in this reign
        copy.read_gate("session", token=at, max_staleness_ms=None, deadline=left)
        epoch = copy.epoch
    try:
        reached = copy.wait(lsn, epoch, copies, left)
    except (Unavailable, WriteUnknown):  # no primary any more: it knows nothing of the others
        return Settled(0, False)
    return Settled(reached.acked, reached.committed)


def served(gateway: Gateway) -> Serve:
    """The handler for WAIT that others forward."""

    def handle(call: CallPort) -> Iterator[bytes]:
        head, body = envelope.unpack(call.payload)
        places = [(str(uuid), int(epoch), int(lsn)) for uuid, epoch, lsn in msgpack.unpackb(body)]
        found = waited(gateway, places, int(head["copies"]), call.deadline)
        yield envelope.pack({"copies": found.copies, "committed": found.committed})

    return handle


def _together(parts: Iterable[Settled]) -> Settled:
    """What holds for all parts of a write: the fewest copies, committed if all are."""
    listed = list(parts)
    if not listed:  # nothing had to be logged
        return Settled(1, True)
    return Settled(min(part.copies for part in listed), all(part.committed for part in listed))

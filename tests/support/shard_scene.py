"""One core played by hand: its clock, a log that is durable when told so, what it last wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nearql.cluster.metadata.shards import ShardRow
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.core.core import Core
from nearql.cluster.replication.core.state import State
from nearql.cluster.replication.core.timing import Timing

TIMING = Timing()
LIVES = {"a": 1, "b": 1, "c": 1}
ROW = ShardRow(
    "s", 1, "a", {name: f"{name}-1" for name in LIVES}, ("a", "b", "c"), 2, version=1
)  # fmt: skip


class Copy:
    """A core, its clock, and what it last wanted."""

    def __init__(
        self, name: str, *, log: ev.LogState | None = None, promised: int = 0, at: int = 10_000
    ) -> None:
        self.name, self.now, self.index = name, at, 0
        self.core = Core(
            name, f"{name}-1", 1, log=log or ev.LogState(), promised_epoch=promised,
            now_ms=at, timing=TIMING,
        )  # fmt: skip
        self.effects: list[ef.Effect] = []

    def feed(self, event: ev.Event) -> list[ef.Effect]:
        """One step; a log that is always durable at once."""
        self.effects = self.core.step(self.now, event)
        found = list(self.effects)
        if any(isinstance(e, ef.Follow) for e in found):
            found += self.feed(ev.WritesClosed(self.core.copy.log.end_lsn))
        self.effects = found
        self.core.check_invariants()
        return found

    def row(self, lives: dict[str, int] | None = None, **changes: Any) -> list[ef.Effect]:
        """Metadata says this of the shard now."""
        self.index += 1
        known = self.core.copy.row or ROW
        shard = replace(known, **changes)
        return self.feed(ev.MetadataChanged(self.index, shard, lives or LIVES))

    @property
    def state(self) -> State:
        return self.core.state

    def hear(self, sender: str, message: msg.Message) -> list[ef.Effect]:
        return self.feed(ev.Received(sender, message))

    def durable(self) -> list[ef.Effect]:
        log = self.core.copy.log
        return self.feed(ev.Durable(log.end_lsn, log.generation))

    def wait(self, ms: int) -> list[ef.Effect]:
        self.now += ms
        return self.feed(ev.Tick())

    def sent(self, kind: type[Any]) -> list[Any]:
        """Messages of this kind among the last effects."""
        sends = [e.message for e in self.effects if isinstance(e, ef.Send)]
        return [message for message in sends if isinstance(message, kind)]

    def wanted(self, kind: type[Any]) -> list[Any]:
        """Effects of this kind among the last ones."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


def sync(epoch: int, number: int = 1, *, node: str = "b", **changes: Any) -> msg.Sync:
    found = msg.Sync(epoch, msg.Session(1, number), f"{node}-1", (), 0, 0, 0)
    return replace(found, **changes)


def ack(epoch: int, number: int, lsn: int, *, hb_id: int = 0) -> msg.Ack:
    return msg.Ack(epoch, msg.Session(1, number), lsn, lsn, 0, 1 << 20, hb_id)


def primary(epoch: int = 1, **row: Any) -> Copy:
    """A primary of a, b and c whose own promises are over; EPOCH_START is durable."""
    copy = Copy("a")
    copy.row(epoch=epoch, **row)
    assert copy.wanted(ef.Lead)
    copy.durable()
    return copy


def followed(copy: Copy, *nodes: str, epoch: int = 1) -> Copy:
    """Those nodes follow it with all of its log, and have answered its last heartbeat."""
    for node in nodes:
        copy.hear(node, sync(epoch, node=node))
        end = copy.core.copy.log.end_lsn
        copy.feed(ev.Shipped(node, 1, end, 1))
        copy.hear(node, ack(epoch, 1, end, hb_id=copy.now))
    return copy


def write(copy: Copy, token: int = 1, concern: ev.Concern = ev.MAJORITY) -> int:
    """A statement is logged, durable here, and waited for."""
    epoch, lsn = copy.core.copy.writes_epoch, copy.core.copy.log.end_lsn + 1
    copy.feed(ev.Appended(epoch, lsn, 10))
    copy.feed(ev.Await(token, epoch, lsn, concern, copy.now + 60_000))
    copy.durable()
    return lsn

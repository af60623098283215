"""What goes wrong in a schedule of `shard_world`, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearql.cluster.replication.core import events as ev

if TYPE_CHECKING:
    from support.shard_node import Node
    from support.shard_world import World

LENGTHS = (15, 60, 250, 600, 1500)  # ms that a fault lasts


@dataclass
class Faults:
    """Chances per message or effect."""

    loss: float = 0.0
    repeat: float = 0.0
    stall: float = 0.0  # twenty times as late
    between: float = 0.0  # power is lost between two effects

    @classmethod
    def random(cls, chance: random.Random) -> Faults:
        return cls(
            loss=chance.choice((0.0, 0.0, 0.01, 0.05)),
            repeat=chance.choice((0.0, 0.0, 0.05)),
            stall=chance.choice((0.0, 0.01, 0.01)),
            between=chance.choice((0.0, 0.0, 0.0003)),
        )


class Nemesis:
    """Does harm every now and then: a random subset of what it can, with random weights."""

    def __init__(self, world: World) -> None:
        self.world = world
        chance = world.chance
        harms: list[tuple[float, Callable[[Node], None]]] = [
            (0.20, self.kill), (0.10, self.power), (0.03, self.power_all), (0.04, self.wipe),
            (0.03, self.damage), (0.12, self.pause), (0.10, self.isolate), (0.08, self.mute),
            (0.05, self.deafen), (0.06, self.from_metadata), (0.10, self.pair), (0.08, self.data),
            (0.10, self.hand_off), (0.05, self.promote), (0.10, self.depose), (0.06, self.move),
            (0.20, self.checkpoint), (0.05, self.reopen), (0.05, self.sync_fails),
            (0.05, self.slow_disk),
        ]  # fmt: skip
        self.harms = [(weight * chance.choice((0, 1, 1, 3)), harm) for weight, harm in harms]
        self.most_lost = (len(world.holders) - 1) // 2  # copies that a run may lose for good
        self.lost: set[str] = set()

    def start(self) -> None:
        self.world.at(80, self._harm)

    def _harm(self) -> None:
        world = self.world
        if world.quiet:
            return
        weights = [weight for weight, _ in self.harms]
        if any(weights):
            (harm,) = world.chance.choices([harm for _, harm in self.harms], weights)
            harm(world.nodes[world.chance.choice(world.names)])
        world.at(world.chance.randrange(30, 500), self._harm)

    def _length(self) -> float:
        return float(self.world.chance.choice(LENGTHS))

    # ---- Processes and disks ---------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """kill -9: the kernel still has what was written."""
        if node.up:
            node.stop(power=False)
            self.world.at(self._length(), self.world.restart, node)

    def power(self, node: Node) -> None:
        if node.up and not node.disk.arm(self.world.chance):
            self.world.lose_power(node)

    def sync_fails(self, node: Node) -> None:
        """The disk fails: the process ends, and what was written is shown, but not on the disk."""
        if node.up and not node.disk.fail_sync():
            self.kill(node)

    def slow_disk(self, node: Node) -> None:
        node.slow_until = self.world.now + self._length()

    def power_all(self, _node: Node) -> None:
        for node in self.world.nodes.values():
            self.power(node)

    def pause(self, node: Node) -> None:
        node.paused_until = self.world.now + self._length()

    def _may_lose(self, node: Node) -> bool:
        if len(self.lost | {node.name}) > self.most_lost:
            return False
        self.lost.add(node.name)
        return True

    def wipe(self, node: Node) -> None:
        """The disk is replaced by an empty one."""
        if self._may_lose(node):
            if node.up:
                node.stop(power=False)
            node.disk = self.world.new_disk(self.world.new_alloc(node.name))
            node.damaged = False
            self.world.counts["wiped"] += 1
            self.world.at(self._length(), self.world.restart, node)

    def damage(self, node: Node) -> None:
        """A bit flips on the disk, and is noticed."""
        if node.core is None or node.damaged or not self._may_lose(node):
            return
        node.damaged = True
        self.world.counts["damaged"] += 1
        node.step(ev.Corrupted("a bit flipped", self.world.new_alloc(node.name)))

    def reopen(self, node: Node) -> None:
        node.reopen()

    def checkpoint(self, node: Node) -> None:
        node.checkpoint(self.world.chance.choice((0, 5, 50)))

    # ---- Links -----------------------------------------------------------------------------

    def _cut(self, links: set[tuple[str, str]]) -> None:
        self.world.cuts.update(links)
        self.world.at(self._length(), self._heal, links)

    def _heal(self, links: set[tuple[str, str]]) -> None:
        if self.world.cuts:
            self.world.cuts.subtract(links)

    def _others(self, node: Node) -> list[str]:
        return [*(name for name in self.world.names if name != node.name), "meta", "client"]

    def isolate(self, node: Node) -> None:
        self._cut(_both(node.name, self._others(node)))

    def mute(self, node: Node) -> None:
        """It hears, and nobody hears it."""
        self._cut({(node.name, other) for other in self._others(node)})

    def deafen(self, node: Node) -> None:
        self._cut({(other, node.name) for other in self._others(node)})

    def from_metadata(self, node: Node) -> None:
        self._cut(_both(node.name, ["meta"]))

    def pair(self, node: Node) -> None:
        """Two copies don't hear each other; a third one hears both."""
        self._cut(_both(node.name, [self.world.chance.choice(self._others(node))]))

    def data(self, node: Node) -> None:
        """Its links to the other copies alone."""
        self._cut(_both(node.name, [n for n in self.world.names if n != node.name]))

    # ---- The operator ----------------------------------------------------------------------

    def hand_off(self, _node: Node) -> None:
        world = self.world
        name = world.shard.primary
        node = world.nodes[name] if name else None
        others = [member for member in world.shard.isr if member != name]
        if node is not None and node.core is not None and others:
            deadline = node.now_ms + world.chance.choice((50, 300, 900))
            node.step(ev.HandOff(world.chance.choice(others), deadline))

    def promote(self, _node: Node) -> None:
        """The controller errs: another primary without need."""
        alive = [n for n in self.world.shard.isr if not self.world.metadata.nodes[n].fenced]
        self.world.promote([name for name in alive if name != self.world.shard.primary])

    def depose(self, _node: Node) -> None:
        """The primary hears nothing of metadata, and another one reigns."""
        primary = self.world.shard.primary
        if primary is not None:
            self.from_metadata(self.world.nodes[primary])
            self.promote(self.world.nodes[primary])

    def move(self, _node: Node) -> None:
        """A copy moves to a node that has none."""
        world, shard = self.world, self.world.shard
        spare = [name for name in world.names if name not in shard.replicas]
        if spare and shard.adding is None:
            world.move(world.chance.choice(spare), world.chance.choice(sorted(shard.replicas)))


def _both(node: str, others: list[str]) -> set[tuple[str, str]]:
    return {(node, other) for other in others} | {(other, node) for other in others}

"""Faults on real processes, one at a time, and what is judged when everything is healed: what the
chaos runs and the soak share.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support import fail_points
from support.chaos_network import Network
from support.chaos_workload import HEAL_S, History, Workload
from support.cluster_processes import Process, Processes
from support.waiting import wait_for

NAMES = ("n1", "n2", "n3")
DISK_FAILED = 70  # exit code of a node whose disk can't be trusted any more


class Chaos:
    """One run: the nodes, and a fault at a time."""

    def __init__(self, nodes: Processes, net: Network | None, chance: random.Random) -> None:
        self.nodes, self.net, self.chance = nodes, net, chance
        self.done: list[str] = []
        self.problems: list[str] = []
        self.dropped: list[str] = []  # tables
        self.details: Counter[str] = Counter()  # what came of faults

    def faults(self) -> dict[str, Callable[[], None]]:
        """Those that are possible here, by name."""
        found: dict[str, Callable[[], None]] = {
            **self.disk_faults(),
            "kill": lambda: self.kill(self.anybody()),
            "kill_primary": lambda: self.kill(self.primary()),
            "kill_leader": lambda: self.kill(self.nodes.leader()),
            "kill_all": self.kill_all,
            "kill_sidecar": self.kill_sidecar,
            "stop": lambda: self.stop(self.anybody()),
            "pause": lambda: self.pause(self.anybody()),
            "pause_primary": lambda: self.pause(self.primary()),
            "restart_storm": self.restart_storm,
            "clock_jump": lambda: self.jump(self.anybody()),
            "kill_two": self.kill_two,
            "fail_point": lambda: self.fail_point(self.anybody()),
            "fail_point_primary": lambda: self.fail_point(self.primary()),
            "switch_over": self.switch_over,
            "create_and_drop": self.create_and_drop,
        }
        if self.net is not None:
            found |= {
                "isolate": lambda: self.cut_off(self.anybody()),
                "isolate_primary": lambda: self.cut_off(self.primary()),
                "isolate_leader": lambda: self.cut_off(self.nodes.leader()),
                "repeat": self.repeat_packets,
                "reorder": self.reorder_packets,
                "deaf": lambda: self.cut_one_way(hears=False),
                "mute": lambda: self.cut_one_way(hears=True),
                "bridge": self.cut_pair,
                "loss": self.lose_packets,
                "flap": self.flap,
                "slow_link": lambda: self.slow_link(self.anybody()),
                "disk_full": lambda: self.fill_disk(self.anybody()),
            }
        return found

    def disk_faults(self) -> dict[str, Callable[[], None]]:
        """Those of disks; those that cost a copy are one at a time."""
        return {
            "power": lambda: self.lose_power(self.anybody()),
            "power_primary": lambda: self.lose_power(self.primary()),
            "power_all": lambda: self.lose_power(*NAMES),
            "sync_fails": lambda: self.fail_sync(self.anybody()),
            "sync_fails_primary": lambda: self.fail_sync(self.primary()),
            "slow_disk": lambda: self.slow_disk(self.anybody()),
            "slow_disk_primary": lambda: self.slow_disk(self.primary()),
            "damage": lambda: self.damage(self.anybody()),
            "wipe": lambda: self.wipe(self.anybody()),
        }

    def anybody(self) -> str:
        """A node."""
        return self.chance.choice(NAMES)

    def primary(self) -> str:
        """The node that orders the log table's writes, if one does."""
        return self.nodes.primary("log") or self.anybody()

    def wait(self, low: float, high: float) -> None:
        """Let a fault last."""
        time.sleep(self.chance.uniform(low, high))

    # ---- processes ------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        self.nodes[name].kill()
        self.wait(0.1, 6.0)
        self.nodes[name].start()

    def kill_all(self) -> None:
        for name in NAMES:
            self.nodes[name].kill()
        for name in NAMES:
            self.nodes[name].start()

    def kill_two(self) -> None:
        """The metadata has no majority, nor has any shard."""
        names = self.chance.sample(NAMES, 2)
        for name in names:
            self.nodes[name].kill()
        self.wait(0.5, 8.0)
        for name in names:
            self.nodes[name].start()

    def fail_point(self, name: str) -> None:
        """Killed at a named place. Where it does not come there by itself, others are killed, and
        it is started again, so that parts change.
        """
        point = self.chance.choice(fail_points.NAMES)
        when, times = self.chance.choice(("before", "after")), self.chance.choice((1, 1, 2, 5))
        node, disk = self.nodes[name], self.nodes.disks[name]
        print(f"    {point} {when} {times} of {name}", flush=True)
        disk.set("die", f"{point} {when} {times}")
        try:
            if not self._dies(node, 3.0):
                self.kill(self.chance.choice([other for other in NAMES if other != name]))
            if not self._dies(node, 6.0):
                node.kill()
                node.start()
            reached = self._dies(node, 8.0)
        finally:
            disk.set("die", None)
        self.details[f"{point} {when}" if reached else "fail points not reached"] += 1
        self.wait(0.1, 2.0)

    @staticmethod
    def _dies(node: Process, seconds: float) -> bool:
        """Whether it ends within a time."""
        until = time.monotonic() + seconds
        while node.runs and time.monotonic() < until:
            time.sleep(0.05)
        return not node.runs

    def switch_over(self) -> None:
        """Another node orders the log table's writes, on an operator's word."""
        before = self.primary()
        target = self.chance.choice([name for name in NAMES if name != before])
        body = {"table": "log", "to": target}
        status, _ = self.nodes[target].request("POST", "/v1/cluster/failover", body)
        self.details[f"switch-overs answered {status}"] += 1
        self.wait(0.5, 3.0)

    def create_and_drop(self) -> None:
        """A table comes and goes while a node is killed; it stays gone."""
        name, victim = f"t{len(self.done)}", self.nodes[self.anybody()]
        self.nodes.write(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY)")
        self.nodes.write(f"INSERT INTO {name} VALUES (1), (2)", f"{uuid.uuid4()}:1")
        victim.kill()
        self.nodes.write(f"DROP TABLE IF EXISTS {name}")
        victim.start()
        self.dropped.append(name)

    def resurrected(self) -> list[str]:
        """Tables that were dropped, and that a node shows again."""
        found = []
        for node in self.nodes.nodes.values():
            status, answer = node.sql("SELECT name FROM nearql.tables")
            shown = {row[0] for row in answer["rows"]} if status == 200 else set()
            found += [f"{node.name} shows {name}" for name in self.dropped if name in shown]
        return found

    def kill_sidecar(self) -> None:
        for child in children(self.nodes[self.anybody()].pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def stop(self, name: str) -> None:
        self.nodes[name].stop()
        self.wait(0.1, 4.0)
        self.nodes[name].start()

    def pause(self, name: str) -> None:
        pids = [self.nodes[name].pid]
        if self.chance.random() < 0.5:  # else its voter goes on
            pids += children(pids[0])
        send(pids, signal.SIGSTOP)
        low, high = self.chance.choice(((0.1, 1.0), (1.0, 5.0), (1.0, 10.0), (10.0, 30.0)))
        self.wait(low, high)
        send(pids, signal.SIGCONT)

    def restart_storm(self) -> None:
        """Each node is killed again and again for 20 s."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            name = self.anybody()
            self.nodes[name].kill()
            self.nodes[name].start()
            self.wait(1.0, 3.3)

    def jump(self, name: str) -> None:
        """Its wall clock is wrong by up to an hour, and then is set right."""
        self.nodes.disks[name].set("clock", self.chance.choice((-3600, -5, 5, 3600)))
        self.wait(3.0, 8.0)
        self.nodes.disks[name].set("clock", None)

    # ---- the network ----------------------------------------------------------------------------

    def cut_off(self, name: str) -> None:
        self._cut([(name, other) for other in NAMES], both=True)

    def cut_one_way(self, *, hears: bool) -> None:
        name = self.anybody()
        pairs = [(name, other) if hears else (other, name) for other in NAMES]
        self._cut(pairs, both=False)

    def cut_pair(self) -> None:
        one, other = self.chance.sample(NAMES, 2)
        self._cut([(one, other)], both=True)

    def _cut(self, pairs: list[tuple[str, str]], *, both: bool) -> None:
        assert self.net is not None
        for sender, receiver in pairs:
            if sender != receiver:
                self.net.cut(sender, receiver)
                if both:
                    self.net.cut(receiver, sender)
        self.wait(1.0, 12.0)
        self.net.heal()

    def lose_packets(self) -> None:
        assert self.net is not None
        for sender in NAMES:
            for receiver in NAMES:
                if sender != receiver:
                    self.net.lose(sender, receiver, self.chance.uniform(0.02, 0.25))
        self.wait(2.0, 10.0)
        self.net.heal()

    def repeat_packets(self) -> None:
        """Packets come twice."""
        assert self.net is not None
        for sender in NAMES:
            for receiver in NAMES:
                if sender != receiver:
                    self.net.repeat(sender, receiver, self.chance.uniform(0.05, 0.5))
        self.wait(3.0, 10.0)
        self.net.heal()

    def reorder_packets(self) -> None:
        """Packets overtake others."""
        assert self.net is not None
        for name in NAMES:
            self.net.reorder(name, self.chance.uniform(0.02, 0.2))
        self.wait(3.0, 10.0)
        self.net.heal()

    def flap(self) -> None:
        assert self.net is not None
        name = self.anybody()
        for _ in range(4):
            for other in NAMES:
                if other != name:
                    self.net.cut(other, name)
                    self.net.cut(name, other)
            self.wait(0.3, 2.0)
            self.net.heal()
            self.wait(0.3, 2.0)

    def slow_link(self, name: str) -> None:
        assert self.net is not None
        self.net.slow_down(name)
        self.wait(3.0, 10.0)
        self.net.heal()

    # ---- the disk -------------------------------------------------------------------------------

    def lose_power(self, *names: str) -> None:
        """Killed while syncs take long, so that something is not synced yet, and lost in part."""
        for name in names:
            self.nodes.disks[name].set("slow", self.chance.choice((0.02, 0.1, 0.4)))
        self.wait(0.3, 1.5)
        for name in names:
            self.nodes[name].kill()
        undone = sum(self.nodes.disks[name].lose_power(self.chance) for name in names)
        self.details["writes taken back"] += undone
        for name in names:
            self.nodes.disks[name].heal()
        self.wait(0.1, 2.0)
        for name in names:
            self.nodes[name].start()

    def fail_sync(self, name: str) -> None:
        """Its disk fails: the process must end, and acknowledge nothing any more."""
        node, disk = self.nodes[name], self.nodes.disks[name]
        disk.set("eio", 1)
        try:
            wait_for(lambda: not node.runs, f"the end of {name}, whose disk fails", HEAL_S)
        finally:
            disk.set("eio", None)
        if node.exit_code != DISK_FAILED:
            self.problems.append(f"{name} ended with {node.exit_code}, not {DISK_FAILED}")
        disk.lose_power(self.chance)  # what the failed sync should have written is gone
        self.details["ended with 70"] += 1

    def slow_disk(self, name: str) -> None:
        """Each sync takes 2 to 30 s; beyond 20 s the node ends."""
        disk = self.nodes.disks[name]
        disk.set("slow", self.chance.choice((2, 7, 12, 30)))
        self.wait(4.0, 28.0)
        disk.set("slow", None)

    def damage(self, name: str) -> None:
        """A file of one copy is damaged while its node is down; it must be found, and never spread.
        The others must have everything before, and this one is whole again after.
        """
        self.until_in_sync()
        self.nodes[name].kill()
        what = self.nodes.disks[name].damage(self.chance)
        print(f"    {what} of {name}", flush=True)
        self.details[what.split()[0]] += 1
        self.nodes[name].start()
        self.until_in_sync()

    def wipe(self, name: str) -> None:
        """Its disk is replaced by an empty one."""
        self.until_in_sync()
        self.nodes[name].kill()
        self.nodes.empty_disk(name)
        self.nodes[name].start()
        self.until_in_sync()

    def until_in_sync(self) -> None:
        """Wait until every node is ready and every copy in sync, so that one may be lost. A node
        that a fault has ended meanwhile is started again.
        """

        def in_sync() -> bool:
            self.start_ended()
            ready = all(self.nodes[name].get("/readyz")[0] == 200 for name in NAMES)
            return ready and self.nodes.in_sync()

        wait_for(in_sync, "all copies in sync", HEAL_S)

    def start_ended(self) -> None:
        """Nodes that ended by themselves, as with a full disk."""
        for node in self.nodes.nodes.values():
            if not node.runs:
                node.start()

    def fill_disk(self, name: str) -> None:
        ballast = self.nodes.folder / f"{name}-data" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
        self.wait(2.0, 8.0)
        ballast.unlink(missing_ok=True)

    # ---- the run --------------------------------------------------------------------------------

    def run(self, seconds: float, wanted: list[str]) -> None:
        """Faults, one after the other, until the time is up."""
        faults = self.faults()
        names = [name for name in wanted if name in faults] or sorted(faults)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.wait(1.0, 4.0)
            name = self.chance.choice(names)
            print(f"  {name}", flush=True)
            self.done.append(name)
            faults[name]()
            self.start_ended()

    def heal(self) -> None:
        """Everybody runs, and is ready."""
        if self.net is not None:
            self.net.heal()
        for disk in self.nodes.disks.values():
            disk.heal()
        self.until_in_sync()


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        texts = [(task / "children").read_text() for task in tasks]
    except OSError:
        return [int(child) for child in found.read_text().split()] if found.exists() else []
    return [int(child) for text in texts for child in text.split()]


def send(pids: list[int], number: int) -> None:
    """A signal to each that is there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def struck(chaos: Chaos, work: Workload, run: Callable[[], None]) -> list[str]:
    """Faults beside the work, healed; what is wrong then."""
    work.start()
    try:
        run()
        chaos.heal()
        before = len(work.history.acknowledged)
        wait_for(
            lambda: len(work.history.acknowledged) > before + 5, "writes after healing", HEAL_S
        )
    finally:
        work.stop()
    return chaos.problems + work.problems() + chaos.resurrected()


def told_by(history: History) -> dict[str, object]:
    """What writers and readers were told, in numbers, for a record."""
    return {
        "acknowledged": len(history.acknowledged) + sum(history.added.values()),
        "refused": len(history.refused), "unknown": len(history.unknown),
        "linearizable_reads": history.reads, "longest_gap_s": round(history.longest_gap_s, 1),
        "answers": dict(history.answers.most_common()),
    }  # fmt: skip


def keep_or_remove(folder: Path, problems: list[str]) -> None:
    """The nodes' files and logs stay where something is wrong."""
    if problems:
        print(f"  kept for a look: {folder}", flush=True)
    else:
        shutil.rmtree(folder)


def commit() -> str:
    """Of the checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()

"""Hours of work and faults on three real processes: `python3 dev.py soak [--seconds 7200]`.

A mixed load (support/soak_load.py, beside the writers of the chaos runs) goes on while each minute
something happens that a seed draws: a node is killed, paused, cut off (as root), drained, upgraded
to another checkout or back, or copies of a table are moved. In each third of the run another node
is spared of what ends processes, so that its growth shows. Then everything is healed and judged as
a chaos run is, copies are compared, a backup is restored, and what processes and disks took over
time (support/growth.py) must not have grown beyond stated limits. With --record a run adds its line
to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.chaos_faults import NAMES, Chaos, commit, keep_or_remove, struck, told_by
from support.chaos_network import Network, network, possible
from support.cluster_jobs import OVER, copies, job, started
from support.cluster_processes import Processes
from support.growth import Growth, Limits
from support.soak_load import MixedLoad

ROOT = Path(__file__).resolve().parents[2]
OLDER = "HEAD~10"
STEP_S = 45.0  # for what a move or a drain has to do
LOOK_S = 10.0
SHOWN = 30  # problems that a line tells
SMALL: dict[str, dict[str, Any]] = {  # files are sealed, joined, cut and removed within minutes
    "engine": {
        "wal_retention": "8MiB", "checkpoint_wal": "4MiB", "seal_rows": 2000,
        "index_seal_rows": 2000, "index_min_rows": 500, "scrub_interval_hours": 1,
    },
    "cluster": {"trash_hours": 0, "compare_interval_hours": 1},
}  # fmt: skip


class Soak(Chaos):
    """One run: a fault at a time, at its time."""

    def __init__(
        self, nodes: Processes, net: Network | None, chance: random.Random, other: Path | None
    ) -> None:
        """other: the `src` of the checkout that nodes are upgraded to, and back from."""
        super().__init__(nodes, net, chance)
        self.other, self.spared = other, NAMES[0]
        self.growth = Growth()
        self.log: list[str] = []  # of each fault: second, name, what came of it

    def faults(self) -> dict[str, Callable[[], None]]:
        """Those that are possible here, by name."""
        found: dict[str, Callable[[], None]] = {
            "kill": lambda: self.kill(self.expendable()),
            "pause": lambda: self.pause(self.anybody()),
            "move": self.move,
            "drain": self.drain,
        }
        if self.net is not None:
            found["cut"] = self.cut
        if self.other is not None:
            found["upgrade"] = self.upgrade
        return found

    def left_out(self) -> list[str]:
        """Those that this machine, or its checkout, can't do."""
        return sorted({"kill", "pause", "move", "drain", "cut", "upgrade"} - self.faults().keys())

    def expendable(self) -> str:
        """A node whose process may end now."""
        return self.chance.choice([name for name in NAMES if name != self.spared])

    def cut(self) -> None:
        """A node from all, or one way, or a pair."""
        self.chance.choice(
            (
                lambda: self.cut_off(self.anybody()),
                lambda: self.cut_one_way(hears=self.chance.random() < 0.5),
                self.cut_pair,
            )
        )()

    def move(self) -> None:
        """The copies of a table go from one node to the one that has none."""
        before = copies(self.nodes, "docs")
        free = sorted(set(NAMES) - before)
        if len(free) != 1:  # a drain's or a move's copy is still being made
            self.details["moves left out: no node without a copy"] += 1
            return
        source = self.chance.choice(sorted(before))
        name = started(self.nodes, "move", table="docs", **{"from": source, "to": free[0]})
        self._note_end("move", name)

    def drain(self) -> None:
        """A node gives away what it can; tables with a copy on every node stay. Then it may have
        copies again.
        """
        node = self.anybody()
        name = started(self.nodes, "drain", node=node)
        until = time.monotonic() + STEP_S
        while time.monotonic() < until and node in copies(self.nodes, "docs"):
            time.sleep(0.2)  # the polling interval
        gone = node not in copies(self.nodes, "docs")
        self.details[f"drains: {'docs gone' if gone else 'docs still there'}"] += 1
        started(self.nodes, "drain", node=node, cancel=True)
        self._note_end("drain", name)

    def _note_end(self, kind: str, name: str) -> None:
        """How a job ended; one that goes on after a while is left to it."""
        until = time.monotonic() + STEP_S
        while (state := job(self.nodes, name)["state"]) not in OVER and time.monotonic() < until:
            time.sleep(0.2)  # the polling interval
        self.details[f"{kind}s: {state}"] += 1

    def upgrade(self) -> None:
        """A node goes on with the other checkout, or back."""
        node = self.nodes[self.expendable()]
        if (code := node.stop()) not in (0, None):
            self.problems.append(f"{node.name} ended with {code} where it was asked to")
        node.source = None if node.source else self.other
        node.start()
        self.nodes.wait_ready(node.name)
        self.details[f"upgrades to {'the older' if node.source else 'this'} version"] += 1

    def soak(self, seconds: float, period_s: float, wanted: list[str]) -> None:
        """A fault each period, and a look at the processes meanwhile, until the time is up."""
        ended = threading.Event()
        looking = threading.Thread(target=self._look, args=(ended,), name="looking")
        looking.start()
        try:
            self._strike(seconds, period_s, wanted)
        finally:
            ended.set()
            looking.join()

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_S):
            for node in self.nodes.running():
                with contextlib.suppress(AssertionError):  # it is stopped at this moment
                    self.growth.look(node.name, node.pid)
                self.growth.look_at_disk(node.name, self.nodes.folder / f"{node.name}-data")

    def _strike(self, seconds: float, period_s: float, wanted: list[str]) -> None:
        faults = self.faults()
        names = [name for name in wanted if name in faults] or sorted(faults)
        began, pause, bag = time.monotonic(), threading.Event(), list[str]()
        due = began + period_s
        while due < began + seconds:
            pause.wait(max(0.0, due - time.monotonic()))
            at = time.monotonic() - began
            self.spared = NAMES[min(int(3 * at / seconds), 2)]
            if not bag:  # each as often as any other
                bag = self.chance.sample(names, len(names))
            name = bag.pop()
            print(f"  {at:.0f} s: {name}, {self.spared} is spared", flush=True)
            self.done.append(name)
            before = time.monotonic()
            faults[name]()
            self.log.append(f"{at:.0f} {name} {time.monotonic() - before:.0f}")
            self.start_ended()
            due = max(due + period_s, time.monotonic())
        pause.wait(max(0.0, began + seconds - time.monotonic()))


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path | None]:
    """The `src` folder of a revision's own checkout; None, said, where one can't be had or could
    not be gone back from.
    """
    with tempfile.TemporaryDirectory(prefix="nearql-other-") as folder:
        place = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        made = subprocess.run(
            [*git, "add", "--detach", str(place), revision],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            print(f"upgrades are left out: {made.stderr.strip()}", flush=True)
            yield None
            return
        try:
            if level(place) == level(ROOT):
                yield place / "src"
            else:
                print(f"upgrades are left out: {revision} has another feature level", flush=True)
                yield None
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def level(root: Path) -> str:
    """The feature level of a checkout: it is raised once, and never lowered."""
    found = re.search(r"^FEATURE_LEVEL = (\d+)", (root / "cluster/cluster.py").read_text(), re.M)
    assert found is not None, root
    return found[1]


@contextlib.contextmanager
def soaked_nodes(cuts: bool) -> Iterator[tuple[Processes, Network | None]]:
    """Three nodes as people start them, with small files. Their folder stays."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="nearql-soak-"))
        net = stack.enter_context(network(NAMES)) if cuts else None
        nodes = Processes(folder, 3, voters=3, network=net, faulty=False, **SMALL)
        stack.callback(nodes.stop)
        nodes.start()
        yield nodes, net


def machine() -> dict[str, object]:
    """What the run was made on."""
    return {
        "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
    }  # fmt: skip


def one_soak(given: argparse.Namespace, seed: int) -> dict[str, object]:
    """Run, heal, judge; the run's line of the record."""
    limits = Limits(warm_up_s=given.warm_up, life_s=given.life).slackened(given.slack)
    wanted = [name for name in given.faults.split(",") if name]
    cuts, began = not given.no_cuts and possible(), time.monotonic()
    with checkout(given.older) as other, soaked_nodes(cuts) as (nodes, net):
        work = MixedLoad(nodes, seed, nodes.folder / "backups", given.pause)
        work.prepare()
        soak = Soak(nodes, net, random.Random(seed), other)
        print(f"left out: {soak.left_out() or 'nothing'}", flush=True)
        problems = struck(soak, work, lambda: soak.soak(given.seconds, given.period, wanted))
        soak.dropped = work.dropped
        problems += soak.resurrected()
    lives = soak.growth.judged(limits)
    problems += [problem for life in lives for problem in life["problems"]]
    line: dict[str, object] = {
        "commit": commit(), "older": given.older if other else None, "machine": machine(),
        "date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[2], 1), "seed": seed,
        "seconds": given.seconds, "seconds_in_all": round(time.monotonic() - began),
        "pause_s": given.pause, "faults": soak.log, "left_out": soak.left_out(),
        "details": dict(soak.details),
        "work": dict(sorted(work.counts.items())), **told_by(work.history),
        "limits": limits.told(), "lives": lives, "problems": problems[:SHOWN],
        "problems_in_all": len(problems),
    }  # fmt: skip
    keep_or_remove(nodes.folder, problems)
    return line


def main() -> int:
    """0 where the run was clean."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--seed", type=int, default=None, help="of faults and work; else a fresh one")
    p.add_argument("--seconds", type=float, default=7200.0, help="of work and faults")
    p.add_argument("--period", type=float, default=60.0, help="seconds from a fault to the next")
    p.add_argument("--pause", type=float, default=0.25, help="seconds that each worker rests")
    p.add_argument("--faults", default="", help="names, with commas; else all that are possible")
    p.add_argument("--older", default=OLDER, help="the revision that upgrades go between")
    p.add_argument("--warm-up", type=float, default=300.0, help="seconds of a life not looked at")
    p.add_argument("--life", type=float, default=600.0, help="seconds from which one is judged")
    p.add_argument("--slack", type=float, default=1.0, help="times that more may grow: short runs")
    p.add_argument("--no-cuts", action="store_true", help="without namespaces")
    p.add_argument("--record", type=Path, default=None, metavar="FILE", help="add the run's line")
    given = p.parse_args()
    seed = random.randrange(1 << 31) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    line = one_soak(given, seed)
    print(json.dumps(line), flush=True)
    if given.record:
        with given.record.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 1 if line["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

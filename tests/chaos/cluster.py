"""Faults on three real processes: `python3 dev.py chaos --seed N [--seconds S] [--faults a,b]`.

Writers and readers (support/chaos_workload.py) go on while a node is killed, paused, cut off or
short of disk; then everything is healed, and what was told is compared with what is there. The
faults of a seed are always the same; when they strike is not. With --record a run adds its line to
a file. Cuts need root and network namespaces, a full disk needs root; without, they are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.chaos_faults import NAMES, Chaos, commit, keep_or_remove, struck, told_by
from support.chaos_network import Network, network, possible
from support.chaos_workload import Workload
from support.cluster_processes import Processes

DISK_BYTES = 512 << 20


@contextlib.contextmanager
def disks(folder: Path, wanted: bool) -> Iterator[None]:
    """A small disk for each node's data, where that is possible."""
    homes = [folder / f"{name}-data" for name in NAMES] if wanted else []
    try:
        for home in homes:
            home.mkdir()
            options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home)]
            subprocess.run(["mount", *options], check=True)
        yield
    finally:
        for home in homes:
            subprocess.run(["umount", "-l", str(home)], check=False)


@contextlib.contextmanager
def three_nodes(cuts: bool) -> Iterator[tuple[Processes, Network | None]]:
    """Started, with disks and clocks that do as they are told; with cuts, on machines and small
    disks of their own. Their folder stays: who judges the run removes it.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="nearql-chaos-"))
        net = stack.enter_context(network(NAMES)) if cuts else None
        stack.enter_context(disks(folder, cuts))
        nodes = Processes(folder, network=net, faulty=True)
        stack.callback(nodes.stop)
        nodes.start()
        yield nodes, net


def one_run(seed: int, seconds: float, wanted: list[str], cuts: bool) -> dict[str, object]:
    """Run, heal, judge; the run's line of the record."""
    began = time.monotonic()
    with three_nodes(cuts) as (nodes, net):
        work = Workload(nodes, seed)
        work.prepare()
        chaos = Chaos(nodes, net, random.Random(seed))
        problems = struck(chaos, work, lambda: chaos.run(seconds, wanted))
    line = {
        "commit": commit(), "date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[1], 1),
        "seed": seed, "faults": chaos.done, "seconds": round(time.monotonic() - began),
        **told_by(work.history), "details": dict(chaos.details), "problems": problems,
    }  # fmt: skip
    keep_or_remove(nodes.folder, problems)
    return line


def main() -> int:
    """0 where every run was clean."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--seed", type=int, default=None, help="the first run's; else a fresh one")
    p.add_argument("--runs", type=int, default=1)
    p.add_argument("--seconds", type=float, default=60.0, help="of faults, per run")
    p.add_argument("--faults", default="", help="names, with commas; else all that are possible")
    p.add_argument("--no-cuts", action="store_true", help="without namespaces and small disks")
    p.add_argument("--record", type=Path, default=None, metavar="FILE", help="add a line per run")
    given = p.parse_args()
    first = random.randrange(1 << 31) if given.seed is None else given.seed
    wanted = [name for name in given.faults.split(",") if name]
    cuts, clean = not given.no_cuts and possible(), True
    for seed in range(first, first + given.runs):
        print(f"seed {seed}", flush=True)
        line = one_run(seed, given.seconds, wanted, cuts)
        print(json.dumps(line), flush=True)
        clean = clean and not line["problems"]
        if given.record:
            with given.record.open("a") as file:
                file.write(json.dumps(line) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Schedules of the metadata simulator: `python3 dev.py simulate-metadata --seed N [--count M]`.

Without --seed it takes fresh seeds until --seconds are over. A seed that breaks an invariant is
printed with the reason; the same seed on the same commit breaks it again.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nearql.cluster.metadata.raft.library import Outcome
from support.raft_world import Broken, run_seed


def main(argv: list[str]) -> int:
    """0 if every schedule was clean, else 1."""
    parser = argparse.ArgumentParser(prog="dev.py simulate-metadata", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (default: fresh ones)")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from --seed on")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long without --seed")
    chosen = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # the library complains about what a schedule does to it
    schedules = acknowledged = broken = 0
    for seed in seeds(chosen):
        try:
            world = run_seed(seed)
        except Broken as reason:
            broken += 1
            print(f"seed {seed}: {reason}", flush=True)
            continue
        schedules += 1
        acknowledged += sum(outcome is Outcome.APPLIED for outcome in world.outcomes.values())
    print(f"{schedules} schedules clean, {acknowledged} commands acknowledged, {broken} broken")
    return 1 if broken else 0


def seeds(chosen: argparse.Namespace) -> Iterator[int]:
    """The seeds asked for, or fresh ones for as long as asked."""
    if chosen.seed is not None:
        yield from range(chosen.seed, chosen.seed + chosen.count)
        return
    first, end = random.SystemRandom().randrange(10**9), time.monotonic() + chosen.seconds
    print(f"fresh seeds from {first}", flush=True)
    while time.monotonic() < end:
        yield first
        first += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

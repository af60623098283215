"""Schedules of the metadata simulator: `python3 dev.py simulate-metadata [--seed N [--count M]]`.

Without --seed it takes fresh seeds until --seconds are over. A seed that breaks an invariant is
printed with the reason; the same seed on the same commit breaks it again. --record goes on where
the last recorded run of this very code ended, and adds what it did to the evidence; it writes every
minute, so that a run that is broken off loses little.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.evidence import ROOT, Evidence
from support.raft_world import Broken, run_seed

RECORD_S = 60.0
# What schedules run and obey, and what makes and judges them.
RAFT = ("guard", "journal", "library", "member", "messages")
EVIDENCE = Evidence(
    ROOT / "tests" / "simulation" / "metadata_evidence.json",
    {
        "raft": tuple(f"cluster/metadata/raft/{name}.py" for name in RAFT),
        "simulator": ("tests/support/raft_world.py", "tests/support/disks.py"),
    },
)


def main(argv: list[str]) -> int:
    """0 if every schedule was clean, else 1."""
    parser = argparse.ArgumentParser(prog="dev.py simulate-metadata", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (default: fresh ones)")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from --seed on")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long without --seed")
    parser.add_argument("--record", action="store_true", help="go on, and add to the evidence")
    chosen = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # the library complains about what a schedule does to it
    if chosen.record:
        return record(chosen.seconds)
    clean, broken, counts, seconds = run(seeds(chosen))
    print(told(clean, broken, counts, seconds))
    return 1 if broken else 0


def record(seconds: float) -> int:
    """Go on behind the last recorded seed, a minute at a time."""
    code, end = EVIDENCE.hashes(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        first = EVIDENCE.next_seed()
        clean, broken, counts, took = run(seeds_from(first, min(left, RECORD_S)))
        if broken:
            return 1
        if code != EVIDENCE.hashes():
            print("the code was changed meanwhile: the last part is not recorded")
            return 1
        EVIDENCE.add(first, clean, took, counts)
        total = EVIDENCE.total("raft")
        print(f"recorded: {total} schedules of this code; {told(clean, 0, counts, took)}")
    return 0


def seeds(chosen: argparse.Namespace) -> Iterator[int]:
    """The seeds asked for, or fresh ones for as long as asked."""
    if chosen.seed is not None:
        yield from range(chosen.seed, chosen.seed + chosen.count)
        return
    first = random.SystemRandom().randrange(10**9)
    print(f"fresh seeds from {first}", flush=True)
    yield from seeds_from(first, chosen.seconds)


def seeds_from(first: int, seconds: float) -> Iterator[int]:
    """One after the other until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield first
        first += 1


def run(chosen: Iterator[int]) -> tuple[int, int, Counter[str], float]:
    """Clean and broken schedules, what happened in the clean ones, and seconds."""
    began, clean, broken = time.monotonic(), 0, 0
    counts: Counter[str] = Counter()
    for seed in chosen:
        try:
            counts += run_seed(seed).counts()
        except Broken as reason:
            broken += 1
            print(f"seed {seed}: {reason}", flush=True)
            continue
        clean += 1
    return clean, broken, counts, round(time.monotonic() - began, 1)


def told(clean: int, broken: int, counts: Counter[str], seconds: float) -> str:
    """A line for people."""
    what = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    return f"{clean} schedules clean in {seconds} s, {broken} broken: {what}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

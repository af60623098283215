"""Schedules of the replication simulator: `python3 dev.py simulate [--seed N [--count M]]`.

Without --seed it takes fresh seeds until --seconds are over. A seed that breaks an invariant is
printed with the reason; the same seed on the same commit breaks it again. --mutants takes the
protocol's rules away one by one, and fails if no schedule notices. --record goes on where the last
recorded run of this very code ended, and adds what it did to the evidence. --jobs takes so many
processes, a chunk of seeds at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.shard_mutants import MUTANTS, mutant
from support.shard_world import run_seed

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "tests" / "simulation" / "evidence.json"
CHUNK = 10  # seeds that a process takes at a time
CODE_UNDER = ("core", "log")  # of the parts below: what a schedule puts to the test
# What schedules run and obey, and what makes and judges them.
CODE = {
    "core": ("cluster/replication/core/*.py",),
    "log": ("engine/storage/wal*.py",),
    "metadata": ("cluster/metadata/nodes.py", "cluster/metadata/shards.py"),
    "simulator": ("tests/support/shard_*.py", "tests/support/disks.py"),
}


def main(argv: list[str]) -> int:
    """0 if every schedule was clean, or every mutant was noticed; else 1."""
    parser = argparse.ArgumentParser(prog="dev.py simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (default: fresh ones)")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from --seed on")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long without --seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--record", action="store_true", help="go on, and add to the evidence")
    parser.add_argument("--mutants", type=int, metavar="SEEDS", help="at most so many for each")
    chosen = parser.parse_args(argv)
    if chosen.mutants is not None:
        return 1 if survivors(chosen.mutants) else 0
    first, code = next_seed() if chosen.record else None, hashes()
    began = time.monotonic()
    clean, broken, counts = run_all(seeds(chosen, first), chosen.jobs)
    seconds = round(time.monotonic() - began, 1)
    what = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    print(f"{clean} schedules clean in {seconds} s, {broken} broken: {what}")
    if chosen.record and code != hashes():
        print("the code was changed meanwhile: nothing is recorded")
        return 1
    if chosen.record and not broken:
        record(first or 0, clean, seconds, counts)
    return 1 if broken else 0


def seeds(chosen: argparse.Namespace, first: int | None) -> Iterator[int]:
    """The seeds asked for, or those from `first` on (fresh ones) for as long as asked."""
    if chosen.seed is not None:
        yield from range(chosen.seed, chosen.seed + chosen.count)
        return
    if first is None:
        first = random.SystemRandom().randrange(10**9)
    end = time.monotonic() + chosen.seconds
    print(f"seeds from {first}", flush=True)
    while time.monotonic() < end:
        yield first
        first += 1


Found = tuple[int, int, Counter[str]]  # clean and broken schedules, and what happened in them


def run_all(chosen: Iterator[int], jobs: int) -> Found:
    """All of these schedules, in so many processes."""
    if jobs == 1:
        return run(chosen)
    found: Found = (0, 0, Counter())
    forked = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=forked) as pool:
        under_way: set[Future[Found]] = set()
        while chunk := list(islice(chosen, CHUNK)):
            under_way.add(pool.submit(run, chunk))
            if len(under_way) > jobs:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                found = sum_of(found, *(future.result() for future in done))
        return sum_of(found, *(future.result() for future in under_way))


def run(chosen: Iterable[int]) -> Found:
    """These schedules, one after the other."""
    clean = broken = 0
    counts: Counter[str] = Counter()
    for seed in chosen:
        try:
            world = run_seed(seed)
        except AssertionError as reason:
            broken += 1
            print(f"seed {seed}: {reason}", flush=True)
            continue
        clean += 1
        counts += world.counts
    return clean, broken, counts


def sum_of(*parts: Found) -> Found:
    """Together."""
    clean, broken, counts = zip(*parts, strict=True)
    return sum(clean), sum(broken), sum(counts, Counter())


def survivors(limit: int) -> list[str]:
    """Mutants that no schedule noticed."""
    alive = []
    for name in MUTANTS:
        with mutant(name):
            found = next((seed for seed in range(limit) if not is_clean(seed)), None)
        print(f"{name}: {'NOT NOTICED' if found is None else f'seed {found}'}", flush=True)
        alive += [name] if found is None else []
    return alive


def is_clean(seed: int) -> bool:
    """Whether a schedule finds nothing wrong."""
    try:
        run_seed(seed)
    except AssertionError:
        return False
    return True


# ---- Evidence ------------------------------------------------------------------------------


def code_hash(patterns: tuple[str, ...]) -> str:
    """Of the files' names and bytes."""
    found = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def hashes() -> dict[str, str]:
    """Of the parts of the code."""
    return {part: code_hash(patterns) for part, patterns in CODE.items()}


def evidence() -> list[dict[str, Any]]:
    """Recorded runs, the newest last."""
    entries: list[dict[str, Any]] = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else []
    return entries


def next_seed() -> int:
    """Behind all recorded ones of this core and log: no schedule of theirs is counted twice."""
    now = hashes()
    mine = [entry for entry in evidence() if all(entry[part] == now[part] for part in CODE_UNDER)]
    return max((entry["first_seed"] + entry["schedules"] for entry in mine), default=0)


def is_of_this_code(entry: dict[str, Any]) -> bool:
    """Whether a recorded run was of the files as they are now."""
    return all(entry[name] == value for name, value in hashes().items())


def record(first: int, schedules: int, seconds: float, counts: Counter[str]) -> None:
    """Add a run, or lengthen the last one of this code."""
    entries = evidence()
    last = entries[-1] if entries and is_of_this_code(entries[-1]) else None
    if last and last["first_seed"] + last["schedules"] == first:
        last["schedules"] += schedules
        last["seconds"] = round(last["seconds"] + seconds, 1)
        last["counts"] = dict(sorted((Counter(last["counts"]) + counts).items()))
    else:
        new = {"first_seed": first, "schedules": schedules, "seconds": seconds}
        entries.append({**hashes(), **new, "counts": dict(sorted(counts.items()))})
    EVIDENCE.write_text(json.dumps(entries, indent=1) + "\n")
    now = hashes()
    of_this = [e for e in entries if all(e[part] == now[part] for part in CODE_UNDER)]
    this, every = (sum(e["schedules"] for e in some) for some in (of_this, entries))
    print(f"recorded: {this} schedules of this core and log, {every} of all versions")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python3 dev.py fuzz [--seed N] [--statements M] [--words W] [--record]`: differential fuzzing.

Without --seed it goes on after the last seed of the record, tests/scripts/fuzz_record.jsonl: a line
for each run that was clean, with its first and last seed and how many statements were compared.
Only a clean run is recorded. Exit code 1 where an answer differs. --words: in how many other words
that mean the same each statement is asked too, all by default; the record tells.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from support.fuzz import STATEMENTS, run  # found by the line above

RECORD = Path(__file__).parent / "scripts" / "fuzz_record.jsonl"


def recorded() -> list[dict[str, int]]:
    """The clean runs so far."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return [json.loads(line) for line in lines]


def main() -> int:
    """Run, tell every difference, and record a clean run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--statements", type=int, default=STATEMENTS)
    parser.add_argument("--words", type=int, default=None)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    after = max((one["last_seed"] + 1 for one in recorded()), default=0)
    first = after if given.seed is None else given.seed
    last = first + max(1, -(-given.statements // STATEMENTS)) - 1
    failed = 0
    for seed in range(first, last + 1):
        _, failures = run(seed, words=given.words)
        for failure in failures:
            print(failure, flush=True)
        failed += len(failures)
    compared = (last - first + 1) * STATEMENTS
    print(f"seeds {first} to {last}: {compared} statements, {failed} answers differ")
    if given.record and not failed:
        line = {"first_seed": first, "last_seed": last, "statements": compared}
        if given.words is not None:
            line["words"] = given.words
        with RECORD.open("a") as out:
            out.write(json.dumps(line) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

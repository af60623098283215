"""`python3 dev.py fuzz [--seed N] [--statements M | --seconds S] [--words W] [--record]`:
differential fuzzing.

Without --seed it goes on after the last seed of the record, tests/scripts/fuzz_record.jsonl: a line
for each run that was clean, with its first and last seed and how many statements were compared.
Only a clean run is recorded. Exit code 1 where an answer differs. --words: in how many other words
that mean the same each statement is asked too, all by default; the record tells. --seconds: begin
no further seed after so long; CI asks the recorded ones again, from 0 on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import count
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
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--words", type=int, default=None)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    after = max((one["last_seed"] + 1 for one in recorded()), default=0)
    first = after if given.seed is None else given.seed
    wanted = max(1, -(-given.statements // STATEMENTS))
    until = None if given.seconds is None else time.monotonic() + given.seconds
    failed = 0
    for last in count(first):
        _, failures = run(last, words=given.words)
        for failure in failures:
            print(failure, flush=True)
        failed += len(failures)
        if last - first + 1 >= wanted if until is None else time.monotonic() >= until:
            break
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

"""The differential fuzzer: some seeds always, more in the slow suite; see tests/fuzz.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.fuzz import STATEMENTS, run

RECORD = Path(__file__).parents[1] / "scripts" / "fuzz_record.jsonl"


@pytest.mark.parametrize("seed", range(4))
def test_random_statements_are_answered_as_naively(seed: int) -> None:
    compared, failures = run(seed)
    assert compared == STATEMENTS
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5000, 5025))
def test_more_random_statements_are_answered_as_naively(seed: int) -> None:
    test_random_statements_are_answered_as_naively(seed)


def test_the_record_is_of_runs_that_were_not_counted_twice() -> None:
    runs = [json.loads(line) for line in RECORD.read_text().splitlines()]
    for before, after in zip(runs, runs[1:], strict=False):
        assert after["first_seed"] > before["last_seed"]
    for one in runs:
        assert one["statements"] == (one["last_seed"] - one["first_seed"] + 1) * STATEMENTS

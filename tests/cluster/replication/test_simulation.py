"""Schedules of the replication simulator, and the proof that its checkers have teeth."""

from __future__ import annotations

import pytest

from support.shard_mutants import DIRECTED, MUTANTS, mutant
from support.shard_world import World, run_seed

# Seeds that broke something while this was written, and what it was.
FOUND = {
    9502: "an empty copy in the place of a damaged one did not note what was promised",
    200345: "the answer to a former life's READ_INDEX was taken for one of this life's",
    131149: "the checks took for a loss what test_checks.py tells of",
}


@pytest.mark.parametrize("seed", FOUND)
def test_a_schedule_that_found_something_is_clean(seed: int) -> None:
    run_seed(seed)


def run_seeds(*seeds: int, real_log: bool = True) -> None:
    """Schedules, up to the first that is not clean."""
    for seed in seeds:
        run_seed(seed, real_log=real_log)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_schedules_are_clean(first: int) -> None:
    run_seeds(*range(first, first + 20))


def test_schedules_over_a_model_of_the_log_are_clean() -> None:
    run_seeds(*range(60, 90), real_log=False)


# The first seed that notices, as `dev.py simulate --mutants 300` prints it. Only a hint.
NOTICED = {
    "anybody is promoted": 32,
    "messages of older epochs are heard": 47,
    "a joining member counts only once metadata has it": 23,
    "a flush from before a cut counts": 103,
    "reads before EPOCH_START is committed": 80,
    "a copy that is opened again resumes its epoch": 295,
}


@pytest.mark.parametrize("name", sorted(set(MUTANTS) - DIRECTED))
def test_schedules_notice_a_missing_rule(name: str) -> None:
    hint = NOTICED.get(name, 0)
    with mutant(name), pytest.raises(AssertionError):
        run_seeds(*range(hint, hint + 20), *range(600))


@pytest.mark.parametrize("real_log", [False, True])
def test_one_seed_is_one_run(real_log: bool) -> None:
    traces = []
    for _ in range(2):
        world = World(11, strict=True, real_log=real_log)
        world.run()
        traces.append((world.trace.hexdigest(), world.steps, world.counts))
    assert traces[0] == traces[1]


def test_schedules_do_what_they_are_made_for() -> None:
    """A simulator in which nothing happens proves nothing."""
    worlds = [run_seed(seed) for seed in range(30)]
    for what in ("acknowledged", "read", "promoted", "handed off", "wiped", "power lost"):
        assert sum(world.counts[what] for world in worlds) >= 1, what

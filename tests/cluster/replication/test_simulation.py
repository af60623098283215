"""Schedules of the replication simulator, and the proof that its checkers have teeth."""

from __future__ import annotations

import pytest

from support.shard_world import World, run_seed


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_schedules_are_clean(first: int) -> None:
    for seed in range(first, first + 20):
        run_seed(seed)


def test_one_seed_is_one_run() -> None:
    traces = []
    for _ in range(2):
        world = World(11, strict=True)
        world.run()
        traces.append((world.trace.hexdigest(), world.steps, world.counts))
    assert traces[0] == traces[1]


def test_schedules_do_what_they_are_made_for() -> None:
    """A simulator in which nothing happens proves nothing."""
    worlds = [run_seed(seed) for seed in range(20)]
    for what in ("acknowledged", "read", "promoted", "handed off", "wiped", "power lost"):
        assert sum(world.counts[what] for world in worlds) >= 1, what

"""What the soak calls growth: a leak is seen through noise and peaks, and what is steady is not."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from support.growth import Growth, Limits, Sample, slope

MINUTES = 40


def life(grown: dict[str, float], *, seed: int = 1) -> Growth:
    """A process looked at each 10 s, with noise and a peak, whose measures grow by so much."""
    chance, growth = random.Random(seed), Growth()
    count = MINUTES * 6
    for at in range(count):
        steady = {"rss_mib": 300.0, "files": 80.0, "threads": 40.0}
        values = {
            name: value + grown.get(name, 0.0) * at / count + chance.uniform(-3, 3)
            for name, value in steady.items()
        }
        if at == count // 2:
            values["rss_mib"] += 900.0
        growth.samples.append(Sample(at * 10.0, "n1", 7, values))
    return growth


@pytest.mark.parametrize("seed", range(5))
def test_what_is_steady_is_no_growth(seed: int) -> None:
    (line,) = life({}, seed=seed).judged(Limits())
    assert line["problems"] == []
    assert line["rss_mib"]["most"] > 1000


@pytest.mark.parametrize(("measure", "grown"), [("rss_mib", 80), ("files", 40), ("threads", 15)])
def test_a_leak_is_named(measure: str, grown: float) -> None:
    (line,) = life({measure: grown}).judged(Limits())
    (problem,) = line["problems"]
    assert problem.startswith(f"{measure} of n1 grew by ")
    assert line[measure]["grown"] == pytest.approx(grown, rel=0.3)


def test_a_life_that_was_short_is_not_judged() -> None:
    growth = life({"files": 500})
    growth.samples = growth.samples[:30]
    assert growth.judged(Limits()) == []


def test_two_lives_of_a_node_are_two() -> None:
    growth = life({})
    growth.samples += [
        Sample(s.at_s + 5000, s.who, 8, {**s.values, "files": 200.0}) for s in growth.samples
    ]
    first, second = growth.judged(Limits())
    assert first["problems"] == second["problems"] == []


def test_a_process_is_looked_at(tmp_path: Path) -> None:
    growth = Growth()
    growth.look("us", os.getpid())
    before = growth.samples[0]
    ended = threading.Event()
    waiting = [threading.Thread(target=ended.wait) for _ in range(5)]
    for thread in waiting:
        thread.start()
    with (tmp_path / "one").open("wb") as file:
        file.write(bytes(3 << 20))
        file.flush()
        growth.look("us", os.getpid())
        growth.look_at_disk("us", tmp_path)
    ended.set()
    (after,) = [s for s in growth.samples if s.pid == os.getpid() and s is not before]
    assert after.values["threads"] >= before.values["threads"] + 5
    assert after.values["files"] == before.values["files"] + 1
    assert growth.samples[-1].values["disk_mib"] >= 3
    assert after.values["rss_mib"] > 1


def test_one_who_has_gone_is_left_out() -> None:
    growth = Growth()
    growth.look("nobody", 2**22 + 1)
    assert growth.samples == []


def test_one_point_of_many_moves_no_slope() -> None:
    at = [float(x) for x in range(101)]
    assert slope(at, [2 * x for x in at]) == pytest.approx(2)
    assert slope(at, [2 * x if x != 50 else 1e6 for x in at]) == pytest.approx(2)

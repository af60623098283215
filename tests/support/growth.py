"""What processes take over hours, and whether it grows: memory, open files, threads, disk.

Each life of a process is judged by itself, and the disk of each node over the whole run. The growth
of a measure is the median slope between any two samples (Theil and Sen's), which peaks and dips
don't move, times the time that it was looked at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MIB = 1 << 20
LIFE_MEASURES = ("rss_mib", "files", "threads")
MOST_SAMPLES = 400  # that a slope is made of: its cost grows with their square


@dataclass(frozen=True)
class Allowance:
    """How much a measure may grow: whatever the time, and beyond that in an hour."""

    base: float
    per_hour: float

    def of(self, seconds: float) -> float:
        """For a time."""
        return self.base + self.per_hour * seconds / 3600


@dataclass(frozen=True)
class Limits:
    """What counts as growth. warm_up_s: of each life that is not looked at; life_s: how long a
    process must then be looked at to be judged.
    """

    warm_up_s: float = 300.0
    life_s: float = 600.0
    allowed: Mapping[str, Allowance] = field(
        default_factory=lambda: {
            "rss_mib": Allowance(24, 32),
            "files": Allowance(24, 0),
            "threads": Allowance(8, 0),
            "disk_mib": Allowance(32, 64),
        }
    )

    def slackened(self, times: float) -> Limits:
        """For a run that ends while pools and caches still fill: more whatever the time."""
        allowed = {k: Allowance(a.base * times, a.per_hour) for k, a in self.allowed.items()}
        return replace(self, allowed=allowed)

    def told(self) -> dict[str, Any]:
        """As a line of a record."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """One look at one process, or (pid 0, `disk_mib` alone) at one node's disk. at_s: monotonic."""

    at_s: float
    who: str
    pid: int
    values: Mapping[str, float]


class Growth:
    """Samples of a run."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def look(self, who: str, pid: int) -> None:
        """At a process and those that it has started (`who/1`, ...); at none that has ended."""
        now = time.monotonic()
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(pid)
            for at, process in enumerate([found, *found.children()]):
                with process.oneshot():
                    values = {
                        "rss_mib": process.memory_info().rss / MIB,
                        "files": float(process.num_fds()),
                        "threads": float(process.num_threads()),
                    }
                name = f"{who}/{at}" if at else who
                self.samples.append(Sample(now, name, process.pid, values))

    def look_at_disk(self, who: str, folder: Path) -> None:
        """What its files occupy."""
        used = sum(_occupied(path) for path in folder.rglob("*"))
        self.samples.append(Sample(time.monotonic(), who, 0, {"disk_mib": used / MIB}))

    def judged(self, limits: Limits) -> list[dict[str, Any]]:
        """Each life, and each disk, that was looked at for long enough: what it took, how much of
        it grew, and `problems`.
        """
        groups: dict[tuple[str, int], list[Sample]] = {}
        for sample in self.samples:
            groups.setdefault((sample.who, sample.pid), []).append(sample)
        lines = [_line(samples, limits) for samples in groups.values()]
        return [line for line in lines if line is not None]


def _occupied(path: Path) -> int:
    try:
        status = path.lstat()
    except FileNotFoundError:  # removed meanwhile
        return 0
    return status.st_blocks * 512


def _line(samples: list[Sample], limits: Limits) -> dict[str, Any] | None:
    kept = [s for s in samples if s.at_s - samples[0].at_s >= limits.warm_up_s]
    if len(kept) < 3 or kept[-1].at_s - kept[0].at_s < limits.life_s:
        return None
    seconds = kept[-1].at_s - kept[0].at_s
    line: dict[str, Any] = {"who": kept[0].who, "seconds": round(seconds), "problems": []}
    for measure in kept[0].values:
        values = [sample.values[measure] for sample in kept]
        grown = slope([sample.at_s for sample in kept], values) * seconds
        line[measure] = {
            "first": round(values[0], 1), "last": round(values[-1], 1),
            "most": round(max(values), 1), "grown": round(grown, 1),
        }  # fmt: skip
        if grown > limits.allowed[measure].of(seconds):
            allowed = limits.allowed[measure].of(seconds)
            line["problems"].append(
                f"{measure} of {kept[0].who} grew by {grown:.1f} in {seconds:.0f} s, "
                f"not by {allowed:.1f} at most"
            )
    return line


def slope(at: Iterable[float], values: Iterable[float]) -> float:
    """The median slope between any two points, of `MOST_SAMPLES` spread evenly."""
    x, y = np.array(list(at)), np.array(list(values))
    step = -(-len(x) // MOST_SAMPLES)
    x, y = x[::step], y[::step]
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))

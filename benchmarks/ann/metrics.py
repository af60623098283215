"""What is counted: recall that knows of ties, percentiles, bytes on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ann.datasets import Condition, Dataset

TIE = 2e-5  # many texts are nearly equal: whoever is as near as the k-th is right


def recall(data: Dataset, condition: Condition, found: list[Sequence[int]], k: int) -> float:
    """Mean share of the rows wanted that were found, over the first len(found) queries.

    A row counts once, if it qualifies and is at least as near as the k-th best but for `TIE`.
    Wanted are k rows, or as many as qualify.
    """
    allowed = condition.mask(data.columns)
    wanted = min(k, int(allowed.sum()))
    least = data.least(condition, k)
    right = 0
    for query, rows in enumerate(found):
        distinct = np.array(sorted({row for row in rows if allowed[row]}), np.int64)
        near = data.vectors[distinct] @ data.queries[query]
        right += min(int((near >= least[query] - TIE).sum()), wanted)
    return right / (wanted * len(found))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def disk_bytes(folder: Path) -> int:
    """Blocks that the files of a folder take on disk, in bytes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())

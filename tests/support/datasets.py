"""The real data that tests use, and where to find it.

The 5,000 packages ship with the project. The full set (62,816 rows with exact ground truth) does
not: it is looked for in the folder that NEARQL_TEST_DATA names, else in `shared/data` beside the
checkout, and tests that need it skip by name where it is absent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "client" / "demo_data" / "debian_5k.parquet"

#: name in the ground-truth file -> the filter in SQL
FILTERS = {
    "all": None,
    "f50": "architecture = 'amd64'",
    "f10": "installed_size >= 6400",
    "f0.1": "priority IN ('required','important')",
}


@dataclass(frozen=True)
class Debian:
    """62,816 packages with queries and their exact top 100.

    queries: float32 (500, 384). ids, similarities: by filter, (500, 100), padded with -1 and -2.
    """

    path: Path
    queries: NDArray[np.float32]
    ids: dict[str, NDArray[np.int64]]
    similarities: dict[str, NDArray[np.float32]]

    def table(self) -> pa.Table:
        """All rows."""
        return pq.read_table(self.path)


def full_data_folder() -> Path | None:
    """Where the full data set is, if it is here."""
    named = os.environ.get("NEARQL_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if (folder / "debian.parquet").is_file() else None


@cache
def debian() -> Debian:
    """The full set; skips the calling test where it is not here."""
    folder = full_data_folder()
    if folder is None:
        pytest.skip("the full Debian set is not here; name its folder in NEARQL_TEST_DATA")
    with np.load(folder / "debian_queries.npz") as truth:
        return Debian(
            folder / "debian.parquet",
            np.ascontiguousarray(truth["queries"], dtype=np.float32),
            {name: truth[f"{name}_ids"].astype(np.int64) for name in FILTERS},
            {name: truth[f"{name}_sims"] for name in FILTERS},
        )

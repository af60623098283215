"""Two nodes of a scripted cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from support.cluster_edges import MakePair, pair_of


@pytest.fixture
def make_pair(tmp_path: Path) -> MakePair:
    """Makes a pair below the test's own directory."""
    return partial(pair_of, tmp_path)

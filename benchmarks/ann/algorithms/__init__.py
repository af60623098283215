"""One folder per system: how it is loaded, built, asked. `runner.py` says what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ann.datasets import Condition, Dataset

Ask = Callable[[NDArray[np.float32]], Sequence[int]]
K = 10


class System(Protocol):
    """A database, or a bare index as a ceiling. Methods are called in the order written."""

    version: str
    efforts: Sequence[Any]  # what buys recall, from cheap to dear
    durable: bool  # whether `load` returns only when the rows survive a kill

    def load(self, data: Dataset, folder: Path) -> None:
        """Take in all rows with their columns."""

    def build(self) -> None:
        """Make the vector index (M = 16, ef_construction = 200 for graphs) and all others."""

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """A client of its own: the ids of the K nearest rows that qualify, names fetched too."""

    def upsert(self, rows: NDArray[np.int64]) -> None:
        """Write these rows again, as they are."""

    def delete(self, rows: NDArray[np.int64]) -> None:
        """Delete these rows."""

    def close(self) -> None:
        """Let go of everything."""


def make(name: str) -> System:
    """A system by the name of its folder."""
    system: System = import_module(f"ann.algorithms.{name}").System()
    return system


def names() -> list[str]:
    """All systems that there are."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))

"""What an insert does with keys that exist, decided before anything is logged."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearql.engine.errors import Conflict
from nearql.engine.keys import Key
from nearql.engine.types import OnConflict


@dataclass(frozen=True, slots=True)
class InsertPlan:
    """Which of the given rows an insert puts.

    keep: offsets to put, int64; None = all. skipped: offsets left out by OnConflict.NOTHING.
    """

    keep: NDArray[np.int64] | None
    inserted: int
    updated: int
    skipped: NDArray[np.int64] | None = None


def plan_insert(
    keys: Sequence[Key],
    on_conflict: OnConflict,
    held: Set[Key],
    offsets: NDArray[np.int64] | None = None,
) -> InsertPlan:
    """The plan for rows with these keys, of which those in `held` exist.

    offsets: of the rows in what the user gave, for the error; None = all of it.

    Raises:
        Conflict: code `duplicate_key`, extra `key` and `row`, if ERROR.
    """
    if on_conflict is OnConflict.REPLACE:
        return _plan_replace(keys, held)
    kept: list[int] = []
    skipped: list[int] = []
    new: set[Key] = set()
    for row, key in enumerate(keys):
        if key not in new and key not in held:
            new.add(key)
            kept.append(row)
        elif on_conflict is OnConflict.ERROR:
            given = row if offsets is None else int(offsets[row])
            raise duplicate_key(key, given, twice=key in new)
        else:
            skipped.append(row)
    return InsertPlan(_offsets(kept), len(kept), 0, _offsets(skipped))


def _plan_replace(keys: Sequence[Key], held: Set[Key]) -> InsertPlan:
    """The last row of each key is put; one that replaces a row before it is an update."""
    last = {key: row for row, key in enumerate(keys)}
    inserted = len(last) - len(held)
    keep = None if len(last) == len(keys) else _offsets(sorted(last.values()))
    return InsertPlan(keep, inserted, len(keys) - inserted)


def duplicate_key(key: Key, row: int, *, twice: bool) -> Conflict:
    """The error for a key that exists already or that the rows bring twice."""
    what = "is in the rows twice" if twice else "exists already"
    return Conflict(
        f"Row {row}: the primary key {key!r} {what}. Use ON CONFLICT to replace or skip such rows.",
        code="duplicate_key", key=key, row=row,
    )  # fmt: skip


def _offsets(rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)

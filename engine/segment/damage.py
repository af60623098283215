"""A segment whose file no longer holds what was written: set aside, nothing of it is served.

A bad block lies in some part of the file. In raw vectors, their norms or their NULL marks it costs
that vector column for the whole segment, and the rows that it hits can be named; scalar columns and
other vectors stay readable. When every row that is hit has died, because it was deleted or written
anew, the next checkpoint copies the others from their good blocks, and the segment is whole again.

Anywhere else, or where the file is cut short or gone, it costs the segment: then not even its keys
are known, and a table that can't know which keys exist takes no writes.

    file   | head, meta | scalars | v3 ......X........ | v3.norms | table of contents |
                                         block 7, rows 2048 to 2730

What is lost raises `Corruption` when it is asked for; nothing else needs to know. In place of the
segment's data stands a `SetAside`, which `SegmentView` holds as it would hold the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from nearql.engine.errors import Corruption
from nearql.engine.segment.data import SegmentData, VectorBlock

REMEDY = (
    "Put the file back from a backup and restart the node, or write these rows anew or delete them "
    "(docs/operating, nearql.damage)."
)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a segment's file, and what it costs.

    file: its path. place: blocks and bytes, in words.
    columns: numbers of the vector columns that are lost; empty = everything, the keys included.
    first, end: positions in the shard of the rows that bad blocks hit, `end` excluded.
    """

    file: str
    place: str
    columns: frozenset[int]
    first: int
    end: int

    @property
    def everything(self) -> bool:
        """Whether not even the keys are known."""
        return not self.columns

    @property
    def rows(self) -> range:
        """Positions of the rows that are hit."""
        return range(self.first, self.end)

    def error(self) -> Corruption:
        """What is raised for every use of what is lost; a new one each time."""
        lost = "the segment was" if self.everything else "its vectors were"
        return Corruption(
            f"{self.file} is corrupt: {self.place}. It hits rows {self.first} to {self.end - 1} "
            f"of its shard; {lost} set aside and not served. {REMEDY}",
            file=self.file, first_row=self.first, last_row=self.end - 1,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SetAside(SegmentData):
    """A damaged segment's data: what is whole is there, what is lost raises `Corruption`."""

    damage: Damage = field(kw_only=True)

    @classmethod
    def of(cls, data: SegmentData, damage: Damage) -> SetAside:
        """What is left of a segment's data."""
        if damage.everything:
            return cls(data.base, data.rows, (), _Lost({}, damage), damage=damage)
        return cls(data.base, data.rows, data.chunks, _Lost(data.vectors, damage), damage=damage)

    def good_rows(self) -> SegmentData:
        """The data as it was, of which only rows that no bad block hits may be read."""
        vectors = self.vectors
        assert isinstance(vectors, _Lost)
        return SegmentData(self.base, self.rows, self.chunks, vectors.blocks)

    def has(self, number: int) -> bool:
        """See `SegmentData.has`."""
        if self.damage.everything:
            raise self.damage.error()
        return super().has(number)

    def column(self, number: int) -> pa.ChunkedArray:
        """See `SegmentData.column`."""
        if self.damage.everything:
            raise self.damage.error()
        return super().column(number)

    @property
    def nbytes(self) -> int:
        """Bytes of what is whole."""
        whole = [n for n in self.vectors if n not in self.damage.columns]
        scalars: int = sum(chunk.nbytes for chunk in self.chunks)
        return scalars + sum(self.vectors[n].nbytes for n in whole)

    def check_invariants(self) -> None:
        """Raise AssertionError where the picture contradicts itself."""
        assert self.base <= self.damage.first < self.damage.end <= self.base + self.rows
        if not self.damage.everything:
            assert sum(chunk.num_rows for chunk in self.chunks) == self.rows


class _Lost(Mapping[int, VectorBlock]):
    """Vector blocks by column number, of which some raise."""

    def __init__(self, blocks: Mapping[int, VectorBlock], damage: Damage) -> None:
        self.blocks = blocks
        self._damage = damage

    def __getitem__(self, number: int) -> VectorBlock:
        if self._damage.everything or number in self._damage.columns:
            raise self._damage.error()
        return self.blocks[number]

    def __contains__(self, number: object) -> bool:
        return number in self.blocks

    def __iter__(self) -> Iterator[int]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def damage_of(data: SegmentData) -> Damage | None:
    """The damage of a segment that was set aside."""
    return data.damage if isinstance(data, SetAside) else None


def is_lost(data: SegmentData, column: int) -> bool:
    """Whether this vector column of the segment was set aside."""
    damage = damage_of(data)
    return damage is not None and (damage.everything or column in damage.columns)


def check_keys(data: SegmentData) -> None:
    """Refuse to count or list rows of a segment that lost its keys: later writes may have hit them.

    Raises:
        Corruption: names file and rows.
    """
    damage = damage_of(data)
    if damage is not None and damage.everything:
        raise damage.error()


def words(places: Sequence[str], most: int = 4) -> str:
    """A few places in words, and how many more there are."""
    shown = "; ".join(places[:most])
    return shown if len(places) <= most else f"{shown}; and {len(places) - most} more"

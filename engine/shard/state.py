"""What applying a shard's log makes: segments, key index, remembered requests; and its read views.

Only committed statements are applied, in log order, and nothing is ever undone. Applying changes
vectors, columns, tombstones and key index in one step; readers see it all at once, when the next
read view is published. A view holds immutable things only, so it stays true for as long as it is
held.

    positions   0 ........ 131071 | 131072 ...... 200000 | 200001 ... next_position - 1
                closed segment 0  | closed segment 1     | growing
                sealed: a file    | not flushed yet      |

Invariants: segments are disjoint, ascending ranges of positions below `next_position`, with gaps
only where compaction left dead rows out; the key index holds exactly the keys of live rows (but for
those of a segment that was set aside whole, which nobody knows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.key_index import KeyIndex
from nearql.engine.keys import Key, keys_of
from nearql.engine.segment.damage import Damage, SetAside, damage_of
from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.growing import GrowingSegment
from nearql.engine.segment.rows import Rows
from nearql.engine.segment.view import SegmentView
from nearql.engine.settings import EngineSettings
from nearql.engine.shard.dedup import Dedup, Recorded
from nearql.engine.shard.records import Statement
from nearql.engine.storage.wal import RecordKind

_LAYOUT_SHIFT = 24  # more segments than a shard has
COMPACT_ABOVE = 0.2  # share of dead rows in a segment from which on it is rewritten


@dataclass(frozen=True)
class ShardView:
    """One shard at one instant.

    lsn: the last statement that it reflects. version: the last one that changed rows.
    layout: rises when rows move; two views of the same version and layout agree on row numbers.
    segments: by position; none is empty. Compaction leaves gaps between them.
    fills: value of each column ever declared, by number, in segments that don't store it.
    live: live rows.
    """

    shard: int
    epoch: int
    lsn: int
    version: int
    layout: int
    segments: tuple[SegmentView, ...]
    fills: Mapping[int, pa.Scalar | None]
    live: int

    def without_damage(self) -> ShardView:
        """The segments that are whole; itself where all are.

        Row numbers stay, masks are shorter: its layout is like no other view's.
        """
        whole = tuple(s for s in self.segments if damage_of(s.data) is None)
        if len(whole) == len(self.segments):
            return self
        live = sum(segment.data.rows - segment.dead for segment in whole)
        layout = -1 - (self.layout << _LAYOUT_SHIFT) - len(self.segments) + len(whole)
        return replace(self, segments=whole, live=live, layout=layout)

    @property
    def span(self) -> int:
        """Row versions shown, dead ones included; the length of this shard's mask in a RowSet."""
        return sum(segment.data.rows for segment in self.segments)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        end = 0
        for segment in self.segments:
            segment.check_invariants()
            assert segment.data.base >= end
            end = segment.end
        assert self.live == sum(s.data.rows - s.dead for s in self.segments)
        assert self.version <= self.lsn


class ShardState:
    """Not thread-safe: the shard's lock guards it."""

    def __init__(self, shard: int, key_number: int, settings: EngineSettings) -> None:
        self.shard = shard
        self.key_number = key_number
        self.settings = settings
        self.index = KeyIndex()
        self.closed: list[SegmentView] = []  # invariant: none is empty
        self.growing = GrowingSegment(0, settings)
        self.growing_live: NDArray[np.bool_] | None = None  # invariant: None or growing.rows long
        self.growing_dead = 0
        self.dedup = Dedup(settings)
        self.fills: Mapping[int, pa.Scalar | None] = {}
        self.schema_version = 0
        self.epoch = 1
        self.applied_lsn = 0
        self.version = 0  # LSN of the last statement that changed rows
        self.layout = 0

    @property
    def next_position(self) -> int:
        """The position of the next row version."""
        return self.growing.base + self.growing.rows

    # ---- Applying --------------------------------------------------------------------------

    def apply(self, statement: Statement) -> None:
        """Take a committed statement in.

        Invariant: statements come in log order, each once.
        """
        assert statement.lsn > self.applied_lsn
        if statement.kind == RecordKind.TRUNCATE:
            self._truncate()
        elif statement.schema is not None:
            self.schema_version = statement.schema.version
            self.fills = {**self.fills, **statement.schema.fills}
            self.freeze()  # later rows may have other columns
        if statement.kind == RecordKind.TRUNCATE or statement.deletes or statement.puts:
            self.version = statement.lsn
        for keys in statement.deletes:
            self._kill(self.index.remove(keys))
        for rows in statement.puts:
            self._put(rows)
        self.applied_lsn, self.epoch = statement.lsn, statement.epoch
        recorded = Recorded(
            statement.lsn, statement.epoch, statement.counts, statement.timestamp_ms
        )
        self.dedup.add(statement.request_id, recorded)

    def _put(self, rows: Rows) -> None:
        if self._is_full(rows):
            self.freeze()
        first = self.next_position
        keys = keys_of(rows.key(self.key_number))
        old = self.index.put(keys, first)
        self.growing.append(rows)
        if self.growing_live is not None:
            added = np.ones(rows.count, np.bool_)
            self.growing_live = np.concatenate([self.growing_live, added])
        self._kill(old)

    def _is_full(self, rows: Rows) -> bool:
        growing, settings = self.growing, self.settings
        return growing.rows > 0 and (
            growing.rows + rows.count > settings.seal_rows
            or growing.nbytes + rows.nbytes > settings.seal_bytes
        )

    def freeze(self) -> None:
        """Close the growing segment, if it has rows, and begin another."""
        if self.growing.rows:
            self.closed.append(self._growing_view())
            self.growing = GrowingSegment(self.next_position, self.settings)
            self.growing_live, self.growing_dead = None, 0

    def _truncate(self) -> None:
        self.index.clear()
        self.closed = []
        self.growing = GrowingSegment(0, self.settings)
        self.growing_live, self.growing_dead = None, 0

    def _kill(self, positions: NDArray[np.int64]) -> None:
        """Set tombstones; the arrays that views hold are copied first."""
        if not positions.size:
            return
        ends = np.array([segment.end for segment in self.closed], np.int64)
        places = np.searchsorted(ends, positions, side="right")
        for place in np.unique(places):
            self._kill_in(int(place), positions[places == place])

    def _kill_in(self, place: int, positions: NDArray[np.int64]) -> None:
        if place < len(self.closed):
            view = self.closed[place]
            live = _without(view.live, view.data.rows, positions - view.data.base)
            dead = view.dead + len(positions)
            self.closed[place] = SegmentView(view.data, live, dead, view.sealed)
            return
        offsets = positions - self.growing.base
        self.growing_live = _without(self.growing_live, self.growing.rows, offsets)
        self.growing_dead += len(positions)

    # ---- Reading ---------------------------------------------------------------------------

    def view(self) -> ShardView:
        """A picture of the state now."""
        segments = [*self.closed, self._growing_view()] if self.growing.rows else self.closed
        lost = sum(s.data.rows - s.dead for s in self.closed if _is_lost(s))
        return ShardView(
            shard=self.shard, epoch=self.epoch, lsn=self.applied_lsn, version=self.version,
            layout=self.layout, segments=tuple(segments), fills=self.fills,
            live=len(self.index) + lost,
        )  # fmt: skip

    def _growing_view(self) -> SegmentView:
        return SegmentView(self.growing.data(), self.growing_live, self.growing_dead)

    # ---- Checkpoints -----------------------------------------------------------------------

    def load(self, segments: list[SegmentView], next_position: int) -> None:
        """Take over the segments of a checkpoint; only into a new state."""
        assert not self.closed
        assert not self.growing.rows
        self.closed = segments
        for segment in segments:
            damage = damage_of(segment.data)
            if damage is None or not damage.everything:
                self.index.load(*self._live_keys(segment))
        self.growing = GrowingSegment(next_position, self.settings)

    def _live_keys(self, segment: SegmentView) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
        """Keys of a segment's live rows, and their positions."""
        keys = segment.data.column(self.key_number)
        if segment.live is not None:
            keys = keys.filter(pa.array(segment.live))
        return keys, segment.live_offsets + segment.data.base

    def swap(
        self, old: list[SegmentView], new: SegmentView | None, kept: NDArray[np.bool_] | None
    ) -> None:
        """Replace adjacent closed segments by one file of their rows, with today's tombstones.

        kept: their rows that the file has, one after the other; None = all, at their positions.
        `old` are as the checkpoint saw them; rows of them may have died since. After a truncation
        there is nothing to replace.
        """
        bases = [segment.data.base for segment in self.closed]
        if old[0].data.base not in bases:
            return
        first = bases.index(old[0].data.base)
        current = self.closed[first : first + len(old)]
        if len(current) < len(old) or any(
            now.data is not then.data for now, then in zip(current, old, strict=True)
        ):
            return
        live = np.concatenate([live_mask(segment) for segment in current])
        moved = kept is not None or new is None
        live = live if kept is None else live[kept]
        replaced = [] if new is None else [_with_live(new.data, live)]
        self.closed[first : first + len(old)] = replaced
        if moved:
            self.layout += 1
            for segment in replaced:
                self.index.move(*self._live_keys(segment))

    def set_aside(self, data: SegmentData, damage: Damage) -> SegmentData | None:
        """Serve nothing more of what this segment lost; what is left, None if it was replaced."""
        for place, view in enumerate(self.closed):
            if view.data is data:
                left = SetAside.of(data, damage)
                self.closed[place] = SegmentView(left, view.live, view.dead, sealed=True)
                return left
        return None

    @property
    def lost(self) -> Damage | None:
        """Damage that leaves keys unknown: then nothing may be written."""
        found = (damage_of(segment.data) for segment in self.closed)
        return next((damage for damage in found if damage and damage.everything), None)

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        view = self.view()
        view.check_invariants()
        self.growing.check_invariants()
        self.dedup.check_invariants()
        self.index.check_invariants()
        expected: dict[Key, int] = {}
        for segment in view.segments:
            if (damage := damage_of(segment.data)) is not None and damage.everything:
                return  # its keys are in nobody's hands
            keys = keys_of(segment.data.column(self.key_number))
            expected |= {keys[o]: segment.data.base + o for o in segment.live_offsets.tolist()}
        assert len(expected) == len(self.index) == view.live
        positions = self.index.positions(list(expected))
        assert positions.tolist() == list(expected.values())


def is_sparse(segment: SegmentView) -> bool:
    """Whether a segment is worth writing anew without its dead rows."""
    damage = damage_of(segment.data)
    if damage is not None and (damage.everything or segment.live is None):
        return segment.dead == segment.data.rows
    if damage is not None:  # good rows are copied once no live one is hit
        base = segment.data.base
        return not live_mask(segment)[damage.first - base : damage.end - base].any()
    return segment.dead > segment.data.rows * COMPACT_ABOVE


def _with_live(data: SegmentData, live: NDArray[np.bool_]) -> SegmentView:
    dead = len(live) - int(np.count_nonzero(live))
    return SegmentView(data, live if dead else None, dead, sealed=True)


def _without(
    live: NDArray[np.bool_] | None, rows: int, offsets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    changed = np.ones(rows, np.bool_) if live is None else live.copy()
    changed[offsets] = False
    return changed


def _is_lost(segment: SegmentView) -> bool:
    damage = damage_of(segment.data)
    return damage is not None and damage.everything


def live_mask(segment: SegmentView) -> NDArray[np.bool_]:
    """bool, shape (rows,): which rows of the segment are live."""
    return np.ones(segment.data.rows, np.bool_) if segment.live is None else segment.live

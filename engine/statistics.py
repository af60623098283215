"""Sizes of a table's data, for system tables, dashboards and policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nearql.engine.segment.damage import Damage, damage_of
from nearql.engine.shard.state import ShardView
from nearql.engine.types import SHARD_SHIFT, ShardPosition


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """One segment. first_row: its first row number. bytes: columns, vectors and norms.

    damage: what is wrong with it, if it was set aside.
    """

    shard: int
    first_row: int
    rows: int
    dead: int
    sealed: bool
    bytes: int
    damage: Damage | None = None


@dataclass(frozen=True, slots=True)
class TableStats:
    """What a table holds.

    rows: live ones. bytes: of all segments, dead rows included. wal_bytes: logged since the last
    checkpoints.
    """

    rows: int
    bytes: int
    wal_bytes: int
    segments: tuple[SegmentStats, ...]
    positions: tuple[ShardPosition, ...]


def table_stats(views: Sequence[ShardView], wal_bytes: int) -> TableStats:
    """The statistics of a table's shards at one instant each."""
    segments = tuple(
        SegmentStats(
            shard=view.shard,
            first_row=(view.shard << SHARD_SHIFT) + segment.data.base,
            rows=segment.data.rows,
            dead=segment.dead,
            sealed=segment.sealed,
            bytes=segment.data.nbytes,
            damage=damage_of(segment.data),
        )
        for view in views
        for segment in view.segments
    )
    return TableStats(
        rows=sum(view.live for view in views),
        bytes=sum(segment.bytes for segment in segments),
        wal_bytes=wal_bytes,
        segments=segments,
        positions=tuple(ShardPosition(view.shard, view.epoch, view.lsn) for view in views),
    )

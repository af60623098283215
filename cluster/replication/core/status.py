"""What one copy says of itself, for `/v1/cluster`, metrics and whoever routes a statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nearql.cluster.replication.core.state import State


@dataclass(frozen=True, slots=True)
class Following:
    """How far another copy has followed, as its primary knows. lag_ms: 0 where it keeps up."""

    received_lsn: int
    durable_lsn: int
    applied_lsn: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class Status:
    """A moment of a copy. epoch: the highest promised, which no lower one can pass.

    fresh_ms: at a replica, how long ago a primary with a valid lease was heard; None = never.
    copies: at the primary, the others that follow.
    """

    state: State
    epoch: int
    primary: str | None
    in_sync: tuple[str, ...]
    end_lsn: int
    durable_lsn: int
    commit_lsn: int
    applied_lsn: int
    vector: tuple[tuple[int, int], ...]
    lease_valid: bool
    fresh_ms: int | None
    fenced_messages: int
    reason: str | None = None  # why it is HALTED
    copies: Mapping[str, Following] = field(default_factory=dict)

"""How far a table's indexes are: what is to be built, what is being built, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass

from nearql.engine.index.base import IndexKind
from nearql.engine.index.declared import Declared
from nearql.engine.index.files import file_name
from nearql.engine.segment.data import SegmentData


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far an index is. phase: queued, waiting (for memory), training, building, measuring,
    ready or failed.

    rows_done: rows that need no more building, of rows_total live ones. rate: rows a second of the
    build under way. detail: why it failed, or that nothing is built.
    """

    phase: str
    rows_done: int
    rows_total: int
    rate: float | None
    eta_ms: int | None
    bytes: int
    detail: str | None


@dataclass(frozen=True, eq=False)
class Task:
    """An index that a segment lacks."""

    shard: int
    declared: Declared
    kind: IndexKind
    data: SegmentData
    file: str

    @property
    def key(self) -> tuple[str, str]:
        return self.declared.definition.uuid, self.file

    @property
    def name(self) -> str:
        return file_name(*self.key)


@dataclass(frozen=True, slots=True)
class Running:
    """The build under way."""

    task: Task
    phase: str
    done: int
    started_s: float
    stepped_s: float


def phase_of(running: Running | None, pending: int, failed: str | None, waiting: bool) -> str:
    """What an index is at; see `IndexProgress`."""
    if running is not None:
        return running.phase
    if pending:
        return "waiting" if waiting else "queued"
    return "failed" if failed else "ready"


def rate_of(running: Running | None) -> float | None:
    """Rows a second of a build."""
    if running is None or running.phase != "building" or not running.done:
        return None
    return running.done / max(1e-3, running.stepped_s - running.started_s)

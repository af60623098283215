"""What SQL needs of the copies of a table: may a write go ahead, on how many copies is it durable,
how recent must a read be. A node alone answers by `ALONE`; in a cluster the server's gateway does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nearql.engine.errors import InvalidValue
from nearql.engine.schema import TableDef
from nearql.engine.types import WriteOutcome

Position = Mapping[str, Any]  # of a shard, as in an answer's stats: table, shard, epoch, lsn
Confirm = Callable[[], None]  # raises Unavailable where what was read may not be used


@dataclass(frozen=True, slots=True)
class Settled:
    """How far a write has come. copies: on which it is durable, the primary included.

    committed: it survives the loss of the primary; only then are its rows visible.
    """

    copies: int
    committed: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """How recent a read must be. level: as read_level, None where nobody asked for one.

    deadline: time.monotonic() until which may be waited.
    """

    level: str | None
    max_staleness_ms: int | None
    deadline: float


class Replicas(Protocol):
    """The copies of tables; thread-safe."""

    def check(self, table: TableDef, concern: str) -> None:
        """Refuse a write concern before anything is written.

        Raises:
            InvalidValue: there are not as many copies. Unavailable: not now.
        """

    def settle(
        self, table: TableDef, outcome: WriteOutcome, concern: str, deadline: float
    ) -> Settled:
        """Wait until a write that was logged is as durable as the concern says.

        Raises:
            WriteUnknown: the time was up first, or this copy is no longer the primary.
        """

    def wait(self, written: Sequence[Position], copies: int, deadline: float) -> Settled:
        """WAIT: on how many copies everything up to these positions is durable; returns with fewer
        than `copies` when the time is up.
        """


class Reads(Protocol):
    """One request's reads: what it has seen, and how recent the next one must be."""

    @property
    def seen(self) -> Sequence[Position]:
        """What the client's session token says."""

    def enter(self, tables: Collection[str], freshness: Freshness) -> Confirm:
        """Wait until these tables (uuids) may be read here; called before their views are taken.

        Returns what is to be called when the rows were read and before they are used.

        Raises:
            Unavailable: not here, or not in time. Conflict: what the session saw is gone.
        """

    def at_once(self, tables: Collection[str], level: str | None) -> bool:
        """Whether `enter` would neither wait nor refuse, and rows need no confirmation."""


class Alone:
    """One copy of everything, on this node. Implements `Replicas`."""

    def check(self, table: TableDef, concern: str) -> None:
        """One copy fulfils every concern but a number above it."""
        if concern.isdigit() and int(concern) > 1:
            raise InvalidValue(
                f"write_concern = {concern} needs {concern} copies, "
                f"but table {table.name!r} has 1.",
                code="not_enough_copies", sqlstate="53000",
            )  # fmt: skip

    def settle(
        self, table: TableDef, outcome: WriteOutcome, concern: str, deadline: float
    ) -> Settled:
        """A write is durable when its table answers."""
        return Settled(outcome.copies, True)

    def wait(self, written: Sequence[Position], copies: int, deadline: float) -> Settled:
        """Everything that was written is on the one copy."""
        return Settled(1, True)


ALONE = Alone()

"""What happens to one copy of a shard: everything that `Core.step` can be told.

Times are milliseconds of the node's own monotonic clock (CLOCK_BOOTTIME), read *after* the event
happened, and never going back between two steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearql.cluster.replication.core.messages import Message, Vector

if TYPE_CHECKING:
    from nearql.cluster.metadata.shards import ShardRow


@dataclass(frozen=True, slots=True)
class LogState:
    """A copy as it lies on disk, when it is opened or has just been made or installed.

    end_lsn: of its last record, all of them durable. first_lsn: of the first that is kept.
    base_lsn: end of the snapshot or checkpoint below the log, hence committed and applied.
    """

    vector: Vector = ()
    end_lsn: int = 0
    first_lsn: int = 1
    base_lsn: int = 0


@dataclass(frozen=True, slots=True)
class Concern:
    """When a write counts as done: `committed`, if so asked, and durable on so many copies.

    copies: the primary included; ALL_COPIES = as many as the shard has.
    """

    committed: bool
    copies: int


ALL_COPIES = 0
ONE = Concern(committed=False, copies=1)
MAJORITY = Concern(committed=True, copies=1)
ALL = Concern(committed=True, copies=ALL_COPIES)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. To be fed at least every `Timing.tick_ms`."""


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """This shard's row at a log index, and of every node its incarnation and whether it is fenced.

    May be fed at any index again; older ones are ignored. shard None: the row is gone.
    """

    log_index: int
    shard: ShardRow | None
    incarnations: Mapping[str, int]
    fenced: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Received:
    """A message from another node, whose identity the link has proved."""

    sender: str
    message: Message


@dataclass(frozen=True, slots=True)
class Appended:
    """The primary's log has grown by its own statements; LSNs up to end_lsn exist now.

    epoch: in which they were written. nbytes: of what is new.
    """

    epoch: int
    end_lsn: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class WritesClosed:
    """After `Follow`: nobody appends any more, and the log ends here."""

    end_lsn: int


@dataclass(frozen=True, slots=True)
class Durable:
    """The log is on disk up to here. generation: of the last effect that had one
    when the flush began."""

    lsn: int
    generation: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The state shows everything up to here."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Shipped:
    """Records up to `lsn` were handed to the link for a `Ship` effect; nbytes of them."""

    node: str
    first_lsn: int
    lsn: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A checkpoint holds everything up to base_lsn, and the log begins with first_lsn now; sizes
    are of the log that is kept, and of a snapshot.
    """

    first_lsn: int
    base_lsn: int
    log_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True, slots=True)
class Await:
    """Somebody waits for a write of this epoch; answered once, by the effect `Answer`."""

    token: int
    epoch: int
    lsn: int
    concern: Concern
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody wants a linearizable read; answered once, by the effect `ReadAnswer`."""

    token: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class ProposalDone:
    """Metadata refused (code) or did ("") what a `Propose` effect asked; not if nobody knows."""

    request_id: str
    code: str


@dataclass(frozen=True, slots=True)
class SnapshotInstalled:
    """A `FetchSnapshot` is done: the copy is now this one, durable and switched."""

    log: LogState


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """A `FetchSnapshot` came to nothing; the old copy is unchanged."""


@dataclass(frozen=True, slots=True)
class Corrupted:
    """The copy is damaged; a fetch under way is given up. new_alloc_id: its successor's name."""

    reason: str
    new_alloc_id: str


@dataclass(frozen=True, slots=True)
class CopyReplaced:
    """After `StartAnew`: the copy is now an empty one of this name."""

    alloc_id: str


@dataclass(frozen=True, slots=True)
class HandOff:
    """Make `target` the primary, losing nothing; answered by `HandOffDone`."""

    target: str
    deadline_ms: int


Event = (
    Tick
    | MetadataChanged
    | Received
    | Appended
    | WritesClosed
    | Durable
    | Applied
    | Shipped
    | Trimmed
    | Await
    | Read
    | ProposalDone
    | SnapshotInstalled
    | SnapshotFailed
    | Corrupted
    | CopyReplaced
    | HandOff
)

"""What one copy of a shard wants done: everything that `Core.step` can answer.

They are carried out in their order, each completely before the next begins. `PersistPromise` and
`Truncate` are complete when they are durable: what follows them tells others so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearql.cluster.replication.core.messages import Append, Message, Record

if TYPE_CHECKING:
    from nearql.cluster.metadata.commands import Command


@dataclass(frozen=True, slots=True)
class Send:
    """Give a message to the link; it may be lost."""

    node: str
    message: Message


@dataclass(frozen=True, slots=True)
class Ship:
    """Read records from `append.prev_lsn + 1` to at most last_lsn and limit_bytes (at least one),
    put them into `append`, send it, and feed `Shipped`. They need not be durable here.
    """

    node: str
    append: Append
    last_lsn: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class PersistPromise:
    """Remember durably, before anything else: no message below this epoch is ever answered."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Lead:
    """Append the record EPOCH_START of this epoch at `lsn`, the end of the log, and admit clients'
    statements behind it, to be evaluated over all that is logged. Then `Durable`, as ever.
    """

    epoch: int
    lsn: int
    generation: int


@dataclass(frozen=True, slots=True)
class Admit:
    """While leading: refuse statements for this reason before they are logged, or (None) admit
    them. One that has passed already may still be logged.
    """

    refusal: str | None


@dataclass(frozen=True, slots=True)
class Follow:
    """Admit no statements any more. Wait until no writer appends, then feed `WritesClosed`."""


@dataclass(frozen=True, slots=True)
class AppendRecords:
    """Append another copy's records as they are; the first one follows the log's end.

    Then, when they are durable, `Durable` with this generation.
    """

    records: tuple[Record, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut the log durably behind end_lsn. A `Durable` that began before carries an old generation.

    Never below what was applied.
    """

    end_lsn: int
    generation: int


@dataclass(frozen=True, slots=True)
class SetCommit:
    """Everything up to `lsn` is committed: apply it in order, then feed `Applied`."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Of an `Await`. known: the concern is met, or its time is up with copies and committed as
    they are; not known: this copy is not the primary any more, and nobody can say here.
    """

    token: int
    known: bool
    met: bool
    copies: int
    committed: bool


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """Of a `Read`: once applied up to here the state is as new as any answer given before the
    question. None: refused, `reason` says why, and asking again may help.
    """

    token: int
    lsn: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Propose:
    """Ask metadata for this; feed `ProposalDone` when its fate is known. Repeated with the same
    request id until the row shows that it is settled.
    """

    command: Command


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch and install a snapshot of the shard from `source`, or from another in-sync copy.

    Its LSN: at least at_least_lsn, at most what its source knows to be committed.
    """

    source: str
    epoch: int
    at_least_lsn: int


@dataclass(frozen=True, slots=True)
class StartAnew:
    """Put the copy's files aside and make an empty one of this name, or (None) of a fresh one; feed
    `CopyReplaced`. Metadata knows that what is here is not one of the shard's copies any more.
    """

    alloc_id: str | None


@dataclass(frozen=True, slots=True)
class HandOffDone:
    """Of a `HandOff`. ok False: this copy goes on as primary if it is one, `reason` says why."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Tell the operator. The copy has stopped for his sake (HALTED), or is damaged (CORRUPT)."""

    reason: str


Effect = (
    Send
    | Ship
    | PersistPromise
    | Lead
    | Admit
    | Follow
    | AppendRecords
    | Truncate
    | SetCommit
    | Answer
    | ReadAnswer
    | Propose
    | FetchSnapshot
    | StartAnew
    | HandOffDone
    | Alarm
)

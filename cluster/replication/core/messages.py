"""What two copies of a shard say to each other.

Every message belongs to an epoch. `session` names one synchronisation: (incarnation of the replica,
number of its SYNC in that life). The primary counts an acknowledgement only if epoch and session
are the present ones, and a replica takes records only so, which is why no late or repeated message
can vouch for a log that has changed since.

    replica                                primary
       | -- Sync(vector, end) ---------------> |   "this is what my log looks like"
       | <------------- SyncOk(cut) ---------- |   "up to cut we agree; cut yours there", or
       | <------------- SyncFull ------------- |   "take a snapshot first"
       | <------------- Append(records) ------ |   also the heartbeat, then without records
       | -- Ack(durable, hb_id) -------------> |   or, where records do not join its log, a new Sync
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

# (epoch, LSN of its first record), ascending in both: which reign wrote which part of a log.
Vector = tuple[tuple[int, int], ...]


class Session(NamedTuple):
    """One synchronisation of a replica with a primary; later ones compare greater."""

    incarnation: int
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log. `data` is opaque here: what a copy reads, another copy appends."""

    lsn: int
    epoch: int
    nbytes: int
    data: Any = None


@dataclass(frozen=True, slots=True)
class Sync:
    """What my log looks like. end_lsn: its last LSN, 0 = empty; base_lsn: end of its snapshot,
    below which it cannot be cut; commit_lsn: what this copy knows to be committed.
    """

    epoch: int
    session: Session
    alloc_id: str
    vector: Vector
    end_lsn: int
    base_lsn: int
    commit_lsn: int


@dataclass(frozen=True, slots=True)
class SyncOk:
    """Our logs agree up to cut_lsn, and not beyond."""

    epoch: int
    session: Session
    cut_lsn: int


@dataclass(frozen=True, slots=True)
class SyncFull:
    """The records that this copy lacks are gone, or more than a snapshot: fetch one first."""

    epoch: int
    session: Session


@dataclass(frozen=True, slots=True)
class Append:
    """Records from prev_lsn + 1 on, or none: a heartbeat, which may overtake records.

    hb_id: the primary's clock in ms, given back in the Ack and meaningless to others.
    lease_valid: the primary was entitled to linearizable reads when it sent this.
    """

    epoch: int
    session: Session
    prev_lsn: int
    prev_epoch: int  # of the record at prev_lsn; 0 where there is none
    records: tuple[Record, ...]
    commit_lsn: int
    hb_id: int
    lease_valid: bool


@dataclass(frozen=True, slots=True)
class Ack:
    """How far the log is the primary's (received), and of that durable.

    Answering hb_id is a promise: for the lease's length this copy does not become primary.
    """

    epoch: int
    session: Session
    received_lsn: int
    durable_lsn: int
    applied_lsn: int
    credit_bytes: int  # how much more may be under way
    hb_id: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """Answer to a message of an older epoch: a higher one exists, so that its primary stops."""

    epoch: int


@dataclass(frozen=True, slots=True)
class LeaseRelease:
    """The primary acknowledges and reads nothing more on promises given to heartbeats <= hb_id."""

    epoch: int
    hb_id: int


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """A replica asks how far it must have applied to read linearizably. token: the asker's own."""

    epoch: int
    token: int


@dataclass(frozen=True, slots=True)
class Index:
    """The answer: commit_lsn under a valid lease, or None where the primary cannot say."""

    epoch: int
    token: int
    commit_lsn: int | None


Message = Sync | SyncOk | SyncFull | Append | Ack | Fenced | LeaseRelease | ReadIndex | Index

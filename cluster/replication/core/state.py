"""The states of a shard copy, and which may follow which.

| state          | acknowledges | serves                              | leaves when                |
|----------------|--------------|-------------------------------------|----------------------------|
| EMPTY          | -            | -                                   | the row lists its alloc_id |
| SNAPSHOT       | -            | as before the fetch began           | files verified, switched   |
| CATCHUP        | uncounted    | any, bounded, session once complete | metadata: in sync          |
| ISR            | counted      | any, bounded, session               | dropped, or promoted       |
| PRIMARY_WAIT   | none         | as ISR                              | own promise over           |
| PRIMARY_ACTIVE | writes       | all levels                          | lease lost, higher epoch   |
| SUSPENDED      | none         | any, bounded until the bound        | lease back, higher epoch   |
| CORRUPT        | none         | none                                | COPY_LOST committed        |
| HALTED         | none         | none                                | the operator               |
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """See the table above."""

    EMPTY = "empty"
    SNAPSHOT = "snapshot"
    CATCHUP = "catchup"
    ISR = "isr"
    PRIMARY_WAIT = "primary_wait"
    PRIMARY_ACTIVE = "primary_active"
    SUSPENDED = "suspended"
    CORRUPT = "corrupt"
    HALTED = "halted"


_REPLICA = {State.EMPTY, State.SNAPSHOT, State.CATCHUP, State.ISR}
_ANY = {*_REPLICA, State.PRIMARY_WAIT}
_END = {State.CORRUPT, State.HALTED}

# What one step may make of a state, besides leaving it as it is. A promise that is over already,
# or an in-sync set of one, lets a copy pass through PRIMARY_WAIT or SUSPENDED within a step. A copy
# that is being fetched, or was replaced, becomes primary by the operator's word only.
FOLLOWING: dict[State, set[State]] = {
    State.EMPTY: {*_ANY, State.PRIMARY_ACTIVE, State.SUSPENDED, *_END},
    State.SNAPSHOT: {State.EMPTY, State.CATCHUP, State.ISR, State.PRIMARY_WAIT, *_END},
    State.CATCHUP: {*_ANY, State.PRIMARY_ACTIVE, State.SUSPENDED, *_END},
    State.ISR: {*_ANY, State.PRIMARY_ACTIVE, State.SUSPENDED, *_END},
    State.PRIMARY_WAIT: {*_REPLICA, State.PRIMARY_ACTIVE, State.SUSPENDED, *_END},
    State.PRIMARY_ACTIVE: {*_ANY, State.SUSPENDED, *_END},
    State.SUSPENDED: {*_ANY, State.PRIMARY_ACTIVE, *_END},
    State.CORRUPT: {*_ANY, State.PRIMARY_ACTIVE, State.SUSPENDED, State.HALTED},
    State.HALTED: set(),
}

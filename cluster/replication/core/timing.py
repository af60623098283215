"""How long the protocol waits, and how much may be under way. Times ms, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """See 3-replication 2.5 to 2.9 in the design for what each one is weighed against.

    lease_ms: how long a copy that answered a heartbeat does not become primary; of that the primary
    counts lease_percent, since clocks run at slightly different rates.
    """

    tick_ms: int = 50
    heartbeat_ms: int = 200
    lease_ms: int = 2_000
    lease_percent: int = 95
    silent_ms: int = 1_500  # an in-sync copy that says nothing for so long is dropped,
    behind_ms: int = 10_000  # or one that never caught up with the log's end for so long
    flapping_ms: int = 60_000  # who is dropped twice within that
    stable_ms: int = 10_000  # must keep up for so long before it joins again
    retry_ms: int = 250  # SYNC, READ_INDEX, and a change of the in-sync set that was refused
    propose_ms: int = 1_000  # a proposal whose fate is unknown is made again
    resend_ms: int = 1_000  # records that were not received for so long are sent again
    ship_bytes: int = 4 * MIB  # in one message
    unacked_bytes: int = 16 * MIB  # under way to one copy, at most
    credit_bytes: int = 8 * MIB  # what a copy takes before it is durable
    uncommitted_bytes: int = 64 * MIB  # that a primary takes while it cannot commit
    full_percent: int = 50  # a log delta above this share of a snapshot: the snapshot is sent

    @property
    def lease_counted_ms(self) -> int:
        """What the primary relies on of a promise, from when it sent the heartbeat."""
        return self.lease_ms * self.lease_percent // 100

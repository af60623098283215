"""Which epoch wrote which part of a log, and how far two logs are the same.

A vector lists (epoch, LSN of its first record), ascending in both. In an epoch one node alone makes
records, one per LSN; so two logs that both have records of an epoch are the same from the beginning
to where the shorter of the two leaves it:

    mine    1 1 1 2 2 2 2          vector (1, 1) (2, 4), end 7
    yours   1 1 1 2 2 4 4 4        vector (1, 1) (2, 4) (4, 6), end 8
                     |             largest common epoch 2: mine ends it at 7, yours at 5
                     cut = 5

As in Kafka's KIP-101 and KIP-279, but in one round, since both vectors are known to one side.
"""

from __future__ import annotations

from nearql.cluster.replication.core.messages import Vector


def check_vector(vector: Vector, end_lsn: int) -> None:
    """Raise AssertionError where it is not a vector of a log that ends there."""
    for (epoch, start), (later, behind) in zip(vector, vector[1:], strict=False):
        assert epoch < later, f"epochs fall in {vector}"
        assert start < behind, f"LSNs fall in {vector}"
    assert not vector or vector[0][1] >= 1, vector
    assert not vector or vector[-1][1] <= end_lsn, f"{vector} reaches beyond {end_lsn}"


def last_epoch(vector: Vector) -> int:
    """Epoch of the last record; 0 for an empty log."""
    return vector[-1][0] if vector else 0


def epoch_at(vector: Vector, lsn: int) -> int:
    """Epoch of the record at `lsn`; 0 where the vector does not reach down to it."""
    for epoch, start in reversed(vector):
        if start <= lsn:
            return epoch
    return 0


def extended(vector: Vector, epoch: int, lsn: int) -> Vector:
    """With a record of this epoch at `lsn`, right behind the end."""
    last = last_epoch(vector)
    assert epoch >= last, f"a record of epoch {epoch} behind one of {last}"
    return vector if epoch == last else (*vector, (epoch, lsn))


def shortened(vector: Vector, end_lsn: int) -> Vector:
    """Without what lies behind `end_lsn`."""
    return tuple(entry for entry in vector if entry[1] <= end_lsn)


def end_of(vector: Vector, epoch: int, end_lsn: int) -> int | None:
    """Last LSN of an epoch in a log that ends at `end_lsn`; None where it wrote nothing there."""
    following = end_lsn
    for found, start in reversed(vector):
        if found == epoch:
            return following
        following = start - 1
    return None


def common_end(mine: Vector, my_end: int, yours: Vector, your_end: int) -> int:
    """Last LSN up to which two logs are the same; 0 where they share no epoch."""
    theirs = dict(yours)
    for epoch, start in reversed(mine):
        if epoch in theirs:
            assert theirs[epoch] == start, f"epoch {epoch} begins at {start} and {theirs[epoch]}"
            ends = end_of(mine, epoch, my_end), end_of(yours, epoch, your_end)
            return min(end for end in ends if end is not None)
    return 0


def is_rolled_back(vector: Vector, end_lsn: int, epoch: int, lsn: int) -> bool:
    """Whether a record that once was at (epoch, lsn) can't be in this log nor come to it.

    False where the log has it, or has not yet seen a later epoch.
    """
    if epoch >= last_epoch(vector):
        return False
    end = end_of(vector, epoch, end_lsn)
    return end is None or end < lsn

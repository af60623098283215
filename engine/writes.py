"""A statement on its way through a table's shards: what it does to each, how it ended there."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nearql.engine import spans
from nearql.engine.deadline import Deadline
from nearql.engine.errors import StorageFull
from nearql.engine.keys import Key, shard_of
from nearql.engine.request_id import NO_REQUEST
from nearql.engine.segment.rows import Rows
from nearql.engine.shard.dedup import Recorded
from nearql.engine.shard.records import Statement
from nearql.engine.shard.shard import Shard
from nearql.engine.shard.tail import Pending
from nearql.engine.storage.wal import RecordKind
from nearql.engine.types import ShardPosition, WriteOutcome

Until = Literal["applied", "durable"]


@dataclass(slots=True)
class ShardWrite:
    """What a statement does to one shard.

    keys: those it touches -> whether they exist afterwards.
    offsets: of its rows in the rows that the user gave; None = all of them.
    ended: None = nothing was logged (yet); Pending = logged, by this statement or by the first
        one of the same request id; Recorded = that one ended before.
    behind: nothing needed to be logged, which is so only if this earlier statement is committed.
    """

    shard: Shard
    statement: Statement
    keys: dict[Key, bool] = field(default_factory=dict)
    offsets: NDArray[np.int64] | None = None
    ended: Recorded | Pending | None = None
    behind: Pending | None = None

    @property
    def has_effect(self) -> bool:
        """Whether it must be logged: it changes something, or its outcome is to be remembered."""
        statement = self.statement
        changes = statement.deletes or statement.puts or statement.kind != RecordKind.BATCH
        return bool(changes) or statement.request_id != NO_REQUEST

    @property
    def is_repeat(self) -> bool:
        """Whether an earlier statement of the same request id did it."""
        mine = isinstance(self.ended, Pending) and self.ended.statement is self.statement
        return self.ended is not None and not mine

    def end(self) -> Recorded:
        """How it ended, after all was waited for."""
        if isinstance(self.ended, Recorded):
            return self.ended
        if isinstance(self.ended, Pending):
            statement = self.ended.statement
            return Recorded(statement.lsn, statement.epoch, statement.counts)
        view = self.shard.read_view()
        return Recorded(view.lsn, view.epoch, self.statement.counts)


@contextmanager
def writing(shards: Iterable[Shard], deadline: Deadline) -> Iterator[None]:
    """Hold the writer locks of these shards, taken in order.

    Raises:
        StatementTimeout: nothing was written.
    """
    with ExitStack() as locks:
        for shard in shards:
            locks.enter_context(shard.writing(deadline))
        yield


def log_all(writes: Sequence[ShardWrite]) -> None:
    """Log on each shard what isn't done there yet. Needs the locks.

    Raises:
        TooLarge, Corruption: nothing was logged.
        StorageFull: not `definite` if an earlier shard has logged.
    """
    todo = [write for write in writes if write.ended is None and write.has_effect]
    for write in writes:
        if write.ended is None and not write.has_effect:
            write.behind = write.shard.newest_uncommitted()
    for write in todo:
        write.shard.check_writable(write.statement.kind)
    payloads = [write.shard.encode(write.statement) for write in todo]
    now_ms = time.time_ns() // 1_000_000  # one for all: a restore to a moment takes all or none
    for write in todo:
        write.statement.timestamp_ms = now_ms
    for place, write in enumerate(todo):
        try:
            write.ended = write.shard.log(write.statement, payloads[place], write.keys)
        except StorageFull as error:
            error.definite = place == 0  # type: ignore[misc]  # an instance may know better
            raise


def outcome_of(
    writes: Sequence[ShardWrite], deadline: Deadline, until: Until = "applied"
) -> WriteOutcome:
    """Wait until every shard's part is committed and applied, or durable here; then sum up.

    Raises:
        WriteUnknown: the time was up first, or a shard's primary is another copy now.
    """
    for write in writes:
        shard, awaited = write.shard, write.ended or write.behind
        if isinstance(awaited, Pending):
            wait = shard.finish if until == "applied" else shard.finish_durable
            with spans.span("commit", shard=shard.number, lsn=awaited.statement.lsn, until=until):
                wait(awaited, deadline)
    ends = [write.end() for write in writes]
    positions = tuple(
        ShardPosition(write.shard.number, end.epoch, end.lsn)
        for write, end in zip(writes, ends, strict=True)
    )
    done = [write for write in writes if write.ended is not None]
    return WriteOutcome(
        sum(end.counts.inserted for end in ends),
        sum(end.counts.updated for end in ends),
        sum(end.counts.deleted for end in ends),
        positions,
        skipped=_skipped(writes, ends),
        repeated=bool(done) and all(write.is_repeat for write in done),
    )


def split(
    rows: Rows, key_number: int, shards: int
) -> Iterator[tuple[int, NDArray[np.int64] | None, Rows]]:
    """Rows by shard: its number, their offsets (None = all), they themselves."""
    if shards == 1:
        yield 0, None, rows
        return
    numbers = shard_of(rows.key(key_number), shards)
    for number in np.unique(numbers).tolist():
        offsets = np.flatnonzero(numbers == number)
        yield number, offsets, rows.take(offsets)


def pack_offsets(offsets: NDArray[np.int64] | None) -> bytes | None:
    """Offsets of skipped rows as the log keeps them: zlib'd differences; None = none."""
    if offsets is None or not offsets.size:
        return None
    return zlib.compress(np.diff(offsets, prepend=0).astype("<i8").tobytes(), 1)


def _skipped(writes: Sequence[ShardWrite], ends: Sequence[Recorded]) -> NDArray[np.int64] | None:
    """Positions in the given rows that were left out, ascending; None if none was."""
    found = []
    for write, end in zip(writes, ends, strict=True):
        if end.counts.skipped is not None:
            mine = np.cumsum(np.frombuffer(zlib.decompress(end.counts.skipped), "<i8"))
            found.append(mine if write.offsets is None else write.offsets[mine])
    return np.sort(np.concatenate(found)) if found else None

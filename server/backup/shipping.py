"""One shard's committed log on its way into the archive.

    resume   the newest piece whose last record is in the log here, too: go on behind it
    sample   under the writers' lock: the clock, and where the log ends. What is logged later has a
             later time, so once everything up to that end is shipped, the archive reaches that time
    ship     records that are committed, in pieces of some MiB at most

Only the shard's primary ships. Nothing here is written on this node's disk: who is killed resumes
from what the archive holds, and at worst ships a piece again under another name.

What can't be gone on with is never papered over: records that the log lost before they were shipped
are a gap, which a restore refuses to cross; an archive that holds what this log never held is of
another history (its data directory was put back from a copy), and nothing more is shipped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from nearql.cluster.replication.transfer.pace import Pace
from nearql.engine.errors import NearQLError, NotFound, Unavailable
from nearql.engine.settings import MIB
from nearql.engine.shard.copy import ShardCopy
from nearql.engine.shard.shard import Shard
from nearql.engine.storage.wal_raw import RawRecord
from nearql.server.backup.archive import Archive, Piece, Reached, mark_of, shard_key
from nearql.server.backup.sources import own_log

log = structlog.get_logger("nearql.backup")

PIECE_BYTES = 8 * MIB  # of records in one piece, or one record more
_PATIENCE_S = 0.05  # for the writers' lock, each round

GivenUp = Callable[[], bool]


class Shipper:
    """Of one shard here. One thread at a time ships; reading what it tells is thread-safe.

    lsn: shipped up to here; -1 as long as nobody knows. until_ms: the archive has everything up to
    this time. gaps: how often records were lost to it. stopped: why nothing more is shipped.
    """

    def __init__(
        self, table: str, shard: Shard, copy: ShardCopy | None, pace: Pace | None = None
    ) -> None:
        """copy: None on a node alone. pace: of all shards together."""
        self.table, self.number, self.key = table, shard.number, shard_key(table, shard.number)
        self._shard, self._copy, self._pace = shard, copy, pace
        self._waiting = threading.Event()  # never set
        self._resumed = False
        self._since_ms = now_ms()
        self.lsn, self._epoch, self._mark = -1, 0, ""
        self.until_ms: int | None = None
        self.records = self.bytes = self.gaps = 0
        self.stopped = ""

    # ---- What it tells ---------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this node's copy orders the shard's writes."""
        return self._copy is None or self._copy.leads is not None

    @property
    def committed(self) -> int:
        """The last LSN that may be shipped."""
        if self._copy is None:
            return self._shard.wal.durable_lsn
        return min(self._copy.commit_lsn, self._copy.durable_lsn)

    @property
    def reached(self) -> Reached | None:
        """To be noted in the archive; None where nothing is known."""
        if not self._resumed or self.stopped or self.until_ms is None:
            return None
        return Reached(self.lsn, self._epoch, self._mark, self.until_ms)

    @property
    def behind(self) -> int:
        """Committed records that are not in the archive."""
        return max(0, self.committed - max(0, self.lsn))

    @property
    def behind_ms(self) -> int:
        """How old the newest moment is that the archive reaches."""
        return max(0, now_ms() - (self.until_ms or self._since_ms))

    @property
    def log_bytes(self) -> int:
        """Of the log here."""
        return self._shard.wal.size_bytes

    @property
    def written(self) -> int:
        """The last LSN of the log here."""
        return self._shard.wal.last_lsn

    def keeps(self) -> int | None:
        """The first LSN that the log is needed from: all of it as long as nobody knows what the
        archive holds; None where nothing more is shipped.
        """
        return None if self.stopped else max(0, self.lsn) + 1

    def learn(self, reached: Reached) -> None:
        """Another node has shipped so much: this one may need to go on from there."""
        if not self._resumed:
            self.lsn = max(self.lsn, reached.lsn)

    def forget(self) -> None:
        """What the archive holds must be looked up anew."""
        self._resumed = False

    # ---- A round ---------------------------------------------------------------------------

    def round(self, archive: Archive, given_up: GivenUp) -> None:
        """Ship what is committed now.

        Raises:
            StorageFull, Unavailable: what the repository answered. Corruption: the log is damaged.
        """
        if not self.leads:
            if self._resumed:  # until now it was; what it knows to be committed is
                self._ship(archive, given_up)
                self._resumed = False
            return
        if not self._resumed:
            self._resume(archive)
        if self.stopped:
            return
        sampled = self._sample()
        self._ship(archive, given_up)
        if sampled is not None and self.lsn >= sampled[1]:
            self._reach(sampled[0] - 1)

    def finish(self, archive: Archive, given_up: GivenUp) -> None:
        """The table was dropped while this node ordered its writes: ship the rest; nothing comes
        behind it. Raises as `round`.
        """
        if not self._resumed:
            self._resume(archive)
        if self.stopped:
            return
        at_ms = now_ms()
        self._ship(archive, given_up)
        if self.lsn >= self.committed:
            self._reach(at_ms)

    def lose(self) -> None:
        """The log goes now, for good: what is not shipped of it is a gap."""
        if self.behind and not self.stopped:
            self.gaps += 1
            log.error(
                "archive_gap", table=self.table, shard=self.number, after_lsn=max(0, self.lsn),
                next_lsn=None,
            )  # fmt: skip

    def _reach(self, at_ms: int) -> None:
        self.until_ms = max(self.until_ms or 0, at_ms)

    def _sample(self) -> tuple[int, int] | None:
        """(clock, LSN of the log's end): every later record has this time or a later one. None
        where a writer keeps the shard, or others may be its primary.
        """
        if not self._shard.lock.acquire(timeout=_PATIENCE_S):
            return None
        try:
            at_ms = now_ms()
            self._shard.gate.check()
            return at_ms, self._shard.wal.last_lsn
        except Unavailable:
            return None
        finally:
            self._shard.lock.release()

    # ---- Shipping --------------------------------------------------------------------------

    def _ship(self, archive: Archive, given_up: GivenUp) -> None:
        end = self.committed
        while self.lsn < end and not given_up():
            try:
                records = self._read(self.lsn + 1, end)
            except NotFound:
                self._gap()
                continue
            self._take_time(sum(record.nbytes for record in records))
            piece = archive.put(self.table, self.number, records, self._mark)
            self.records += len(records)
            self.bytes += piece.size
            self._at(piece)
            self._reach(piece.newest_ms - 1)

    def _at(self, piece: Piece) -> None:
        self.lsn, self._epoch, self._mark = piece.last, piece.epoch, piece.mark

    def _take_time(self, nbytes: int) -> None:
        if self._pace is not None:
            self._pace.take(nbytes, self._waiting)

    def _read(self, first: int, last: int) -> list[RawRecord]:
        """Committed records from there on: one at least.

        Raises:
            NotFound: code `log_trimmed`.
        """
        if self._copy is not None:
            return [r for r in self._copy.read(first, PIECE_BYTES) if r.lsn <= last]
        found: list[RawRecord] = []
        nbytes = 0
        for record in own_log(self._shard, first, last):
            found.append(record)
            nbytes += record.nbytes
            if nbytes >= PIECE_BYTES:
                break
        return found

    def _gap(self) -> None:
        """The log here begins behind what was shipped."""
        first = self._first_lsn()
        if first <= self.lsn + 1:  # trimmed while it was looked at, and put back: it can't be
            raise Unavailable(f"The log of {self._shard.directory} can't be read now.")
        self.gaps += 1
        log.error(
            "archive_gap", table=self.table, shard=self.number, after_lsn=self.lsn, next_lsn=first
        )
        self._begin_at(first)

    def _begin_at(self, first: int) -> None:
        self.lsn, self._epoch, self._mark, self.until_ms = (
            first - 1,
            self._epoch_at(first),
            "",
            None,
        )

    def _epoch_at(self, first: int) -> int:
        """Of the record before this one; 0 where that is not known."""
        if self._copy is not None:
            end = self._copy.end_at(first - 1)
            return end.epoch if end is not None else 0
        return self._shard.view_now().epoch if self._shard.wal.last_lsn == first - 1 else 0

    def _first_lsn(self) -> int:
        return self._shard.wal.first_lsn if self._copy is None else self._copy.first_lsn

    # ---- Resuming --------------------------------------------------------------------------

    def _resume(self, archive: Archive) -> None:
        """Find the place from which to go on. As long as it is not known it is tried again."""
        if self.stopped:
            return
        pieces = archive.pieces(self.table, self.number)
        newest = max(pieces, key=lambda piece: (piece.last, piece.epoch), default=None)
        end, first = self._shard.wal.last_lsn, self._first_lsn()
        if newest is None:
            self._begin_at(first)
        elif newest.last < first - 1:
            self.lsn = newest.last
            self._gap()
        else:
            found = self._agreed(pieces, first, end)
            if found is None:
                return self._stop(newest, end)
            self._at(found)
            self.until_ms = found.newest_ms - 1
        self._resumed = True
        log.info("archive_resumed", table=self.table, shard=self.number, after_lsn=self.lsn)

    def _agreed(self, pieces: Sequence[Piece], first: int, end: int) -> Piece | None:
        """The newest piece that ends with a record of this log. Newer ones are passed over only if
        an operator's order made this log go another way: in a higher epoch.
        """
        for piece in sorted(pieces, key=lambda one: (one.last, one.epoch), reverse=True):
            if piece.last < first:
                return piece if piece.last == first - 1 else None
            if piece.last <= end:
                mine = self._record(piece.last)
                if mark_of(mine) == piece.mark:
                    return piece
                if mine.epoch <= piece.epoch:
                    return None
            elif self._copy is None or self._copy.end.epoch <= piece.epoch:
                return None
        return None

    def _record(self, lsn: int) -> RawRecord:
        if self._copy is not None:
            return self._copy.read(lsn, 1)[0]
        return next(own_log(self._shard, lsn, lsn))

    def _stop(self, newest: Piece, end: int) -> None:
        self.stopped = (
            f"The archive holds another history of shard {self.number} of table {self.table}, up "
            f"to LSN {newest.last}; the log here ends at {end}. Was the data directory put back "
            "from a copy? Archive to another repository."
        )
        log.error("archive_forked", table=self.table, shard=self.number, reason=self.stopped)


def now_ms() -> int:
    """The clock that records carry."""
    return time.time_ns() // 1_000_000


def is_of_the_repository(error: NearQLError) -> bool:
    """Whether other shards would fail the same way."""
    return error.code in ("repository_unavailable", "storage_full", "not_a_repository")

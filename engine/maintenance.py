"""When a table is checkpointed in the background, and what happens when that fails.

After a checkpoint the next one of the table waits `checkpoint_pause` times as long as that took,
half a second at most: rows that are upserted without an end make dead rows without an end, and
each checkpoint that cleans up after them takes Python and the disk from statements. It does not
wait where memory is short, or the table is closed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from math import inf

from nearql.engine.context import EngineContext
from nearql.engine.errors import StorageFull
from nearql.engine.shard.shard import Shard

logger = logging.getLogger(__name__)

RELIEF_BYTES = 1 << 20  # logged since a checkpoint: worth one when memory is short
LONGEST_PAUSE_S = 0.5
RETRY_BYTES = 16 << 20  # logged after a checkpoint found the disk full, before the next is tried


class Maintenance:
    """Background checkpoints of one table. At most one is queued or running."""

    def __init__(self, table: str, shards: Sequence[Shard], context: EngineContext) -> None:
        self._table = table
        self._shards = shards
        self._context = context
        self._busy = threading.Lock()  # held while a checkpoint is queued or runs
        self._retry_at_bytes = 0
        self._closed = False
        self._hurry = threading.Event()  # ends the pause before a checkpoint
        self._next_at = 0.0  # by time.monotonic
        self._relief_bytes = inf  # as `_checkpoint`'s, asked for since one last began

    def after_write(self, shards: Iterable[Shard]) -> None:
        """Have a checkpoint made where one of these shards needs it; also to be asked after open,
        for what a kill interrupted.
        """
        if self._closed or not any(self._is_due(shard) for shard in shards):
            return
        self._submit()

    def _submit(self, above_bytes: float = inf) -> None:
        if self._busy.acquire(blocking=False):
            try:
                self._context.background.submit(self._checkpoint, above_bytes)
            except RuntimeError:  # the interpreter is going down; the log keeps everything
                self._busy.release()

    def relieve(self) -> None:
        """Memory is short: have rows that are in memory only made into files, which are not, and
        keep no record of the log in it that the disk has.
        """
        for shard in self._shards:
            shard.wal.forget_durable()
        if self._closed or not any(s.unflushed_bytes >= RELIEF_BYTES for s in self._shards):
            self._hurry.set()
            return
        self._relief_bytes = RELIEF_BYTES  # also for one that is queued already, or pauses
        self._hurry.set()
        self._submit(RELIEF_BYTES)

    def close(self) -> None:
        """Let no checkpoint begin any more, and wait for the one that runs."""
        self._closed = True
        self._hurry.set()
        with self._busy:
            pass

    def _is_due(self, shard: Shard) -> bool:
        return shard.wants_checkpoint and shard.unflushed_bytes >= self._retry_at_bytes

    def _checkpoint(self, above_bytes: float) -> None:
        """above_bytes: a shard with so much in memory only has one made although none is due."""
        again = False
        try:
            if above_bytes == inf:  # nobody waits for it: let statements have the processor
                self._hurry.wait(max(0.0, self._next_at - time.monotonic()))
            self._hurry.clear()
            above_bytes, self._relief_bytes = min(above_bytes, self._relief_bytes), inf
            began = time.monotonic()
            for shard in self._shards:
                due = shard.wants_checkpoint or shard.unflushed_bytes >= above_bytes
                if due and not self._closed:
                    shard.checkpoint()
            ended = time.monotonic()
            pause_s = self._context.settings.checkpoint_pause * (ended - began)
            self._next_at = ended + min(LONGEST_PAUSE_S, pause_s)
            self._retry_at_bytes = 0
            again = True
        except StorageFull as error:
            logger.warning("no checkpoint of table %s: %s", self._table, error.detail)
            behind = max(shard.unflushed_bytes for shard in self._shards)
            self._retry_at_bytes = behind + RETRY_BYTES
        except Exception as error:
            self._context.on_fatal(f"the checkpoint of table {self._table} failed: {error!r}")
            raise
        finally:
            self._busy.release()
        if again:  # what came due meanwhile was told that a checkpoint is under way
            self.after_write(self._shards)
            if self._relief_bytes < inf and not self._closed:
                self._submit(self._relief_bytes)

"""What every table of a node shares: settings, the searcher, the file system, how to die."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from nearql.engine.batching import Batcher
from nearql.engine.index.builder import Builder
from nearql.engine.memory import MemoryBudget
from nearql.engine.segment.cache import ColumnCache
from nearql.engine.text import TextMemory

if TYPE_CHECKING:
    from nearql.engine.index.declared import IndexTerms
    from nearql.engine.search import Searcher
    from nearql.engine.settings import EngineSettings
    from nearql.engine.storage.files import FileSystem
    from nearql.engine.storage.flusher import Flusher


@dataclass
class EngineContext:
    """Shared by the tables of one node.

    cluster_id: 16 bytes, written into every WAL file, so that files of another cluster are refused.
    on_fatal: ends the process (exit code 70) after an error that must never be retried, such as a
        failed fsync; tests pass one that raises.
    flusher: what makes the logs durable; None = the process's own threads.
    batcher: what answers concurrent searches together.
    replicated: tables are copies that replication drives (`engine.shard.copy`).
    index_terms: what tells the meaning of SQL in index definitions; None = nobody can.
    """

    settings: EngineSettings
    searcher: Searcher
    fs: FileSystem
    cluster_id: bytes
    on_fatal: Callable[[str], NoReturn] = field(repr=False)
    flusher: Flusher | None = None
    batcher: Batcher = field(default_factory=Batcher, repr=False)
    replicated: bool = False
    index_terms: IndexTerms | None = field(default=None, repr=False)

    @cached_property
    def column_cache(self) -> ColumnCache:
        """Columns of segments with dead rows, filtered once and kept while they fit."""
        return ColumnCache(self.settings.column_cache_bytes)

    @cached_property
    def memory(self) -> MemoryBudget:
        """What all of the node's work may take together."""
        budget = MemoryBudget(self.settings.memory_limit_bytes)
        budget.on_pressure("columns", self.column_cache.clear)
        return budget

    @cached_property
    def index_builder(self) -> Builder:
        """What builds indexes, one segment after the other."""
        return Builder()

    @cached_property
    def index_tuner(self) -> Builder:
        """What measures indexes anew on live queries, when nobody searches."""
        return Builder("nearql-index-tuner")

    @cached_property
    def text_memory(self) -> TextMemory:
        """What full-text indexes may hold."""
        return TextMemory(self.settings.text_memory_bytes)

    @cached_property
    def background(self) -> ThreadPoolExecutor:
        """One thread for work that no caller waits for, such as checkpoints."""
        return ThreadPoolExecutor(1, "nearql-maintenance")

    @cached_property
    def appliers(self) -> Executor:
        """Threads that apply what replication says is committed."""
        return ThreadPoolExecutor(2, "nearql-applier")

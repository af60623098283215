"""What a node counts besides its HTTP edge, for `/metrics`: one line per metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nearql.server.backup.archiver import ArchiveStatus

if TYPE_CHECKING:
    from nearql.server.node import Node


@dataclass(frozen=True, slots=True)
class Count:
    """A metric without labels. total: it only rises, and `/metrics` adds `_total` to its name."""

    name: str
    text: str
    value: float
    total: bool = True


def counts(node: Node) -> Iterator[Count]:
    """All of them now."""
    text = "Tables that could not be opened."
    yield Count("nearql_failed_tables", text, len(node.failed_tables()), total=False)
    batches = node.batch_stats()
    yield Count(
        "nearql_search_batches", "Calls that answered several searches together.", batches.calls
    )
    yield Count("nearql_search_batched", "Searches answered together with others.", batches.queries)
    plans = node.session().plans
    yield Count("nearql_plan_cache_hits", "Texts whose plan was kept.", plans.hits)
    yield Count("nearql_plan_cache_misses", "Texts that were parsed.", plans.misses)
    filters = node.session().filters.stats()
    yield Count("nearql_filter_cache_hits", "Filters found in the cache.", filters.hits)
    yield Count("nearql_filter_cache_misses", "Filters evaluated.", filters.misses)
    yield Count("nearql_filter_cache_entries", "Filters kept.", filters.entries, total=False)
    yield Count("nearql_filter_cache_bytes", "Bytes of filters kept.", filters.bytes, total=False)
    memory = node.memory
    text = "Memory of the process that is not of files."
    yield Count("nearql_memory_used_bytes", text, memory.used_bytes, total=False)
    text = "What it may be: engine.memory_limit."
    yield Count("nearql_memory_limit_bytes", text, memory.limit_bytes, total=False)
    yield Count("nearql_memory_waits", "Work that had to wait for memory.", memory.waits)
    yield Count("nearql_memory_refusals", "Work refused for lack of memory.", memory.refusals)
    scrubber, damaged = node.scrubber, sum(len(table.damages()) for table in node.tables())
    yield Count(
        "nearql_scrubbed_bytes", "Bytes of sealed files verified again.", scrubber.read_bytes
    )
    yield Count("nearql_scrub_rounds", "Rounds over all sealed files.", scrubber.rounds)
    text = "Segments that failed their checksums and are not served."
    yield Count("nearql_damaged_segments", text, damaged, total=False)
    yield from _archive_counts(node.backups.archiver.status())


def _archive_counts(found: ArchiveStatus) -> Iterator[Count]:
    """Of the log's archive; all zero where there is none."""
    text = "Committed records that the archive lacks, of shards that this node orders."
    yield Count("nearql_archive_lag_records", text, found.behind, total=False)
    text = "Age of the newest moment that the archive reaches, of the shard that is worst off."
    yield Count("nearql_archive_lag_seconds", text, found.behind_s, total=False)
    yield Count("nearql_archived_records", "Records shipped to the archive.", found.records)
    yield Count("nearql_archived_bytes", "Bytes shipped to the archive.", found.bytes)
    text = "Times that a log, or changes of metadata, were lost before they were shipped."
    yield Count("nearql_archive_gaps", text, found.gaps)
    text = "Rounds that the archive's repository, or a log, did not let end."
    yield Count("nearql_archive_failures", text, found.failures)
    text = "Nodes that live and archive elsewhere, or not at all."
    yield Count("nearql_archive_missing_nodes", text, found.elsewhere, total=False)
    text = "Shards whose archive is of another history, so that nothing more is shipped."
    yield Count("nearql_archive_stopped_shards", text, found.stopped, total=False)
    text = "Shards whose log is not kept for the archive any more: too large, or the disk is full."
    yield Count("nearql_archive_unkept_shards", text, found.unkept, total=False)

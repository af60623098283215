"""Every limit and knob of the engine, with its default; `server/config.py` fills it."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes are bytes, times are milliseconds, unless a name says otherwise."""

    device: str = "auto"  # auto | cpu | gpu
    backend: str = "auto"  # auto | numpy | faiss_cpu: what runs searches on the CPU
    gpu_memory_share: float = 0.9  # of the device's memory ...
    gpu_memory_bytes: int | None = None  # ... or so many bytes
    memory_limit_bytes: int = 64 * GIB  # resolved from "80%" by server/config.py
    search_threads: int = 0  # 0 = one per core
    seal_rows: int = 131_072  # a growing segment is sealed at this many row versions ...
    seal_bytes: int = 256 * MIB  # ... or at this many bytes of vectors
    checkpoint_wal_bytes: int = 256 * MIB  # log kept behind the last checkpoint before a new one
    checkpoint_pause: int = 0  # times the length of a table's last one before its next; <= 0.5 s
    wal_file_bytes: int = 64 * MIB
    wal_record_bytes: int = 16 * MIB  # largest payload of one record
    wal_group_bytes: int = 4 * MIB  # what one group commit gathers at most
    wal_retention_bytes: int = GIB  # sealed WAL files kept for replicas to catch up
    disk_reserve_bytes: int = 64 * MIB  # free space below which writes are refused with 507
    dedup_entries: int = 100_000  # request ids remembered per shard, at most ...
    dedup_ms: int = 86_400_000  # ... and for so long, by the log's own time
    dedup_bytes: int = 64 * MIB  # ... and in so much memory: which rows were skipped is kept too
    write_queue_bytes: int = 64 * MIB  # per table; 429 beyond
    write_queue_batches: int = 256
    text_memory_bytes: int = GIB  # texts in the indexes of bm25()
    text_words: int = 1_024  # different words that one bm25() may ask for
    scan_codes_bytes: int = GIB  # 8-bit codes beside raw vectors; 0 = none
    tune_quiet_ms: int = 2_000  # without a search, before indexes are tuned; 0 = never
    index_min_rows: int = 5_000  # a segment of fewer rows is read, whatever is declared
    scrub_rate_bytes: int = 16 * MIB  # read per second when sealed files are verified; 0 = never
    scrub_interval_s: int = 7 * 86_400  # between two rounds
    index_seal_rows: int = 32_768  # rows in memory at which an indexed table's are sealed
    join_rows: int = 1 << 20  # segments that wait for an index become one up to so many rows ...
    join_bytes: int = 2 * GIB  # ... and bytes: one graph is searched sooner than several
    column_cache_bytes: int = 256 * MIB  # filtered columns of segments with dead rows

"""Frozen values that cross the engine's boundary (n rows, d dimensions, nq queries, k hits)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from nearql.engine.derived import Derivation

ROW_COLUMN = "__row"  # row number in scans: int64, `shard << SHARD_SHIFT | position`
KEY_COLUMN = "__key"  # the hidden primary key of a table declared without one; BIGINT
SHARD_SHIFT = 40  # up to 2**40 row versions in a shard and 2**23 shards in a table


class Metric(StrEnum):
    """How two vectors are compared; a smaller distance is nearer.

    l2: Euclidean distance. inner_product: the negative inner product. cosine: 1 - cosine
    similarity, NaN where a vector is zero. l1: Manhattan distance. hamming, jaccard: of bit
    strings, see `bit_rows`.
    """

    L2 = "l2"
    INNER_PRODUCT = "inner_product"
    COSINE = "cosine"
    L1 = "l1"
    HAMMING = "hamming"
    JACCARD = "jaccard"

    @property
    def is_of_bits(self) -> bool:
        """Whether it compares bit strings."""
        return self in (Metric.HAMMING, Metric.JACCARD)


VECTOR_METRICS = (Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE, Metric.L1)


class OnConflict(StrEnum):
    """What an insert does with a row whose key exists."""

    ERROR = "error"
    NOTHING = "nothing"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RowSet:
    """A filter: which rows of a read view qualify.

    masks: one bool array per shard, its length the number of row versions that the view shows of
    it. count: how many are set; tombstoned rows are never set.
    """

    masks: tuple[NDArray[np.bool_], ...]
    count: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a search may wait for others, to be answered together with them.

    budget_ms: at most so long; 0 = never. check: raises where the statement should end meanwhile;
        called from any thread, now and then.
    """

    budget_ms: float
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a session permits an index; all None = what the index itself was declared with.

    target_recall: recall@k to reach. ef_search: candidate list of HNSW. probes: lists that IVF
    kinds look into. The last two win over the first.
    """

    target_recall: float | None = None
    ef_search: int | None = None
    probes: int | None = None


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """k nearest rows to each query.

    queries: float32, shape (nq, d), C-contiguous, finite.
    rows: the rows that qualify; None = every live row.
    patience: whether it may wait for others; None = it doesn't.
    derived: what is compared instead of the column's own vectors.
    partial: uuids of the indexes over some rows alone that may be asked: their conditions hold for
        every row that qualifies.
    """

    column: str
    metric: Metric
    queries: NDArray[np.float32]
    k: int
    rows: RowSet | None = None
    patience: Patience | None = None
    tuning: Tuning = Tuning()
    derived: Derivation | None = None
    partial: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchStats:
    """How a search was answered; shown by EXPLAIN ANALYZE and in each answer."""

    strategy: str  # exact | exact_filtered
    backend: str  # numpy | faiss_cpu | ...
    device: str = "cpu"
    candidates: int = 0  # rows whose distance the backend computed
    reranked: int = 0  # rows whose distance the canonical function computed again
    selectivity: float = 1.0  # qualifying rows / live rows
    batch: int = 1  # queries answered together

    @property
    def label(self) -> str:
        """The short form in an answer's `stats.strategy`, as in `exact/faiss_cpu`."""
        return f"{self.strategy}/{self.backend}"


@dataclass(frozen=True, slots=True)
class SearchHits:
    """Sorted by (distance, primary key); NaN distances last.

    rows: int64, shape (nq, k), -1 where fewer than k rows qualify.
    distances: float32, shape (nq, k), NaN where rows is -1.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: SearchStats


@dataclass(frozen=True, slots=True)
class DistanceSpec:
    """A distance computed for every row of a scan: float32 column `name`, NULL where the vector
    is NULL.

    query: float32, shape (d,).
    """

    name: str
    column: str
    metric: Metric
    query: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShardPosition:
    """What a read view reflects of one shard, or where a write ended."""

    shard: int
    epoch: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Change:
    """The evaluated effect of one statement: delete these row versions, then put these rows.

    delete_rows: int64 row numbers of the view that the statement was evaluated on, unique.
    put: complete rows in the schema's storage types (see `schema.storage_schema`), or None.
        A put row replaces a live row of the same key.
    inserted, updated, deleted: what the statement reports.
    """

    delete_rows: NDArray[np.int64]
    put: pa.Table | None
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What a write did, answered when it is durable and visible.

    skipped: positions (int64, in the given rows) left out by OnConflict.NOTHING.
    """

    inserted: int
    updated: int
    deleted: int
    positions: tuple[ShardPosition, ...]
    copies: int = 1
    skipped: NDArray[np.int64] | None = None
    repeated: bool = False  # the request id was seen before; nothing was done again

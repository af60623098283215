"""What SQL needs of a node, as narrow Protocols: the query layer knows tables, catalog and
metadata only by these.

`engine.table.Table` implements `TableHandle`, `engine.view.TableView` implements `TableView`, and
the server's node (later: the cluster's router) implements `Database`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.named_query import ViewDef
from nearql.engine.schema import IndexDef, TableDef, TableSchema
from nearql.engine.types import (
    Change,
    DistanceSpec,
    Metric,
    OnConflict,
    RowSet,
    SearchHits,
    SearchRequest,
    ShardPosition,
    WriteOutcome,
)
from nearql.engine.writes import Until


class TableView(Protocol):
    """One read view: rows, vectors and counts of one instant, for as long as it is held."""

    @property
    def schema(self) -> TableSchema:
        """The schema as of this view."""

    @property
    def positions(self) -> tuple[ShardPosition, ...]:
        """What the view reflects, per shard."""

    @property
    def row_count(self) -> int:
        """Live rows."""

    @property
    def data_version(self) -> tuple[int, ...]:
        """Equal for two views exactly when they show the same rows; keys the filter cache."""

    def scan(
        self,
        columns: Sequence[str],
        *,
        rows: RowSet | None = None,
        distances: Sequence[DistanceSpec] = (),
    ) -> pa.Table:
        """Live rows (those in `rows`): ROW_COLUMN first, then `columns`, then the distances.

        Scalars come in storage types (the caller casts to `ColumnType.duck`), vectors as
        fixed-size lists of float32, HALFVEC too. Zero-copy where no row of a segment is dead.
        """

    def without_damage(self) -> TableView:
        """The rows that are not in damaged segments; this view where none is damaged."""

    def values(self, columns: Sequence[str], rows: NDArray[np.int64]) -> list[list[Any]] | None:
        """As `take`, of few rows, in Python's objects; None where there is no such form."""

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """These rows' columns in the given order (repeats allowed), without ROW_COLUMN."""

    def row_set(self, rows: NDArray[np.int64]) -> RowSet:
        """The filter that qualifies exactly these row numbers."""

    def text_scores(self, column: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Row numbers, ascending, and BM25 scores (> 0) of live rows that have a word of `text`."""

    def search(self, request: SearchRequest) -> SearchHits:
        """Exact k nearest rows, ties by primary key; rows with NULL vectors never match."""

    def search_range(
        self, column: str, metric: Metric, query: NDArray[np.float32], radius: float,
        *, inclusive: bool, rows: RowSet | None = None,
    ) -> SearchHits:  # fmt: skip
        """Every row nearer than `radius`, shape (1, matches), sorted by (distance, key)."""


class TableHandle(Protocol):
    """One table's data on this node."""

    @property
    def definition(self) -> TableDef:
        """The definition that the data has reached."""

    def read_view(self) -> TableView:
        """The newest read view; cheap (no copy)."""

    def insert(
        self, rows: pa.Table, on_conflict: OnConflict, *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Durably add complete rows in storage types; all or none per shard.

        until: what to wait for; "durable" = on the primary's own disk, not visible yet.

        Raises:
            Conflict: code `duplicate_key`, extra `key` and `row` (position in `rows`), if ERROR.
            StorageFull, Overloaded, WriteUnknown.
        """

    def modify(
        self, evaluate: Callable[[TableView], Change], *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Evaluate once, on everything written before and no writer in between; log the result."""

    def find(self, keys: pa.Array) -> NDArray[np.int64]:
        """Row number of each key's live row, int64, -1 where there is none; no scan.

        Only inside the evaluation of `modify`, on the view that it was given.
        """

    def truncate(
        self, *, request_id: bytes | None = None, timeout_ms: int | None = None
    ) -> WriteOutcome:
        """Delete every row; the outcome's `deleted` is how many there were."""


@dataclass(frozen=True)
class CatalogView:
    """An immutable picture of the catalog; `version` rises with every change."""

    version: int
    tables: Mapping[str, TableDef]  # by lower-case name
    views: Mapping[str, ViewDef] = field(default_factory=dict)  # the same; no name is in both


class AccessControl(Protocol):
    """Users and their rights, as GRANT and CREATE USER change them; all of it durable."""

    def create_user(self, name: str, role: str) -> None:
        """Raises Conflict `duplicate_user`, InvalidValue."""

    def drop_user(self, name: str, *, if_exists: bool) -> bool:
        """With grants and keys; whether there was one. Raises NotFound `undefined_user`."""

    def change_grants(
        self, user: str, table: TableDef, actions: Sequence[str], *, revoke: bool
    ) -> None:
        """Give or take actions on a table; `user` may be a key's id and then means its user."""


class Database(Protocol):
    """A node as SQL sees it."""

    @property
    def access(self) -> AccessControl:
        """Who may do what."""

    def catalog(self) -> CatalogView:
        """The catalog now."""

    def table(self, uuid: str) -> TableHandle:
        """The data of a table in the catalog."""

    def system_table(self, name: str) -> pa.Table | None:
        """The rows of `nearql.<name>`, or None where there is no such system table."""

    def create_table(self, definition: TableDef, *, if_not_exists: bool) -> bool:
        """Durably create; whether it was new. Raises Conflict `duplicate_table`."""

    def drop_table(self, name: str, *, if_exists: bool, cascade: bool = False) -> bool:
        """Durably drop; whether it existed. cascade: the views that read it go with it.

        Raises:
            NotFound: code `undefined_table`.
            Conflict: code `dependent_object`; views read it, and nothing was dropped.
        """

    def create_view(self, view: ViewDef, *, or_replace: bool) -> None:
        """Durably define a view; one that it replaces keeps its uuid.

        Raises:
            Conflict: `duplicate_table`, or `dependent_object` where views that read the old one
                need a column that the new one doesn't have, or it would read itself.
        """

    def drop_view(self, name: str, *, cascade: bool) -> None:
        """Durably drop a view; cascade: those that read it too.

        Raises:
            NotFound: code `undefined_table`. Conflict: code `dependent_object`.
        """

    def alter_table(self, name: str, schema: TableSchema, new_name: str | None = None) -> None:
        """Durably replace the schema; `schema.version` must be one above the current."""

    def create_index(self, table: str, index: IndexDef, *, if_not_exists: bool) -> bool:
        """Durably define an index; whether it was new."""

    def drop_index(self, name: str, *, if_exists: bool) -> bool:
        """Durably drop an index by name; whether it existed."""

    def rebuild_indexes(self, table: str, uuids: Sequence[str]) -> None:
        """Build these indexes of a table anew, in the background."""

    def check_table(self, table: str) -> pa.Table:
        """Verify a table's files and compare its copies: a row per copy of each shard with `table`,
        `shard`, `node`, `state`, `lsn`, `rows`, `detail`.
        """

    def set_replicas(self, table: str, replicas: int) -> str:
        """Have as many copies of a table; what is to be said of it.

        Raises:
            Unavailable: code `not_enough_replicas`; too few nodes can take one.
        """

    def allocate(self, table_uuid: str, count: int) -> int:
        """The first of `count` fresh identity numbers of a table: gaps permitted, none twice."""

    def describe_settings(self) -> Mapping[str, Any]:
        """Effective settings for SHOW SETTINGS, secrets left out."""

    def notice(self, text: str) -> None:
        """Log something an operator should know."""

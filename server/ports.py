"""What the HTTP edge needs of a node, and nothing more; `server.node.Node` implements it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from nearql.engine.errors import Corruption
from nearql.engine.types import OnConflict, ShardPosition
from nearql.query.nature import Nature
from nearql.query.plan_cache import Prepared
from nearql.query.ports import CatalogView, TableHandle
from nearql.query.repeats import Repeated
from nearql.query.replicas import Reads, Replicas
from nearql.query.running import Statements
from nearql.query.watchdog import Stop
from nearql.server.config import Config
from nearql.server.counts import Count


class ResultColumnPort(Protocol):
    """A column of an answer: its name and the SQL type that people see."""

    @property
    def name(self) -> str:
        """As in the SELECT list; not necessarily unique."""

    @property
    def type(self) -> str:
        """`BIGINT`, `VECTOR(384)`, ..."""


class ResultPort(Protocol):
    """What a statement answered; `query.result.Result`."""

    @property
    def columns(self) -> Sequence[ResultColumnPort]:
        """In order; empty for statements that return no rows."""

    @property
    def table(self) -> pa.Table:
        """The rows, one Arrow column per column."""

    @property
    def values(self) -> Sequence[Sequence[Any]] | None:
        """The same as Python's objects, column by column, where they are at hand."""

    @property
    def row_count(self) -> int:
        """Rows returned, or rows affected."""

    @property
    def stats(self) -> Mapping[str, Any]:
        """strategy, shards, write."""

    @property
    def notices(self) -> Sequence[str]:
        """What a person should know about the answer."""


class BulkOutcomePort(Protocol):
    """What one batch of a bulk load did; `query.session.BulkOutcome`."""

    @property
    def inserted(self) -> int:
        """Rows that are new."""

    @property
    def updated(self) -> int:
        """Rows that replaced one of the same key."""

    @property
    def failed(self) -> Sequence[Any]:
        """Rows left out: `row` (position in the batch), `code`, `detail`."""

    @property
    def positions(self) -> Sequence[ShardPosition]:
        """Where it ended in the shards' logs."""


class Stores(Protocol):
    """Stores rows of one batch."""

    def insert_rows(
        self,
        table_name: str,
        rows: pa.Table,
        on_conflict: OnConflict,
        *,
        settings: Mapping[str, Any] | None = None,
        request_id: bytes | None = None,
    ) -> BulkOutcomePort:
        """Durably add rows: casts, defaults and checks per row."""


class SessionPort(Stores, Protocol):
    """Runs SQL; thread-safe; `query.session.Session`. replicas: the copies of what it writes."""

    replicas: Replicas

    @property
    def statements(self) -> Statements:
        """What runs now and what was slow."""

    def execute(
        self,
        text: str,
        params: Mapping[str, Any] | Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        request_id: bytes | None = None,
        stop: Stop | None = None,
        user: str | None = None,
        reads: Reads | None = None,
        waited_s: float = 0.0,
        light_only: bool = False,
        prepared: Any = None,
        at_once: bool = False,
    ) -> ResultPort:
        """Run every statement of `text` and answer the last one's result; `user` asks for it.

        light_only: raise `query.weight.Deferred` where it is more than a search; it holds the text
        as `prepared`. at_once: as where it may wait for nothing.
        """

    def known_search(self, text: str) -> Prepared | None:
        """What `execute` takes as `prepared`, where a text is one search that was planned before
        and no parameter changes its size.
        """

    def repeat(
        self,
        prepared: Prepared,
        key: Hashable,
        params: Sequence[Mapping[str, Any] | Sequence[Any] | None],
        settings: Mapping[str, Any] | None,
        reads: Sequence[Reads] = (),
    ) -> Repeated | None:
        """The answers for requests like those before them; see `query.session.Session`."""

    def nature(self, text: str) -> tuple[Nature, Any]:
        """What the statements of a text would do; and the text prepared for `execute`."""


class NodePort(Protocol):
    """A running node."""

    @property
    def system_sources(self) -> dict[str, Callable[[], pa.Table]]:
        """System tables that come from elsewhere than the node itself: from the cluster."""

    @property
    def config(self) -> Config:
        """Its settings."""

    def has_room(self) -> bool:
        """Whether memory is not short, so that a search would begin at once."""

    def session(self) -> SessionPort:
        """The session that runs requests."""

    def catalog(self) -> CatalogView:
        """The visible tables."""

    def table(self, uuid: str) -> TableHandle:
        """The data of a table; raises Corruption where it could not be opened."""

    def system_table(self, name: str) -> pa.Table | None:
        """The rows of `nearql.<name>`."""

    def failed_tables(self) -> Mapping[str, Corruption]:
        """Tables that could not be opened, by uuid."""

    def counts(self) -> Iterable[Count]:
        """What it counts, for `/metrics`."""

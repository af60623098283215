"""One table's data on this node: the facade over its shards. Implements `query.ports.TableHandle`.

    insert   check rows -> split by shard -> plan on every shard -> log on each -> wait -> apply
    modify   lock every shard -> drain -> evaluate on the newest view -> log -> wait -> apply

A statement is atomic per shard. Conflicts are found on every shard before anything is logged on
one. Shards are always locked in order of their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.admission import Admission
from nearql.engine.context import EngineContext
from nearql.engine.deadline import Deadline
from nearql.engine.defaults import literal_default
from nearql.engine.errors import (
    Conflict,
    InternalError,
    InvalidValue,
    StatementTimeout,
    Unavailable,
    WriteUnknown,
)
from nearql.engine.index.catalog import TableIndexes
from nearql.engine.index.progress import IndexProgress
from nearql.engine.keys import Key, keys_of, shard_of
from nearql.engine.maintenance import RETRY_BYTES, Maintenance
from nearql.engine.request_id import NO_REQUEST
from nearql.engine.schema import Column, IndexDef, TableDef, TableSchema
from nearql.engine.segment.damage import Damage
from nearql.engine.segment.data import SegmentData
from nearql.engine.segment.rows import Rows
from nearql.engine.segment.view import SegmentView
from nearql.engine.shard.local_copy import LocalCopy
from nearql.engine.shard.plan import duplicate_key
from nearql.engine.shard.records import Counts, SchemaChange, Statement
from nearql.engine.shard.shard import Shard
from nearql.engine.statistics import TableStats, table_stats
from nearql.engine.storage.wal import RecordKind
from nearql.engine.text import TextIndexes
from nearql.engine.types import SHARD_SHIFT, Change, OnConflict, WriteOutcome
from nearql.engine.view import TableView
from nearql.engine.writes import (
    ShardWrite,
    Until,
    log_all,
    outcome_of,
    pack_offsets,
    split,
    writing,
)

_DDL_MS = 30_000  # that a copy's writes may take to be committed, around a change of its schema
_COPIES = 3  # of given rows that are in memory until they are applied: checked, logged, applied
_CLOSE_CHECKPOINT_BYTES = RETRY_BYTES  # logged since the last checkpoint: worth one when closing


class Table:
    """Thread-safe. `create` or `open` makes one; `close` ends it.

    copies: its shards as replication drives them, in order; none on a node alone.
    """

    def __init__(
        self, definition: TableDef, shards: Sequence[Shard], context: EngineContext
    ) -> None:
        self._definition = definition
        self._shards = tuple(shards)
        self._context = context
        self._admission = Admission(definition.name, context.settings)
        self._maintenance = Maintenance(definition.name, self._shards, context)
        self._indexes = TableIndexes(definition.name, self._shards, context)
        self._texts = TextIndexes(context.text_memory, context.settings.text_words)
        self._indexes.scan = self._segment_rows
        for shard in self._shards:
            shard.watcher = self._indexes
        self.copies = self._made_copies()
        self._view: TableView | None = None  # the last one given out; kept for its directories
        self._closed = False
        context.memory.on_pressure(self, self._maintenance.relieve)

    # ---- Life ------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, directory: Path, definition: TableDef, context: EngineContext,
        *, alloc_ids: Mapping[int, bytes] = MappingProxyType({}),
    ) -> Table:  # fmt: skip
        """Make the table's directory with empty shards; durable when this returns.

        Repeating one that was broken off completes it; data that is there stays.
        alloc_ids: 16 bytes by which the copy of that shard is to be known; else something new.
        """
        key = _key_of(definition)
        for number in range(definition.shards):
            folder = _folder(directory, number)
            Shard.create(
                folder, definition.uuid, number, key,
                context=context, alloc_id=alloc_ids.get(number),
            ).close()  # fmt: skip
        return cls.open(directory, definition, context)

    @classmethod
    def open(cls, directory: Path, definition: TableDef, context: EngineContext) -> Table:
        """Recover the table: checkpoints, then the log behind them.

        Raises:
            Corruption: names the file and the place; nothing was changed or cut away.
            Unavailable: code `newer_format`.
        """
        key = _key_of(definition)
        shards: list[Shard] = []
        try:
            for number in range(definition.shards):
                folder = _folder(directory, number)
                shards.append(Shard.open(folder, definition.uuid, number, key, context=context))
        except BaseException:
            for shard in shards:
                shard.close()
            raise
        table = cls(definition, shards, context)
        table.apply_schema(definition)  # metadata may have been ahead of the shards at a crash
        table._indexes.declare(definition.schema, definition.indexes)
        table._indexes.open()
        table._maintenance.after_write(shards)  # goes on with what the end interrupted
        return table

    def close(self) -> None:
        """Wait for writes under way, checkpoint what is worth it, close the files."""
        if self._closed:
            return
        self._closed = True
        self._view = None
        self._context.memory.forget(self)
        self._maintenance.close()
        self._indexes.close()
        self._texts.close()
        for copy in self.copies:
            copy.close()
        for shard in self._shards:
            shard.close(checkpoint_bytes=_CLOSE_CHECKPOINT_BYTES)

    def _made_copies(self) -> tuple[LocalCopy, ...]:
        if not self._context.replicated:
            return ()
        copies = tuple(LocalCopy(shard, self._context) for shard in self._shards)
        for copy, shard in zip(copies, self._shards, strict=True):
            copy.on_applied = partial(self._after_apply, shard)
        return copies

    def _after_apply(self, shard: Shard) -> None:
        """A copy has applied what another node wrote."""
        if not self._closed:
            self._maintenance.after_write([shard])
            self._indexes.after_write()

    # ---- Reading ---------------------------------------------------------------------------

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards' data here, by number: for those who look after files and logs."""
        return self._shards

    @property
    def definition(self) -> TableDef:
        """The definition that the data has reached."""
        return self._definition

    def read_view(self) -> TableView:
        """The newest read view; nothing is copied. The same object while nothing changes."""
        self._check_open()
        schema = self._definition.schema  # before the rows: they may know more columns, never fewer
        shards = tuple(shard.read_view() for shard in self._shards)
        view = self._view
        if view is None or not view.shows(schema, shards):
            view = self._view = TableView(schema, shards, self._context, self._indexes, self._texts)
        return view

    def _segment_rows(self, number: int, data: SegmentData, columns: Sequence[str]) -> pa.Table:
        """See `index.declared.Scan`."""
        shard = self._shards[number].read_view()
        alone = replace(shard, segments=(SegmentView(data, sealed=True),), live=data.rows)
        schema = self._definition.schema
        return TableView(schema, (alone,), self._context, self._indexes, self._texts).scan(columns)

    def stats(self) -> TableStats:
        """Sizes and positions now."""
        self._check_open()
        wal_bytes = sum(shard.unflushed_bytes for shard in self._shards)
        return table_stats([shard.read_view() for shard in self._shards], wal_bytes)

    # ---- Writing ---------------------------------------------------------------------------

    def insert(
        self, rows: pa.Table, on_conflict: OnConflict, *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Durably add complete rows in storage types; all or none per shard.

        until: what to wait for. In a copy that is replicated, "durable" is what the primary's own
            disk has, which may be lost at a failover and is not visible yet.

        Raises:
            InvalidValue: rows that don't fit the schema; row and column are named.
            Conflict: code `duplicate_key`, extra `key` and `row` (position in `rows`), if ERROR.
            StorageFull, Overloaded, WriteUnknown, StatementTimeout, TooLarge.
            Unavailable: code `not_primary` or `not_enough_replicas`, in a copy; as with the others.
        """
        deadline = Deadline(timeout_ms)
        with self._room(_COPIES * rows.nbytes, deadline):
            self._check_open()
            self._wait_admitted(deadline)
            schema = self._definition.schema
            checked = Rows.of(schema, rows)
            with self._admission.entered(checked.nbytes):
                writes = self._insert(schema, checked, on_conflict, request_id, deadline)
                return self._finished(writes, deadline, until)

    def _insert(
        self, schema: TableSchema, checked: Rows, on_conflict: OnConflict,
        request_id: bytes | None, deadline: Deadline,
    ) -> list[ShardWrite]:  # fmt: skip
        parts = list(split(checked, schema.key_number, len(self._shards)))
        with writing([self._shards[number] for number, _, _ in parts], deadline):
            self._check_schema_is(schema)
            writes = [
                ShardWrite(
                    self._shards[number],
                    Statement(RecordKind.BATCH, Counts(), request_id or NO_REQUEST),
                    offsets=offsets,
                    ended=self._shards[number].seen(request_id),
                )
                for number, offsets, _ in parts
            ]
            for write, (_, _, part) in zip(writes, parts, strict=True):
                if write.ended is None:
                    self._plan_insert(write, part, on_conflict)
            log_all(writes)
        return writes

    def modify(
        self, evaluate: Callable[[TableView], Change], *, request_id: bytes | None = None,
        timeout_ms: int | None = None, until: Until = "applied",
    ) -> WriteOutcome:  # fmt: skip
        """Evaluate once, with no other writer in between, on everything written before; then log
        the result.

        `evaluate` must not write to this table. What it raises is passed on; nothing is written.
        until: as in `insert`.
        """
        deadline = Deadline(timeout_ms)
        self._check_open()
        self._wait_admitted(deadline)
        with self._room(0, deadline), self._admission.entered(0):
            with self._alone(deadline):
                writes = self._repeated(request_id)
                if writes is None:
                    view = self.read_view()
                    writes = list(self._change_writes(view, evaluate(view), request_id))
                    deadline.check("its evaluation")
                    log_all(writes)
            return self._finished(writes, deadline, until)

    def find(self, keys: pa.Array) -> NDArray[np.int64]:
        """Row number of each key's live row, int64, -1 where there is none; no scan.

        keys: in the key column's storage type, without NULLs. Inside the evaluation of `modify`
        these are rows of the view that it was given; elsewhere they may be newer than any view.
        """
        found = np.full(len(keys), -1, np.int64)
        numbers = shard_of(keys, len(self._shards))
        listed = keys_of(keys)
        for shard in self._shards:
            mine = np.flatnonzero(numbers == shard.number)
            if mine.size:
                with shard.writing(Deadline(None)):
                    found[mine] = shard.find([listed[at] for at in mine.tolist()])
        return found

    def truncate(
        self, *, request_id: bytes | None = None, timeout_ms: int | None = None
    ) -> WriteOutcome:
        """Delete every row; the outcome's `deleted` is how many there were."""
        if timeout_ms is None and self._context.replicated:
            timeout_ms = _DDL_MS
        deadline = Deadline(timeout_ms)
        self._check_open()
        self._wait_admitted(deadline)
        with self._alone(deadline):
            writes = self._repeated(request_id)
            if writes is None:
                writes = [self._truncate_write(shard, request_id) for shard in self._shards]
                log_all(writes)
            return self._finished(writes, deadline)

    # ---- Schema ----------------------------------------------------------------------------

    @contextmanager
    def altering(self, schema: TableSchema) -> Iterator[None]:
        """Keep writers out while metadata records a new schema and `apply_schema` follows, so that
        the rows it was checked against are the rows it meets.

        Raises:
            StorageFull: there would be no room to log it.
            InvalidValue: an added NOT NULL column without a default, while there are rows.
            Unsupported: an added column whose default is no literal, while there are rows.
            StatementTimeout: a copy's earlier writes were not committed for long.
            Unavailable: code `not_primary` or `not_enough_replicas`, in a copy.
        """
        deadline = Deadline(_DDL_MS if self._context.replicated else None)
        self._check_open()
        self._wait_admitted(deadline)
        with self._alone(deadline):
            for shard in self._shards:
                shard.wal.check_room()
            known = {column.number for column in self._definition.schema.columns}
            if any(shard.read_view().span for shard in self._shards):
                for column in schema.columns:
                    if column.number not in known:
                        _check_added(column)
            yield

    def apply_schema(self, definition: TableDef) -> None:
        """Order a new definition against the rows; durable in every shard's log on return.

        Idempotent. On a copy that follows, it counts at once, and the primary's log brings its
        place among the rows: until then, rows show an added column's default.
        """
        if any(copy.leads is None for copy in self.copies):
            self._definition = definition
            return
        self._log_schema(definition, Deadline(_DDL_MS if self._context.replicated else None))

    def _log_schema(self, definition: TableDef, deadline: Deadline) -> None:
        with self._alone(deadline):
            version = definition.schema.version
            writes = [
                ShardWrite(shard, _schema_statement(shard, definition.schema))
                for shard in self._shards
                if shard.schema_version < version
            ]
            log_all(writes)
            self._definition = definition
            self._finished(writes, deadline)

    # ---- Indexes ---------------------------------------------------------------------------

    def declare_indexes(self, indexes: Sequence[IndexDef]) -> None:
        """The table's indexes from now on. What is missing is built in the background, from the
        rows that are there; the builds of others end.
        """
        self._check_open()
        self._definition = replace(self._definition, indexes=tuple(indexes))
        self._indexes.declare(self._definition.schema, indexes)
        self._indexes.refresh(seal=True)

    def rebuild_indexes(self, uuids: Sequence[str]) -> None:
        """Build these anew in the background; until then the old ones answer."""
        self._check_open()
        self._indexes.rebuild(uuids)

    def tune_indexes(self) -> int:
        """Measure indexes anew on the queries asked lately; how many were, see `TableIndexes`."""
        self._check_open()
        return self._indexes.tune()

    def index_progress(self) -> Mapping[str, IndexProgress]:
        """How far each index is, by uuid."""
        self._check_open()
        return self._indexes.progress()

    def _check_schema_is(self, schema: TableSchema) -> None:
        if self._definition.schema != schema:
            raise Conflict(
                f"The schema of table {self._definition.name} changed while the rows were checked; "
                "send them again.",
                code="schema_changed", sqlstate="40001",
            )  # fmt: skip

    # ---- Statements ------------------------------------------------------------------------

    def _plan_insert(self, write: ShardWrite, rows: Rows, on_conflict: OnConflict) -> None:
        keys = keys_of(rows.key(self._definition.schema.key_number))
        plan = write.shard.plan_insert(keys, on_conflict, write.offsets)
        if plan.keep is not None:
            rows, keys = rows.take(plan.keep), [keys[row] for row in plan.keep.tolist()]
        write.statement.counts = Counts(plan.inserted, plan.updated, 0, pack_offsets(plan.skipped))
        if rows.count:
            write.statement.puts.append(rows)
        write.keys = dict.fromkeys(keys, True)

    def _change_writes(
        self, view: TableView, change: Change, request_id: bytes | None
    ) -> Iterator[ShardWrite]:
        """A change by shard; with a request id every shard takes part, to remember it.

        Its counts go to the first shard that takes part.
        """
        deletes = self._deleted_keys(view, change.delete_rows)
        puts = self._put_rows(view.schema, change.put)
        counts = Counts(change.inserted, change.updated, change.deleted)
        for shard in self._shards:
            number = shard.number
            if request_id is None and number not in deletes and number not in puts:
                continue
            statement = Statement(RecordKind.BATCH, counts, request_id or NO_REQUEST)
            write = ShardWrite(shard, statement, ended=shard.seen(request_id))
            counts = Counts()
            if (keys := deletes.get(number)) is not None:
                statement.deletes.append(keys)
                write.keys |= dict.fromkeys(keys, False)
            if (rows := puts.get(number)) is not None:
                statement.puts.append(rows)
                write.keys |= dict.fromkeys(keys_of(rows.key(view.schema.key_number)), True)
            yield write

    def _deleted_keys(self, view: TableView, rows: NDArray[np.int64]) -> dict[int, list[Key]]:
        found: dict[int, list[Key]] = {}
        numbers = rows >> SHARD_SHIFT
        for number in np.unique(numbers).tolist():
            mine = rows[numbers == number]
            keys = keys_of(view.take([view.schema.key.name], mine).column(0))
            if not self._shards[number].holds(keys, mine):
                raise InternalError("A statement deletes a row version that is dead already.")
            found[number] = keys
        return found

    def _put_rows(self, schema: TableSchema, put: pa.Table | None) -> Mapping[int, Rows]:
        if put is None or not put.num_rows:
            return {}
        rows = Rows.of(schema, put)
        _check_distinct(keys_of(rows.key(schema.key_number)))
        parts = split(rows, schema.key_number, len(self._shards))
        return {number: part for number, _, part in parts}

    def _truncate_write(self, shard: Shard, request_id: bytes | None) -> ShardWrite:
        counts = Counts(deleted=shard.read_view().live)
        statement = Statement(RecordKind.TRUNCATE, counts, request_id or NO_REQUEST)
        return ShardWrite(shard, statement, ended=shard.seen(request_id))

    def _repeated(self, request_id: bytes | None) -> list[ShardWrite] | None:
        """The ends of a write that every shard has seen; None if there is something left to do."""
        if request_id is None:
            return None
        statement = Statement(RecordKind.BATCH, Counts())
        writes = [
            ShardWrite(shard, statement, ended=shard.seen(request_id)) for shard in self._shards
        ]
        return writes if all(write.ended is not None for write in writes) else None

    def _room(self, nbytes: int, deadline: Deadline) -> AbstractContextManager[None]:
        what = f"A write to table {self._definition.name}"
        return self._context.memory.reserved(nbytes, what, deadline)

    # ---- Steps -----------------------------------------------------------------------------

    def _wait_admitted(self, deadline: Deadline) -> None:
        """Without locks: until this copy, if it is one, is the primary and has what went before.

        Raises:
            Unavailable: code `not_primary` or `not_enough_replicas`.
            StatementTimeout: not before the deadline.
        """
        for shard in self._shards:
            shard.gate.wait_admitted(deadline)
        version = self._definition.schema.version
        if self.copies and any(shard.schema_version < version for shard in self._shards):
            try:
                self._log_schema(self._definition, deadline)  # the last primary did not come to it
            except WriteUnknown as error:  # about the schema; the statement is not logged
                raise StatementTimeout(
                    "The statement waited for the table's schema in this copy's log until its time "
                    "was up; nothing was written."
                ) from error

    @contextmanager
    def _alone(self, deadline: Deadline) -> Iterator[None]:
        """Every shard locked, everything logged before applied."""
        self._check_open()
        with writing(self._shards, deadline):
            for shard in self._shards:
                shard.drain(deadline)
                shard.gate.check()
            yield

    def _finished(
        self, writes: Sequence[ShardWrite], deadline: Deadline, until: Until = "applied"
    ) -> WriteOutcome:
        outcome = outcome_of(writes, deadline, until)
        self._maintenance.after_write(write.shard for write in writes)
        self._indexes.after_write()
        self._indexes.after_write()
        return outcome

    def checkpoint(self) -> None:
        """Write every shard's state to files and let the log behind it go.

        Raises:
            StorageFull: the last checkpoint still stands; nothing is lost.
        """
        self._check_open()
        for shard in self._shards:
            shard.checkpoint()

    def damages(self) -> list[Damage]:
        """What is wrong with segments that were set aside."""
        return [s.damage for s in self.stats().segments if s.damage is not None]

    def keys_hit(self, shard: int, damage: Damage) -> list[str] | None:
        """Keys of the live rows that bad blocks hit, as text; None where they are lost too."""
        if damage.everything:
            return None
        for segment in self._shards[shard].read_view().segments:
            if segment.data.base <= damage.first < segment.end:
                offsets = segment.live_offsets + segment.data.base
                hit = offsets[(offsets >= damage.first) & (offsets < damage.end)]
                keys = segment.data.column(self._definition.schema.key_number)
                taken = keys.take(pa.array(hit - segment.data.base))
                return [str(key) for key in keys_of(taken)]
        return []

    def scrub(self, paced: Callable[[int], None]) -> list[Damage]:
        """Verify every sealed file again; what is bad now is set aside.

        paced: called with the bytes that are about to be read; may wait.
        """
        self._check_open()
        return [damage for shard in self._shards for damage in shard.scrub(paced)]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(
                f"Table {self._definition.name} is closed: it was dropped, or the node is stopping."
            )

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        for shard in self._shards:
            shard.check_invariants()


def _folder(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:04d}"


def _key_of(definition: TableDef) -> tuple[int, pa.DataType]:
    key = definition.schema.key
    return key.number, key.type.storage


def _check_added(column: Column) -> None:
    if literal_default(column) is None and column.not_null:
        raise InvalidValue(
            f"Column {column.name} is NOT NULL and has no default, but the table has rows. Give it "
            "a DEFAULT, or add it without NOT NULL and fill it with UPDATE.",
            code="not_null_violation", sqlstate="23502", column=column.name,
        )  # fmt: skip


def _check_distinct(keys: Sequence[Key]) -> None:
    if len(set(keys)) == len(keys):
        return
    seen: set[Key] = set()
    for row, key in enumerate(keys):
        if key in seen:
            raise duplicate_key(key, row, twice=True)
        seen.add(key)


def _schema_statement(shard: Shard, schema: TableSchema) -> Statement:
    """The SCHEMA record of one shard, with the values of new columns in the rows that are there."""
    view = shard.read_view()
    fills = {
        column.number: literal_default(column) if view.span else None
        for column in schema.columns
        if column.number not in view.fills
    }
    return Statement(RecordKind.SCHEMA, Counts(), schema=SchemaChange(schema.version, fills))

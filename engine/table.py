"""One table's data on this node: the facade over its shards. Implements `query.ports.TableHandle`.

    insert   check rows -> split by shard -> plan on every shard -> log on each -> wait -> apply
    modify   lock every shard -> drain -> evaluate on the newest view -> log on each -> wait -> apply

A statement is atomic per shard. Conflicts are found on every shard before anything is logged on one.
Shards are always locked in order of their numbers.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.admission import Admission
from nearql.engine.context import EngineContext
from nearql.engine.defaults import literal_default
from nearql.engine.errors import Conflict, Corruption, InvalidValue, StorageFull, Unavailable
from nearql.engine.keys import Key, keys_of, shard_of
from nearql.engine.schema import Column, TableDef, TableSchema
from nearql.engine.segment.rows import Rows
from nearql.engine.shard.dedup import Recorded
from nearql.engine.shard.records import NO_REQUEST, Counts, Payload, SchemaChange, Statement
from nearql.engine.shard.shard import Deadline, Pending, Shard, duplicate_key
from nearql.engine.storage.wal import RecordKind
from nearql.engine.types import (
    SHARD_SHIFT,
    Change,
    OnConflict,
    ShardPosition,
    WriteOutcome,
)
from nearql.engine.view import TableView

logger = logging.getLogger(__name__)
_RETRY_CHECKPOINT_BYTES = (
    16 << 20
)  # logged after a checkpoint failed for lack of space, before the next


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """One segment. first_row: its first row number. bytes: columns, vectors and norms."""

    shard: int
    first_row: int
    rows: int
    dead: int
    sealed: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class TableStats:
    """What a table holds. bytes: of all segments, dead rows included; wal_bytes: behind checkpoints."""

    rows: int
    bytes: int
    wal_bytes: int
    segments: tuple[SegmentStats, ...]
    positions: tuple[ShardPosition, ...]


@dataclass(slots=True)
class _Work:
    """What a statement does to one shard. offsets: of its rows in the given ones, None = all."""

    shard: Shard
    statement: Statement
    keys: dict[Key, bool]
    offsets: NDArray[np.int64] | None = None
    payloads: Sequence[Payload] = ()
    ended: Recorded | Pending | None = None  # set: the request id was seen, nothing to do


class Table:
    """Thread-safe. `create` or `open` makes one; `close` ends it."""

    def __init__(
        self, definition: TableDef, shards: Sequence[Shard], context: EngineContext,
        failure: Corruption | None = None,
    ) -> None:  # fmt: skip
        self._definition = definition
        self._shards = tuple(shards)
        self._context = context
        self._failure = failure
        self._admission = Admission(definition.name, context.settings)
        self._scheduled = threading.Lock()  # held while a checkpoint is queued or runs
        self._retry_at_bytes = 0
        self._closed = False

    # ---- Life ------------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: Path, definition: TableDef, context: EngineContext) -> Table:
        """Make the table's directory with empty shards; durable when this returns."""
        key = _key_of(definition)
        for number in range(definition.shards):
            shard = Shard.create(
                _folder(directory, number), definition.uuid, number, key, context=context
            )
            shard.close()
        return cls.open(directory, definition, context)

    @classmethod
    def open(cls, directory: Path, definition: TableDef, context: EngineContext) -> Table:
        """Recover the table: checkpoints, then the log behind them.

        A table with corrupt files opens too, and each use of it raises Corruption, so that one bad
        disk block doesn't take the other tables away.
        """
        key = _key_of(definition)
        shards: list[Shard] = []
        try:
            for number in range(definition.shards):
                folder = _folder(directory, number)
                shards.append(Shard.open(folder, definition.uuid, number, key, context=context))
        except Corruption as error:
            logger.error("table %s is set aside: %s", definition.name, error.detail)
            for shard in shards:
                shard.close()
            return cls(definition, (), context, error)
        table = cls(definition, shards, context)
        table.apply_schema(definition)  # metadata may have been ahead of the shards at a crash
        return table

    def close(self) -> None:
        """Wait for writes under way, checkpoint what is worth it, close the files."""
        if self._closed:
            return
        self._closed = True
        with self._scheduled:  # no checkpoint runs, and none begins any more
            for shard in self._shards:
                shard.close(checkpoint_bytes=_RETRY_CHECKPOINT_BYTES)

    # ---- Reading ---------------------------------------------------------------------------

    @property
    def definition(self) -> TableDef:
        """The definition that the data has reached."""
        return self._definition

    @property
    def failure(self) -> Corruption | None:
        """Why the table is set aside, if it is."""
        return self._failure

    def read_view(self) -> TableView:
        """The newest read view; nothing is copied.

        Raises:
            Corruption: the table is set aside.
        """
        self._check_usable()
        schema = self._definition.schema  # before the rows: they may know more columns, never fewer
        return TableView(schema, tuple(shard.read_view() for shard in self._shards), self._context)

    def stats(self) -> TableStats:
        """Sizes and positions now."""
        self._check_usable()
        views = [shard.read_view() for shard in self._shards]
        segments = tuple(
            SegmentStats(
                view.shard, (view.shard << SHARD_SHIFT) + s.data.base, s.data.rows, s.dead,
                s.sealed, s.data.nbytes,
            )
            for view in views
            for s in view.segments
        )  # fmt: skip
        return TableStats(
            rows=sum(view.live for view in views),
            bytes=sum(segment.bytes for segment in segments),
            wal_bytes=sum(shard.unflushed_bytes for shard in self._shards),
            segments=segments,
            positions=tuple(ShardPosition(v.shard, v.epoch, v.lsn) for v in views),
        )

    # ---- Writing ---------------------------------------------------------------------------

    def insert(
        self, rows: pa.Table, on_conflict: OnConflict, *, request_id: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> WriteOutcome:  # fmt: skip
        """Durably add complete rows in storage types; all or none per shard.

        Raises:
            InvalidValue: rows that don't fit the schema; row and column are named.
            Conflict: code `duplicate_key`, extra `key` and `row` (position in `rows`), if ERROR.
            StorageFull, Overloaded, WriteUnknown, StatementTimeout, TooLarge.
        """
        self._check_usable()
        deadline = Deadline(timeout_ms)
        schema = self._definition.schema
        checked = Rows.of(schema, rows)
        parts = list(self._split(checked, schema))
        with self._admission.entered(checked.nbytes):
            with self._writing([self._shards[shard] for shard, _, _ in parts], deadline):
                self._check_schema_is(schema)
                works = [
                    self._insert_work(self._shards[shard], part, offsets, on_conflict, request_id)
                    for shard, offsets, part in parts
                ]
                self._log(works)
            return self._outcome(works, deadline)

    def modify(
        self, evaluate: Callable[[TableView], Change], *, request_id: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> WriteOutcome:  # fmt: skip
        """Evaluate once, with no other writer in between, on everything written before; log the result.

        `evaluate` must not write to this table. What it raises is passed on, and nothing is written.
        """
        self._check_usable()
        deadline = Deadline(timeout_ms)
        with self._admission.entered(0):
            with self._writing(self._shards, deadline):
                for shard in self._shards:
                    shard.drain(deadline)
                works = self._repeated(request_id)
                if works is None:
                    view = self.read_view()
                    works = list(self._change_works(view, evaluate(view), request_id))
                    self._log(works)
            return self._outcome(works, deadline)

    def truncate(self, *, request_id: bytes | None = None) -> WriteOutcome:
        """Delete every row; the outcome's `deleted` is how many there were."""
        self._check_usable()
        deadline = Deadline(None)
        with self._writing(self._shards, deadline):
            for shard in self._shards:
                shard.drain(deadline)
            works = self._repeated(request_id)
            if works is None:
                works = [self._truncate_work(shard, request_id) for shard in self._shards]
                self._log(works)
            return self._outcome(works, deadline)

    # ---- Schema ----------------------------------------------------------------------------

    def check_schema(self, schema: TableSchema) -> None:
        """Whether the rows there are can take this schema; call it before metadata records it.

        Raises:
            InvalidValue: an added NOT NULL column without a default, while there are rows.
            Unsupported: an added column whose default is no literal, while there are rows.
        """
        self._check_usable()
        if not any(shard.read_view().span for shard in self._shards):
            return
        for column in self._added(schema):
            if literal_default(column) is None and column.not_null:
                raise InvalidValue(
                    f"Column {column.name} is NOT NULL and has no default, but the table has rows. "
                    "Give it a DEFAULT, or add it without NOT NULL and fill it.",
                    code="not_null_violation", sqlstate="23502", column=column.name,
                )  # fmt: skip

    def apply_schema(self, definition: TableDef) -> None:
        """Order a new definition against the rows: durable in every shard's log when this returns.

        Idempotent. `check_schema` must have passed.
        """
        self._check_usable()
        deadline = Deadline(None)
        with self._writing(self._shards, deadline):
            works = [
                _Work(shard, self._schema_statement(shard, definition.schema), {})
                for shard in self._shards
                if shard.schema_version < definition.schema.version
            ]
            for work in works:
                work.shard.drain(deadline)
            self._log(works)
            self._outcome(works, deadline)
            self._definition = definition

    def _added(self, schema: TableSchema) -> list[Column]:
        known = {column.number for column in self._definition.schema.columns}
        return [column for column in schema.columns if column.number not in known]

    def _schema_statement(self, shard: Shard, schema: TableSchema) -> Statement:
        """The SCHEMA record of one shard, with the values of columns that its rows lack."""
        view = shard.read_view()
        stored = {
            c.number for c in schema.columns if all(s.data.has(c.number) for s in view.segments)
        }
        fills = {
            column.number: value
            for column in schema.columns
            if column.number not in stored and column.number not in view.fills
            if (value := literal_default(column)) is not None
        }
        return Statement(RecordKind.SCHEMA, Counts(), schema=SchemaChange(schema.version, fills))

    def _check_schema_is(self, schema: TableSchema) -> None:
        if self._definition.schema is not schema and self._definition.schema != schema:
            raise Conflict(
                f"The schema of table {self._definition.name} changed while the rows were checked; "
                "send them again.",
                code="schema_changed", sqlstate="40001",
            )  # fmt: skip

    # ---- Statements ------------------------------------------------------------------------

    def _split(
        self, rows: Rows, schema: TableSchema
    ) -> Iterator[tuple[int, NDArray[np.int64] | None, Rows]]:
        """Rows by shard, with their offsets; one shard gets them as they are."""
        if len(self._shards) == 1:
            yield 0, None, rows
            return
        shards = shard_of(rows.key(schema.key_number), len(self._shards))
        for shard in np.unique(shards).tolist():
            offsets = np.flatnonzero(shards == shard)
            yield shard, offsets, rows.take(offsets)

    def _insert_work(
        self, shard: Shard, rows: Rows, offsets: NDArray[np.int64] | None,
        on_conflict: OnConflict, request_id: bytes | None,
    ) -> _Work:  # fmt: skip
        statement = Statement(RecordKind.BATCH, Counts(), request_id or NO_REQUEST)
        work = _Work(shard, statement, {}, offsets, ended=shard.seen(request_id))
        if work.ended is not None:
            return work
        keys = keys_of(rows.key(self._definition.schema.key_number))
        plan = shard.plan_insert(keys, on_conflict, offsets)
        if plan.keep is not None:
            rows, keys = rows.take(plan.keep), [keys[row] for row in plan.keep.tolist()]
        statement.counts = Counts(plan.inserted, plan.updated, 0, _pack(plan.skipped))
        if rows.count:
            statement.puts.append(rows)
        work.keys = dict.fromkeys(keys, True)
        return work

    def _change_works(
        self, view: TableView, change: Change, request_id: bytes | None
    ) -> Iterator[_Work]:
        """A change by shard. Its counts go to the first shard that takes part."""
        deletes = self._deleted_keys(view, change.delete_rows)
        puts: Mapping[int, Rows] = {}
        if change.put is not None and change.put.num_rows:
            puts = self._put_rows(view.schema, change.put)
        counts = Counts(change.inserted, change.updated, change.deleted)
        for shard in self._shards:
            if request_id is None and shard.number not in deletes and shard.number not in puts:
                continue
            work = _Work(shard, Statement(RecordKind.BATCH, counts, request_id or NO_REQUEST), {})
            counts = Counts()
            if (keys := deletes.get(shard.number)) is not None:
                work.statement.deletes.append(keys)
                work.keys |= dict.fromkeys(keys, False)
            if (rows := puts.get(shard.number)) is not None:
                work.statement.puts.append(rows)
                work.keys |= dict.fromkeys(keys_of(rows.key(view.schema.key_number)), True)
            work.ended = shard.seen(request_id)
            yield work

    def _deleted_keys(self, view: TableView, rows: NDArray[np.int64]) -> dict[int, list[Key]]:
        shards = rows >> SHARD_SHIFT
        key = view.schema.key.name
        return {
            int(shard): keys_of(view.take([key], rows[shards == shard]).column(0))
            for shard in np.unique(shards)
        }

    def _put_rows(self, schema: TableSchema, put: pa.Table) -> dict[int, Rows]:
        rows = Rows.of(schema, put)
        keys = keys_of(rows.key(schema.key_number))
        if len(set(keys)) < len(keys):
            seen: set[Key] = set()
            for row, key in enumerate(keys):
                if key in seen:
                    raise duplicate_key(key, row, twice=True)
                seen.add(key)
        return {shard: part for shard, _, part in self._split(rows, schema)}

    def _truncate_work(self, shard: Shard, request_id: bytes | None) -> _Work:
        counts = Counts(deleted=shard.read_view().live)
        statement = Statement(RecordKind.TRUNCATE, counts, request_id or NO_REQUEST)
        return _Work(shard, statement, {}, ended=shard.seen(request_id))

    def _repeated(self, request_id: bytes | None) -> list[_Work] | None:
        """The ends of a write that every shard has seen."""
        if request_id is None:
            return None
        works = [
            _Work(shard, Statement(RecordKind.BATCH, Counts()), {}, ended=shard.seen(request_id))
            for shard in self._shards
        ]
        return works if all(work.ended is not None for work in works) else None

    # ---- Logging and waiting ---------------------------------------------------------------

    @contextmanager
    def _writing(self, shards: Sequence[Shard], deadline: Deadline) -> Iterator[None]:
        with ExitStack() as locks:
            for shard in shards:
                locks.enter_context(shard.writing(deadline))
            yield

    def _log(self, works: Sequence[_Work]) -> None:
        """Log on every shard that hasn't done it yet. Needs the locks."""
        todo = [work for work in works if work.ended is None and _has_effect(work.statement)]
        for work in todo:
            work.payloads = work.shard.encode(
                work.statement
            )  # may refuse: before anything is logged
        for place, work in enumerate(todo):
            try:
                work.ended = work.shard.log(work.statement, list(work.payloads), work.keys)
            except StorageFull as error:
                error.definite = place == 0  # type: ignore[misc]
                raise

    def _outcome(self, works: Sequence[_Work], deadline: Deadline) -> WriteOutcome:
        """Wait for every shard, then sum up."""
        logged = [work for work in works if isinstance(work.ended, Pending)]
        for work in logged:
            assert isinstance(work.ended, Pending)
            work.shard.finish(work.ended, deadline)
        self._maintain(work.shard for work in logged)
        ends = [(work, _end(work)) for work in works]
        counts = [end.counts for _, end in ends]
        done = [work for work in works if work.ended is not None]
        return WriteOutcome(
            sum(c.inserted for c in counts),
            sum(c.updated for c in counts),
            sum(c.deleted for c in counts),
            tuple(ShardPosition(w.shard.number, end.epoch, end.lsn) for w, end in ends),
            skipped=_skipped(ends),
            repeated=bool(done) and all(_is_repeat(work) for work in done),
        )

    # ---- Maintenance -----------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write every shard's state to files and let the log behind it go.

        Raises:
            StorageFull: the last checkpoint still stands; nothing is lost.
        """
        self._check_usable()
        for shard in self._shards:
            shard.checkpoint()

    def _maintain(self, shards: Iterator[Shard]) -> None:
        """Have a checkpoint made in the background where one is due."""
        if self._closed or not any(self._is_due(shard) for shard in shards):
            return
        if self._scheduled.acquire(blocking=False):
            self._context.background.submit(self._background_checkpoint)

    def _is_due(self, shard: Shard) -> bool:
        return shard.wants_checkpoint and shard.unflushed_bytes >= self._retry_at_bytes

    def _background_checkpoint(self) -> None:
        try:
            for shard in self._shards:
                if not self._closed and shard.wants_checkpoint:
                    shard.checkpoint()
            self._retry_at_bytes = 0
        except StorageFull as error:
            logger.warning("no checkpoint of table %s: %s", self._definition.name, error.detail)
            behind = max(shard.unflushed_bytes for shard in self._shards)
            self._retry_at_bytes = behind + _RETRY_CHECKPOINT_BYTES
        except Exception as error:
            self._context.on_fatal(f"checkpoint of table {self._definition.name}: {error!r}")
            raise
        finally:
            self._scheduled.release()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise Unavailable(f"Table {self._definition.name} is closed: the node is stopping.")

    def check_invariants(self) -> None:
        """Raise AssertionError where state contradicts itself."""
        for shard in self._shards:
            shard.check_invariants()


def _folder(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:04d}"


def _key_of(definition: TableDef) -> tuple[int, pa.DataType]:
    key = definition.schema.key
    return key.number, key.type.storage


def _has_effect(statement: Statement) -> bool:
    """Whether the statement must be logged: it changes something, or its outcome is to be remembered."""
    return bool(
        statement.kind != RecordKind.BATCH
        or statement.deletes
        or statement.puts
        or statement.request_id != NO_REQUEST
    )


def _end(work: _Work) -> Recorded:
    """How the work ended on its shard."""
    if isinstance(work.ended, Recorded):
        return work.ended
    if isinstance(work.ended, Pending):
        statement = work.ended.statement
        return Recorded(statement.lsn, statement.epoch, statement.counts)
    view = work.shard.read_view()
    return Recorded(view.lsn, view.epoch, work.statement.counts)


def _is_repeat(work: _Work) -> bool:
    return not (isinstance(work.ended, Pending) and work.ended.statement is work.statement)


def _pack(offsets: NDArray[np.int64] | None) -> bytes | None:
    return None if offsets is None or not offsets.size else zlib.compress(offsets.tobytes(), 1)


def _skipped(ends: Sequence[tuple[_Work, Recorded]]) -> NDArray[np.int64] | None:
    """Positions in the given rows that were left out, ascending; None if none was."""
    found = []
    for work, end in ends:
        if end.counts.skipped is not None:
            mine = np.frombuffer(zlib.decompress(end.counts.skipped), np.int64)
            found.append(mine if work.offsets is None else work.offsets[mine])
    return np.sort(np.concatenate(found)) if found else None

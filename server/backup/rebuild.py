"""A backup's shards brought back to life in a scratch directory, to be read from.

    files of the checkpoint -> state at `base_lsn` -> records of the log, one by one -> state

The same code that recovers a shard after a crash does both steps, so that a restored row is what a
restarted node would have shown. Where the log is long, the state is written to files now and then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearql.engine.context import EngineContext
from nearql.engine.errors import Corruption
from nearql.engine.index.catalog import TableIndexes
from nearql.engine.schema import Column, TableDef, TableSchema
from nearql.engine.segment.damage import damage_of
from nearql.engine.settings import MIB
from nearql.engine.shard.checkpoint import CheckpointStore, Image
from nearql.engine.shard.contents import content_hashes
from nearql.engine.shard.records import StatementReader
from nearql.engine.shard.state import ShardState, ShardView
from nearql.engine.storage.files import write_new
from nearql.engine.storage.manifest import unpack_manifest
from nearql.engine.storage.wal_raw import RawRecord, unpack_records
from nearql.engine.storage.wal_scan import as_record
from nearql.engine.text import TextIndexes
from nearql.engine.types import ROW_COLUMN
from nearql.engine.view import TableView
from nearql.server.backup.manifest import Blob, ShardBackup
from nearql.server.backup.repository import Repository, damaged

_SPILL_BYTES = 256 * MIB  # of replayed records that may be in memory
_BATCH_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Stop:
    """Where to stop: after the last statement up to this LSN, and before the first one that its
    primary wrote later than this clock. None = wherever the records end.
    """

    lsn: int | None = None
    at_ms: int | None = None

    def ends_before(self, record: RawRecord) -> bool:
        """Whether this record is beyond it."""
        if self.lsn is not None and record.lsn > self.lsn:
            return True
        return self.at_ms is not None and record.header.timestamp_ms > self.at_ms


def pieces_of(
    repository: Repository, shard: ShardBackup, between: Callable[[], None] = lambda: None
) -> Iterator[RawRecord]:
    """The log that a backup holds of a shard. between: called now and then; may raise."""
    for piece in shard.log:
        between()
        data = repository.read_whole(Blob(piece.sha256, piece.size))
        yield from unpack_records(data)


def empty_state(number: int, schema: TableSchema, context: EngineContext) -> ShardState:
    """Of a shard whose whole log is there."""
    return ShardState(number, schema.key_number, context.settings)


def fresh(
    number: int, schema: TableSchema, directory: Path, context: EngineContext
) -> tuple[ShardState, CheckpointStore]:
    """A shard whose log begins with its first record, and room for what becomes of it."""
    context.fs.make_directory(directory)
    store = CheckpointStore(context.fs, directory, context.settings)
    return empty_state(number, schema, context), store


def load(
    repository: Repository, shard: ShardBackup, schema: TableSchema, directory: Path,
    context: EngineContext, *, between: Callable[[], None] = lambda: None,
) -> tuple[ShardState, CheckpointStore]:  # fmt: skip
    """The state of a backup's checkpoint, its files fetched into a directory and verified.

    between: called after every few bytes; may raise.

    Raises:
        Corruption: code `backup_damaged`. StorageFull: no room for them.
    """
    fs = context.fs
    fs.make_directory(directory)
    for file in shard.files:
        parts = repository.read(Blob(file.sha256, file.size))
        write_new(fs, directory / file.name, _watched(parts, between))
    store = CheckpointStore(fs, directory, context.settings)
    state = empty_state(shard.number, schema, context)
    packed = repository.read_whole(shard.state)
    manifest = unpack_manifest(msgpack.unpackb(packed, strict_map_key=False))
    if sorted(manifest.files()) != sorted(file.name for file in shard.files):
        raise damaged(f"shard {shard.number} has not the files that its checkpoint names")
    store.load(manifest, state)
    for segment in state.closed:
        damage = damage_of(segment.data)
        if damage is not None:
            raise damage.error()
    return state, store


def _watched(parts: Iterator[bytes], between: Callable[[], None]) -> Iterator[bytes]:
    for part in parts:
        between()
        yield part


def replay(
    state: ShardState, store: CheckpointStore, records: Iterator[RawRecord], stop: Stop
) -> int:
    """Apply the statements that are whole before the stop; the LSN of the last record read.

    Raises:
        Corruption: code `backup_damaged`: records are missing between two.
    """
    reader, nbytes, last = StatementReader(), 0, state.applied_lsn
    for record in records:
        if record.lsn <= last:
            continue  # the archive begins before the backup ends
        if record.lsn != last + 1:
            raise damaged(
                f"the log of shard {state.shard} has nothing between LSN {last} and {record.lsn}"
            )
        if stop.ends_before(record):
            break
        last = record.lsn
        statement = reader.feed(as_record(record.header, memoryview(record.payload)))
        if statement is not None:
            state.apply(statement)
        nbytes += record.nbytes
        if nbytes > _SPILL_BYTES:
            _spill(state, store)
            nbytes = 0
    return last


def _spill(state: ShardState, store: CheckpointStore) -> None:
    image = Image.of(state, hashlib.sha256(b"scratch").digest()[:16], {})
    store.write(image).into(state, None)
    store.remove_orphans()


class Rebuilt:
    """A table's rows, all shards together. definition: with the schema that the rows have."""

    def __init__(
        self, definition: TableDef, states: Sequence[ShardState], context: EngineContext
    ) -> None:
        self.definition = definition
        self._views = tuple(state.view() for state in states)
        words = context.settings.text_words
        self._view = TableView(
            definition.schema, self._views, context,
            TableIndexes(definition.name, (), context), TextIndexes(context.text_memory, words),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Live ones."""
        return self._view.row_count

    @property
    def nbytes(self) -> int:
        """Of its segments, roughly."""
        return sum(segment.data.nbytes for view in self._views for segment in view.segments)

    def batches(self) -> Iterator[pa.Table]:
        """All rows, complete and in storage types, some MiB at a time."""
        columns = self.definition.schema.columns
        numbers = self._view.scan([]).column(ROW_COLUMN).to_numpy()
        each = max(1, self.nbytes // max(1, len(numbers)))
        step = max(1, _BATCH_BYTES // each)
        for first in range(0, len(numbers), step):
            taken = self._view.take([c.name for c in columns], numbers[first : first + step])
            yield pa.Table.from_arrays(
                [_stored(column, taken.column(column.name)) for column in columns],
                schema=pa.schema([pa.field(c.name, c.type.storage) for c in columns]),
            )

    def highest_number(self) -> int:
        """The largest identity number in any row; 0 where there is none."""
        names = [column.name for column in self.definition.schema.columns if column.identity]
        if not names or not self.rows:
            return 0
        found = self._view.scan(names)
        return max(pc.max(found.column(name)).as_py() or 0 for name in names)

    def hashes(self) -> tuple[int, tuple[int, ...]]:
        """(rows, 256 sums of their hashes): equal for equal contents."""
        return hashes_of(self._views, self.definition.schema)


def hashes_of(views: Sequence[ShardView], schema: TableSchema) -> tuple[int, tuple[int, ...]]:
    """(rows, 256 sums of their hashes) of a table's shards together.

    Raises:
        Corruption: a segment is damaged.
    """
    columns = [column.number for column in schema.columns]
    found = [content_hashes(view, view.lsn, schema.key_number, columns) for view in views]
    sums = [sum(each) % (1 << 128) for each in zip(*(one.buckets for one in found), strict=True)]
    return sum(one.rows for one in found), tuple(sums)


def _stored(column: Column, values: pa.ChunkedArray) -> pa.Array:
    """As the rows of an insert are given: HALFVEC is read as float32."""
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not column.type.is_vector:
        return array.cast(column.type.storage) if array.type != column.type.storage else array
    if column.type.element == "float32":
        return array
    flat = array.values.slice(
        array.offset * array.type.list_size, len(array) * array.type.list_size
    )
    halves = pa.array(flat.to_numpy(zero_copy_only=False).astype(np.float16))
    mask = array.is_null() if array.null_count else None
    return pa.FixedSizeListArray.from_arrays(halves, type=column.type.storage, mask=mask)


def check_reached(state: ShardState, shard: ShardBackup) -> None:
    """A backup's own end must be reached by what it holds.

    Raises:
        Corruption: code `backup_damaged`.
    """
    if state.applied_lsn != shard.lsn:
        raise Corruption(
            f"The backup is damaged: shard {shard.number} ends at LSN {state.applied_lsn}, not at "
            f"{shard.lsn}. Nothing was restored from it.",
            code="backup_damaged",
        )

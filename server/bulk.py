"""Bulk loads: a whole, valid body becomes batches, and the batches rows, in order.

    body -> decode and check everything -> insert_rows, batch by batch -> counts

Nothing is stored before the last byte was checked. Then each batch is durable before the next
begins and atomic per shard. Rows that do not fit (a wrong value, a key that exists) are left out
and told one by one; an error of a whole batch ends the load and tells what was stored before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nearql.engine.errors import NearQLError, StatementTimeout
from nearql.engine.request_id import part_of
from nearql.engine.schema import TableDef
from nearql.engine.types import OnConflict, ShardPosition
from nearql.query.watchdog import Stop
from nearql.server.body import BodyLimit
from nearql.server.decoding.batches import Batch, Source
from nearql.server.decoding.formats import Decode
from nearql.server.ports import Stores
from nearql.server.request import fingerprint
from nearql.server.spool import Spool, SpoolMemory

FAILED_SHOWN = 1000  # rows told one by one in an answer; `failed_count` counts all


@dataclass(frozen=True, slots=True)
class Load:
    """One bulk request. request_id: 16 bytes that stand for the client's, or None."""

    table: TableDef
    decode: Decode
    on_conflict: OnConflict
    settings: dict[str, Any]
    request_id: bytes | None
    limit: BodyLimit
    stop: Stop = field(default_factory=Stop)  # asked: nobody waits for the answer any more


@dataclass
class Report:
    """What a load did so far. Invariant: rows >= inserted + updated + failed_count."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    failed_count: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[int, ShardPosition] = field(default_factory=dict)  # of each shard, the last one's

    def add(self, batch: Batch, outcome: Any) -> None:
        """Count a batch's outcome; its rows are numbered from the start of the body."""
        self.rows += batch.rows.num_rows
        self.inserted += outcome.inserted
        self.updated += outcome.updated
        self.failed_count += len(outcome.failed)
        self.ends |= {at.shard: at for at in outcome.positions}  # a later batch ends further
        for row in outcome.failed[: FAILED_SHOWN - len(self.failed)]:
            told = {"row": batch.first + row.row, "code": row.code, "detail": row.detail}
            self.failed.append(told)

    def answer(self) -> dict[str, Any]:
        """The body of the answer; `failed_count` where not every failed row is listed."""
        members = {
            "rows": self.rows,
            "inserted": self.inserted,
            "updated": self.updated,
            "failed": self.failed,
        }
        hidden = self.failed_count > len(self.failed)
        return {**members, "failed_count": self.failed_count} if hidden else members


def load(session: Stores, load: Load, body: pa.Buffer, kept: Kept) -> Report:
    """Decode everything, then store it.

    Raises:
        NearQLError: nothing was stored; or, with `rows_stored` in its extra members, the batches
            before the failing one were.
    """
    source = Source(body, load.table.schema, load.limit.expanded(body.size))
    batches = kept.all(load.decode(source))
    report = Report()
    content = fingerprint(body) if load.request_id else b""
    for number, batch in enumerate(batches):
        request_id = batch_id(load.request_id, number, content)
        try:
            if load.stop.asked:
                raise StatementTimeout("The client went away; the rest was not stored.")
            outcome = session.insert_rows(
                load.table.name, batch.rows, load.on_conflict,
                settings=load.settings, request_id=request_id,
            )  # fmt: skip
        except NearQLError as error:
            raise _partly(error, report, batch) from None
        report.add(batch, outcome)
    return report


def batch_id(request_id: bytes | None, number: int, content: bytes) -> bytes | None:
    """The id of one batch of a request: the same body sent again gives the same ids. content: tells
    bodies apart.
    """
    if request_id is None:
        return None
    return part_of(request_id, number, content)


def _partly(error: NearQLError, report: Report, batch: Batch) -> NearQLError:
    """The error with what was stored before it, and its row counted from the start of the body."""
    if isinstance(error.extra.get("row"), int):
        error.extra["row"] += batch.first
    if report.inserted or report.updated:
        error.extra["rows_stored"] = report.inserted + report.updated
        error.extra["first_row_not_stored"] = batch.first
    return error


class Kept:
    """Decoded batches that wait for the last one to be checked: in memory, else in a file.

    Batches that are views of the body itself cost nothing and are not kept again.
    """

    def __init__(self, memory: SpoolMemory, spool: Spool, body: pa.Buffer) -> None:
        self._memory = memory
        self._spool = spool
        self._body = body
        self._taken = 0

    def all(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Every batch, once all of them were decoded without an error."""
        places = [self._keep(batch) for batch in batches]
        file = self._spool.buffer() if self._spool.in_file else None
        return (place if isinstance(place, Batch) else _read(place, file) for place in places)

    def _keep(self, batch: Batch) -> Batch | tuple[int, int, int]:
        size = batch.rows.nbytes
        if _is_view(batch.rows, self._body):
            return batch
        if self._memory.take(size):
            self._taken += size
            return batch
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.rows.schema) as writer:
            writer.write_table(batch.rows)
        written = sink.getvalue()
        start = self._spool.size
        self._spool.write(memoryview(written))
        return batch.first, start, written.size

    def close(self) -> None:
        """Give the memory back."""
        self._memory.give(self._taken)
        self._taken = 0


def _is_view(rows: pa.Table, body: pa.Buffer) -> bool:
    """Whether the rows' first data buffer lies inside the body."""
    for column in rows.columns:
        for chunk in column.chunks[:1]:
            found = [buffer for buffer in chunk.buffers() if buffer is not None]
            return bool(found) and body.address <= found[-1].address < body.address + body.size
    return True


def _read(place: tuple[int, int, int], file: pa.Buffer | None) -> Batch:
    assert file is not None
    first, start, length = place
    reader = pa.ipc.open_stream(pa.BufferReader(file.slice(start, length)))
    return Batch(first, reader.read_all())

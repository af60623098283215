"""A large answer as Arrow batches, one at a time: what `db.stream(...)` gives.

    with db.stream("SELECT id, vec FROM docs") as batches:
        for batch in batches:                       # pyarrow.RecordBatch, a few MiB each
            ...

    async with db.stream("SELECT id, vec FROM docs") as batches:
        async for batch in batches:
            ...

The client holds one batch and what is being received of the next. The node sends no faster than the
batches are taken, because the connection's own flow control holds it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from nearql.client.result import Column, columns_of
from nearql.client.transport import Answer, Call, Transport

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536  # of a whole answer that is handed out in pieces


class Batches(Protocol):
    """Where the batches come from; `read` and `aread` give None after the last."""

    @property
    def schema(self) -> pa.Schema:
        """The columns, with their SQL types in the fields' metadata."""

    def read(self) -> pa.RecordBatch | None:
        """The next batch, blocking."""

    async def aread(self) -> pa.RecordBatch | None:
        """`read` for asyncio."""

    def close(self) -> None:
        """Let go of the connection; again does nothing."""


@runtime_checkable
class StreamingTransport(Protocol):
    """A transport whose answers can be read while they arrive: the third value is `Batches`."""

    def stream(self, call: Call) -> tuple[int, dict[str, Any], Batches | None]:
        """Do a call; an error is an answer without batches."""

    async def astream(self, call: Call) -> tuple[int, dict[str, Any], Batches | None]:
        """`stream` for asyncio."""


class TableBatches:
    """Batches of a table that is there, as the engine in this process answers."""

    def __init__(self, table: pa.Table) -> None:
        self.schema = table.schema
        self._batches: Iterator[pa.RecordBatch] = iter(table.to_batches(BATCH_ROWS))

    def read(self) -> pa.RecordBatch | None:
        """The next batch."""
        return next(self._batches, None)

    async def aread(self) -> pa.RecordBatch | None:
        """The next batch."""
        return self.read()

    def close(self) -> None:
        """Forget the batches."""
        self._batches = iter(())


def stream(transport: Transport, call: Call) -> tuple[int, dict[str, Any], Batches | None]:
    """The call's answer as batches, whatever the transport can do."""
    if isinstance(transport, StreamingTransport):
        return transport.stream(call)
    return _whole(transport.call(call))


async def astream(transport: Transport, call: Call) -> tuple[int, dict[str, Any], Batches | None]:
    """`stream` for asyncio."""
    if isinstance(transport, StreamingTransport):
        return await transport.astream(call)
    return _whole(await transport.acall(call))


def _whole(answer: Answer) -> tuple[int, dict[str, Any], Batches | None]:
    status, body, table = answer
    return status, body, None if table is None else TableBatches(table)


class BatchStream:
    """Batches in the order of the answer, read once. `with` closes it, and so does its last batch.

    Attributes:
        columns: list of `Column`, which are strings with a `type`.
        row_count: rows of the whole answer.
        stats: how it was done; notices: what the server wants to be known.
    """

    def __init__(self, batches: Batches, body: Mapping[str, Any]) -> None:
        self._batches = batches
        self.columns: list[Column] = columns_of(batches.schema)
        self.row_count: int = body.get("row_count", 0)
        self.stats: dict[str, Any] = body.get("stats", {})
        self.notices: tuple[str, ...] = tuple(body.get("notices", ()))

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every batch."""
        return self._batches.schema

    def reader(self) -> pa.RecordBatchReader:
        """The same as a pyarrow reader, for what takes one: Parquet writers, polars, DuckDB.

        Only on a blocking connection. Read it before the `with` ends.
        """
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def close(self) -> None:
        """Stop; what was not read yet is not received any more."""
        self._batches.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch = self._batches.read()
        if batch is None:
            raise StopIteration
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        batch = await self._batches.aread()
        if batch is None:
            raise StopAsyncIteration
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

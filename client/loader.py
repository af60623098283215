"""Rows for `insert`, whatever they come as, cut into Arrow batches of a size in bytes.

A batch is the unit of a request: answered with counts and with the rows that failed, and sent again
under the same request id when its answer is lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

from nearql.client.errors import UsageError
from nearql.client.values import from_values, joined

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 8 << 20  # what one request carries; measured best for vectors of 384 dimensions
GATHERED_ROWS = 4_096  # rows of a generator that become Arrow data together


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that was not stored. row: its position in the inserted data, from 0."""

    row: int
    code: str
    detail: str


@dataclass
class InsertReport:
    """What an insert did: rows = inserted + updated + failed_count.

    failed: the refused rows; a node lists at most 1,000 of a batch, `failed_count` counts all.
    """

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    failed: list[FailedRow] = field(default_factory=list)
    failed_count: int = 0
    batches: int = 0
    seconds: float = 0.0

    def add(self, batch_rows: int, body: Mapping[str, Any]) -> None:
        """Count the answer for the next batch."""
        self.inserted += body["inserted"]
        self.updated += body["updated"]
        self.failed += [
            FailedRow(self.rows + each["row"], each["code"], each["detail"])
            for each in body["failed"]
        ]
        self.failed_count += failed_count(body)
        self.rows += batch_rows
        self.batches += 1

    @property
    def rows_per_s(self) -> float:
        """Rows sent per second."""
        return self.rows / self.seconds if self.seconds else 0.0


def failed_count(body: Mapping[str, Any]) -> int:
    """How many rows of a batch were refused, by the answer for it."""
    return int(body.get("failed_count", len(body["failed"])))


@dataclass(frozen=True, slots=True)
class Source:
    """Data to insert. tables: Arrow tables in order; rows: how many in all, None if not known."""

    tables: Iterable[pa.Table]
    rows: int | None

    def batches(self, batch_bytes: int) -> Iterator[pa.Table]:
        """Tables of about `batch_bytes` bytes each, in order, none empty."""
        for table in self.tables:
            yield from cut(table, batch_bytes)


def source_of(data: Any) -> Source:
    """The rows in `data`.

    Args:
        data: a pyarrow Table, RecordBatch or RecordBatchReader; a pandas or polars DataFrame (or
            anything with `__arrow_c_stream__`); a dict of columns (lists, NumPy arrays, of which
            two-dimensional ones are vectors); an iterable of dicts, dataclasses or Arrow batches.

    Raises:
        UsageError: data of another kind, or columns of different lengths.
    """
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return Source([data], data.num_rows)
    if isinstance(data, pa.RecordBatch):
        return Source([pa.Table.from_batches([data])], data.num_rows)
    if isinstance(data, pa.RecordBatchReader):
        return Source((pa.Table.from_batches([batch]) for batch in data), None)
    if isinstance(data, Mapping):
        return _whole(from_columns(data))
    if _is_pandas(data):
        return _whole(_from_pandas(data))
    is_series = type(data).__name__ == "Series"  # one column, which can't tell rows' names
    if hasattr(data, "__arrow_c_stream__") and not is_series:
        return _whole(pa.table(data))
    if isinstance(data, Iterable) and not isinstance(data, str | bytes) and not is_series:
        return Source(_gathered(data), len(data) if isinstance(data, list | tuple) else None)
    raise UsageError(
        f"insert can't read data of type {type(data).__name__}. Give Arrow, pandas or polars data, "
        "a dict of columns, or dicts, one per row."
    )


def _whole(table: pa.Table) -> Source:
    return Source([table], table.num_rows)


def _is_pandas(data: Any) -> bool:
    return type(data).__module__.startswith("pandas") and hasattr(data, "columns")


def from_columns(columns: Mapping[str, Any], first: int = 0) -> pa.Table:
    """A table from columns; two-dimensional arrays become fixed-size lists, without a copy.

    first: the position of the first row in all the data, for messages.
    """
    import pyarrow as pa

    arrays = {str(name): _column(name, values, first) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"The columns have different lengths: {lengths}.")
    return pa.table(arrays)


def _column(name: str, values: Any, first: int) -> Any:
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if hasattr(values, "__array__"):
        return _from_numpy(name, values if np.ma.isMA(values) else np.asarray(values))
    if isinstance(values, list | tuple):
        return from_values(name, values, first)
    raise UsageError(
        f"Column {name!r} is of type {type(values).__name__}; give a list or an array."
    )


def _from_pandas(frame: Any) -> pa.Table:
    """A frame's columns; those of Python's objects like lists, where None and NaN are NULL."""
    import pyarrow as pa

    if not frame.columns.is_unique:
        raise UsageError("The frame has a column's name twice; rename one of them.")
    return pa.table({str(name): _from_series(str(name), frame[name]) for name in frame.columns})


def _from_series(name: str, series: Any) -> Any:
    import pyarrow as pa

    if series.dtype == object:
        return from_values(name, series.tolist(), missing_nan=True)
    return _arrow(lambda: pa.array(series, from_pandas=True), name)


def _from_numpy(name: str, values: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    if values.ndim == 2 and values.shape[1]:
        if np.ma.is_masked(values):
            raise UsageError(f"Column {name!r} hides elements of vectors, which can't be NULL.")
        plain = np.ascontiguousarray(np.ma.getdata(values)).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(
            _arrow(lambda: pa.array(plain), name), values.shape[1]
        )
    if values.ndim != 1:
        raise UsageError(f"Column {name!r} has the shape {values.shape}; give (n,) or (n, d).")
    if values.dtype == object:
        return from_values(name, values.tolist())
    hidden = np.ma.getmaskarray(values) if np.ma.isMA(values) else None
    return _arrow(lambda: pa.array(np.ma.getdata(values), mask=hidden), name)


def _arrow(make: Callable[[], Any], name: object) -> Any:
    import pyarrow as pa

    try:
        return make()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"Column {name!r} can't be sent: {error}.") from error


def _gathered(items: Iterable[Any]) -> Iterator[pa.Table]:
    """Tables from an iterable of Arrow data as it is, and of rows in groups."""
    import pyarrow as pa

    iterator, position = iter(items), 0
    while group := list(itertools.islice(iterator, 1)):
        if isinstance(group[0], pa.Table):
            yield group[0]
        elif isinstance(group[0], pa.RecordBatch):
            yield pa.Table.from_batches(group)
        else:
            group += itertools.islice(iterator, GATHERED_ROWS - 1)
            yield from_rows(group, position)
        position += len(group)


def from_rows(rows: list[Any], first: int = 0) -> pa.Table:
    """A table from dicts or dataclasses, its columns those of all rows; a missing value is NULL.

    first: the position of rows[0] in all the data, for messages.
    """
    records = [_record(row, first + i) for i, row in enumerate(rows)]
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return from_columns(columns, first)


def _record(row: Any, position: int) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if is_dataclass(row) and not isinstance(row, type):
        return {name: getattr(row, name) for name in row.__dataclass_fields__}
    raise UsageError(
        f"Row {position} is of type {type(row).__name__}; every row is a dict of column names and "
        "values."
    )


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows, the last one shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= rows:
            head = table.slice(0, rows - count)
            yield joined([*waiting, head])
            table, waiting, count = table.slice(rows - count), [], 0
        if table.num_rows:
            waiting.append(table)
            count += table.num_rows
    if waiting:
        yield joined(waiting)


def cut(table: pa.Table, batch_bytes: int) -> Iterator[pa.Table]:
    """Slices of about `batch_bytes` bytes, at least one row each."""
    if not table.num_rows:
        return
    row_bytes = max(1, table.nbytes // table.num_rows)
    step = max(1, batch_bytes // row_bytes)
    for start in range(0, table.num_rows, step):
        yield table.slice(start, step)

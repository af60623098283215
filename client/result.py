"""The answer of a statement: rows to fetch, convert or look at.

hits = db.sql("SELECT id, title FROM docs LIMIT 2")
hits.fetchone()                  (1, 'one'), then (2, 'two'), then None
hits.fetchall()                  what is left of the rows, as tuples
hits.arrow(), hits.df(), hits.polars(), hits.numpy()      all rows, always
hits.explain()                   how the statement is run
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nearql.client.errors import UsageError
from nearql.client.format import ROWS_SHOWN, html_table, text_table
from nearql.client.parameters import interval_text

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

Row = tuple[Any, ...]
TYPE_KEY = b"nearql.type"


class Column(str):
    """A column's name, which also knows its SQL type: `column.name`, `column.type`."""

    __slots__ = ("type",)
    type: str

    def __new__(cls, name: str, type: str) -> Column:
        column = super().__new__(cls, name)
        column.type = type
        return column

    @property
    def name(self) -> str:
        """The name as plain text."""
        return str(self)


class Result:
    """Rows in the order of the answer.

    Attributes:
        columns: list of `Column`, which are strings with a `type`.
        row_count: rows returned, or affected by a write.
        stats: how it was done: elapsed_ms, node, strategy, and `write` for a write.
        notices: what the server wants to be known, as text.
    """

    def __init__(
        self,
        table: pa.Table,
        body: Mapping[str, Any],
        explain: Callable[[bool], Any] | None = None,
    ) -> None:
        self._table = table
        self._explain = explain
        self.columns = columns_of(table.schema)
        self.row_count: int = body.get("row_count", table.num_rows)
        self.stats: dict[str, Any] = body.get("stats", {})
        self.notices: tuple[str, ...] = tuple(body.get("notices", ()))
        self._rows: list[Row] | None = None
        self._position = 0

    def fetchone(self) -> Row | None:
        """The next row, or None after the last."""
        return next(self, None)

    def fetchmany(self, size: int = 100) -> list[Row]:
        """Up to `size` next rows."""
        rows = self._all()[self._position : self._position + max(size, 0)]
        self._position += len(rows)
        return rows

    def fetchall(self) -> list[Row]:
        """All rows that were not fetched yet."""
        return self.fetchmany(self._table.num_rows)

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        rows = self._all()
        if self._position >= len(rows):
            raise StopIteration
        self._position += 1
        return rows[self._position - 1]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __bool__(self) -> bool:
        return True  # an answer without rows is still an answer

    def arrow(self) -> pa.Table:
        """All rows as a pyarrow table; a vector is a fixed-size list of float32."""
        return self._table

    def df(self) -> pd.DataFrame:
        """All rows as a pandas DataFrame; a vector is a NumPy array per row.

        Raises:
            UsageError: pandas is not installed; the message names the extra.
        """
        _optional("pandas", "df()")
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def polars(self) -> pl.DataFrame:
        """All rows as a polars DataFrame; a vector column has the type Array, an INTERVAL is text.

        Raises:
            UsageError: polars is not installed, and the message names the extra; a list of
            INTERVAL, which polars has not, or two columns of one name.
        """
        polars = _optional("polars", "polars()")
        if len(set(self.columns)) < len(self.columns):
            raise UsageError("polars() needs columns of different names; rename one by AS.")
        frame: pl.DataFrame = polars.from_arrow(_without_intervals(self._table))
        return frame

    def numpy(self) -> dict[str, NDArray[Any]]:
        """All rows as one array per column; vectors without NULLs as one (n, d) array."""
        return {
            column.name: _to_numpy(array)
            for column, array in zip(self.columns, self._table.columns, strict=True)
        }

    def dicts(self) -> list[dict[str, Any]]:
        """All rows as dictionaries; of columns with the same name the last one counts."""
        return [dict(zip(self.columns, row, strict=True)) for row in self._all()]

    def explain(self, analyze: bool = False) -> Any:
        """The statement's plan as text; on an asyncio connection, to be awaited.

        Args:
            analyze: run the statement again, and measure. A write can't be.

        Raises:
            UsageError: several statements, a write to be measured, or a result without statement.
            As `sql`.
        """
        if self._explain is None:
            raise UsageError("This result knows no statement; ask for EXPLAIN yourself.")
        return self._explain(analyze)

    def __repr__(self) -> str:
        return self._status() if not self.columns else self._printed(self._shown())

    def _repr_html_(self) -> str:
        if not self.columns:
            return f"<p>{self._status()}</p>"
        return html_table(self.columns, self._shown(), len(self))

    def _printed(self, rows: Sequence[Row]) -> str:
        return text_table(self.columns, rows, total=len(self))

    def _shown(self) -> Sequence[Row]:
        return self._tuples(self._table.slice(0, ROWS_SHOWN))

    def _status(self) -> str:
        changed = f"{self.row_count} row" + ("" if self.row_count == 1 else "s")
        return f"OK, {changed} affected" if "write" in self.stats else "OK"

    def _all(self) -> list[Row]:
        if self._rows is None:
            self._rows = self._tuples(self._table)
        return self._rows

    def _tuples(self, table: pa.Table) -> list[Row]:
        return list(zip(*(values.to_pylist() for values in table.columns), strict=True))


def columns_of(schema: pa.Schema) -> list[Column]:
    """The columns of an answer with their SQL types."""
    return [Column(field.name, _type_of(field)) for field in schema]


def _optional(package: str, method: str) -> Any:
    """The package, which is an extra of the same name."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{method} needs the package {package}: pip install 'nearql[{package}]'."
        ) from error


def _type_of(field: pa.Field) -> str:
    sql_type: bytes | None = (field.metadata or {}).get(TYPE_KEY)
    return sql_type.decode() if sql_type else str(field.type)


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type) and not column.null_count:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), column.type.list_size)  # type: ignore[no-any-return]
    return column.to_numpy()  # type: ignore[no-any-return]


def _without_intervals(table: pa.Table) -> pa.Table:
    """Intervals as text; what reads them in polars ends the program, not the call."""
    import pyarrow as pa

    for at, field in enumerate(table.schema):
        if pa.types.is_interval(field.type):
            texts = [None if v is None else interval_text(v) for v in table[at].to_pylist()]
            table = table.set_column(at, field.name, pa.array(texts, pa.string()))
        elif "month_day_nano_interval" in str(field.type):
            raise UsageError(
                f"Column {field.name!r} holds INTERVAL, which polars has not: CAST it to TEXT."
            )
    return table

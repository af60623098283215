"""Cursors: statements and their rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from nearql.client.dbapi.exceptions import (
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
    translated,
)
from nearql.client.dbapi.paramstyle import server_text
from nearql.client.result import Column, Result

if TYPE_CHECKING:
    from nearql.client.dbapi.connection import Connection

Description = tuple[str, str, None, None, int | None, int | None, None]
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


class Cursor:
    """Runs statements one after the other. `arraysize`: rows of `fetchmany` without a number.

    description: of the last answer's columns, None where it has none.
    rowcount: rows returned or affected; -1 where neither is known.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.description: list[Description] | None = None
        self.rowcount = -1
        self.lastrowid: None = None  # use RETURNING
        self._result: Result | None = None
        self._fetched = 0
        self._closed = False

    @property
    def rownumber(self) -> int | None:
        """Rows fetched so far, None without an answer."""
        return None if self.description is None else self._fetched

    def execute(
        self, operation: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Self:
        """Run a statement; `parameters` a sequence or a mapping, as its text asks for."""
        self._check_open()
        self._forget()
        style = self.connection.paramstyle
        text = operation if parameters is None else server_text(operation, style)
        with translated():
            result = self.connection.database.execute(text, parameters)
        self._take(result)
        return self

    def executemany(
        self, operation: str, seq_of_parameters: Sequence[Sequence[Any] | Mapping[str, Any]]
    ) -> Self:
        """Run a statement once for each; what the ones before an error did stays done.

        For many rows `Connection.database.insert` is quicker.
        """
        self._check_open()
        self._forget()
        counted = 0
        for parameters in seq_of_parameters:
            self.execute(operation, parameters)
            if self.description is not None:
                self._forget()
                raise ProgrammingError("executemany is for statements that return no rows.")
            counted += max(self.rowcount, 0)
        self.rowcount = counted
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Up to `size` next rows."""
        rows = self._rows().fetchmany(self.arraysize if size is None else size)
        self._fetched += len(rows)
        return rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that were not fetched yet."""
        rows = self._rows().fetchall()
        self._fetched += len(rows)
        return rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchone, None)

    def close(self) -> None:
        """Nothing can be done with it afterwards, but asking for `rowcount`; again does nothing."""
        rowcount = self.rowcount
        self._forget()
        self.rowcount = rowcount
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def setinputsizes(self, sizes: object) -> None:
        """Does nothing; the server knows its columns."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing; values come whole."""

    def callproc(self, procname: str, parameters: Sequence[Any] = ()) -> None:
        """There are no procedures. Raises NotSupportedError."""
        raise NotSupportedError("NearQL has no stored procedures.")

    def nextset(self) -> None:
        """A text of several statements answers with its last. Raises NotSupportedError."""
        raise NotSupportedError("A text of several statements answers with its last one's rows.")

    def _take(self, result: Result) -> None:
        wrote = "write" in result.stats
        self.connection.wrote = self.connection.wrote or wrote
        if result.columns:
            self._result = result
            self.description = [_described(column) for column in result.columns]
        self.rowcount = result.row_count if wrote or result.columns else -1

    def _forget(self) -> None:
        self._result, self.description, self.rowcount, self._fetched = None, None, -1, 0

    def _rows(self) -> Result:
        self._check_open()
        if self._result is None:
            raise ProgrammingError("There are no rows to fetch: the last statement returned none.")
        return self._result

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("This cursor is closed.")
        self.connection.check_open()


def _described(column: Column) -> Description:
    found = _DECIMAL.fullmatch(column.type)
    precision, scale = (int(found[1]), int(found[2])) if found else (None, None)
    return (column.name, column.type, None, None, precision, scale, None)

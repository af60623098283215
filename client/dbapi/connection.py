"""Connections, with the exceptions as attributes, as PEP 249 suggests."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from nearql.client.dbapi import exceptions
from nearql.client.dbapi.cursor import Cursor
from nearql.client.dbapi.exceptions import InterfaceError, NotSupportedError, translated
from nearql.client.dbapi.paramstyle import STYLES
from nearql.client.sync import Connection as Database


class Connection:
    """A database under PEP 249. `with` closes it.

    database: the client's own connection, for what PEP 249 has not: `insert`, `stream`, Arrow.
    wrote: whether a statement wrote since the last commit. autocommit: where it is set, `rollback`
    never complains; otherwise it is the same.
    """

    Warning = exceptions.Warning
    Error = exceptions.Error
    InterfaceError = exceptions.InterfaceError
    DatabaseError = exceptions.DatabaseError
    DataError = exceptions.DataError
    OperationalError = exceptions.OperationalError
    IntegrityError = exceptions.IntegrityError
    InternalError = exceptions.InternalError
    ProgrammingError = exceptions.ProgrammingError
    NotSupportedError = exceptions.NotSupportedError

    def __init__(self, database: Database, paramstyle: str = "qmark") -> None:
        self.database = database
        self.paramstyle = paramstyle
        self.wrote = False
        self.autocommit = False
        self._closed = False

    def cursor(self) -> Cursor:
        """A new cursor."""
        self.check_open()
        return Cursor(self)

    def execute(
        self, operation: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Cursor:
        """A new cursor that has run the statement."""
        return self.cursor().execute(operation, parameters)

    def commit(self) -> None:
        """Nothing is left to do: every statement committed by itself."""
        self.check_open()
        self.wrote = False

    def rollback(self) -> None:
        """Does nothing, where nothing was written since the last commit.

        Raises:
            NotSupportedError: something was; it is stored, and can't be taken back.
        """
        self.check_open()
        wrote, self.wrote = self.wrote, False
        if wrote and not self.autocommit:
            raise NotSupportedError(
                "Every statement commits by itself: what was written since the last commit() is "
                "stored, and rollback can't take it back."
            )

    def close(self) -> None:
        """Close the network connections, or the engine in this process; again does nothing."""
        self._closed = True
        with translated():
            self.database.close()

    def check_open(self) -> None:
        """Raises InterfaceError on a closed connection."""
        if self._closed:
            raise InterfaceError("This connection is closed.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    target: str | os.PathLike[str], *, paramstyle: str = "qmark", **options: Any
) -> Connection:
    """A connection to a node's URL or a data directory.

    Args:
        target, options: as `nearql.connect` takes them.
        paramstyle: how parameters are written: qmark (also `$1`, and `:name` with a mapping),
            numeric, named, format, pyformat or numeric_dollar.

    Raises:
        InterfaceError: no such paramstyle, or a target that is neither.
        OperationalError: a directory that can't be opened.
    """
    if paramstyle not in STYLES:
        raise InterfaceError(
            f"paramstyle is {paramstyle!r}; it must be one of {', '.join(STYLES)}."
        )
    with translated():
        # Through the package's root, which alone may choose between client and server.
        opened: Callable[..., Database] = importlib.import_module("nearql").connect
        return Connection(opened(target, **options), paramstyle)

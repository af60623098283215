"""Statements that meet DDL half-way are done again."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import TypeVar

from nearql.engine.errors import NearQLError, StatementTimeout
from nearql.query.ports import Database
from nearql.query.weight import Deferred

_STALE = ("schema_changed", "wrong_columns")  # what was planned for a table's schema before
_TRIES = 10
_Answer = TypeVar("_Answer")


def settled(
    database: Database, attempt: Callable[[], _Answer], *, at_once: bool = False
) -> _Answer:
    """Do it again while it fails because tables were created, altered or dropped in between.

    Whatever else it says then may come from a plan for tables that are no more. A definite error
    has done nothing. at_once: raise Deferred instead of waiting and doing it again.
    """
    for tried in range(_TRIES - 1):
        version = database.catalog().version
        try:
            return attempt()
        except NearQLError as error:
            altered = error.code in _STALE or database.catalog().version != version
            if not altered or not error.definite or isinstance(error, StatementTimeout):
                raise
        if at_once:
            raise Deferred(None)
        # A table changes a moment before the catalog says so: without a pause every try could fall
        # into that moment. 1 ms, 2 ms, ... 256 ms.
        Event().wait(0.001 * 2**tried)
    return attempt()

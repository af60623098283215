"""What a request's statements do, told before any of them runs: by what was parsed, never by words.

In a cluster a request that changes something belongs to the leader, and from there to the node of
the primary of what it changes; one that only reads may be answered by any node that has copies.

    SELECT, EXPLAIN of anything           reads; ANALYZE runs what it explains
    INSERT, UPDATE, DELETE, TRUNCATE,     change rows, on their table's primary
    COPY FROM; COPY TO reads
    ALTER TABLE                           too: the change is ordered among the rows
    other DDL, GRANT, CREATE USER         change metadata alone, wherever they run
    CHECK TABLE                           too: whoever leads asks the nodes with copies
    SET, SHOW, DESCRIBE, WAIT, KILL, ...  neither
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nearql.query.ports import CatalogView
from nearql.query.privileges import tables_read_by
from nearql.query.statements import (
    AlterTable,
    CopyFrom,
    CopyTo,
    CreateExtension,
    Delete,
    Describe,
    Explain,
    Insert,
    Kill,
    Select,
    SetVariable,
    Show,
    Statement,
    Transaction,
    Truncate,
    Update,
    Wait,
)

# A kind that is not listed counts as a write: then a new one is never done on the wrong node.
_HARMLESS = (
    Select, SetVariable, Show, Describe, Transaction, Wait, Kill, CreateExtension, CopyTo,
)  # fmt: skip
_ORDERED = (Insert, Update, Delete, Truncate, AlterTable, CopyFrom)


@dataclass(frozen=True, slots=True)
class Nature:
    """What all statements of a request do together.

    writes: something changes. changed: names, in lower case, of tables whose log takes part;
    read: of tables that are read, those behind views included.
    """

    writes: bool
    changed: frozenset[str]
    read: frozenset[str]


def nature_of(statements: Iterable[Statement], catalog: CatalogView) -> Nature:
    """The nature of a request; tables that the catalog lacks are named all the same."""
    writes, changed, read = False, set[str](), set[str]()
    for statement in statements:
        done = _done(statement)
        read |= {name.lower() for name in tables_read_by(statement, catalog)}
        if done is None:
            continue
        writes |= not isinstance(done, _HARMLESS)
        if isinstance(done, _ORDERED):
            changed.add(done.table.lower())
    return Nature(writes, frozenset(changed), frozenset(read))


def _done(statement: Statement) -> Statement | None:
    """The statement that is really run; None where EXPLAIN only plans it."""
    if not isinstance(statement, Explain):
        return statement
    return _done(statement.statement) if statement.analyze else None

"""What a statement needs permission for: pairs of an action and a table.

Counted are the tables as written, wherever they stand: sub-queries, CTEs, joins, RETURNING, the
source of INSERT ... SELECT, EXPLAIN's statement; for a view, those that it reads. A kind of
statement that is not known here needs an administrator, so that a new one is closed until somebody
opens it.

    SELECT ... FROM a          SELECT on a
    INSERT INTO a              INSERT; with DO UPDATE also UPDATE; with RETURNING also SELECT
    UPDATE, DELETE             UPDATE or DELETE; SELECT too where rows are read (WHERE, RETURNING)
    TRUNCATE a                 DELETE
    ALTER, DROP, CREATE INDEX  ADMIN on the table
    CREATE TABLE, GRANT, ...   an administrator
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from nearql.engine.named_query import tables_read
from nearql.query.guard import is_cte, position_of, trees_of
from nearql.query.ports import CatalogView
from nearql.query.set_functions import table_of
from nearql.query.statements import (
    AlterTable,
    CheckTable,
    ConflictClause,
    CreateExtension,
    CreateIndex,
    Delete,
    Describe,
    DropIndex,
    DropTable,
    Explain,
    Insert,
    Reindex,
    Select,
    SetOptions,
    SetVariable,
    Show,
    Statement,
    Transaction,
    Truncate,
    Update,
    Wait,
)
from nearql.query.trees import all_of

_FREE = (Show, Describe, SetVariable, Transaction, Wait, CreateExtension)
_READS = (Select, Insert, Update, Delete)


@dataclass(frozen=True, slots=True)
class Need:
    """An action on a table by name; table None: an administrator."""

    action: str
    table: str | None
    position: int | None = None


ADMINISTRATOR = Need("ADMIN", None)


def needs(statement: Statement, catalog: CatalogView) -> Iterator[Need]:
    """Everything that must be permitted before the statement may run."""
    if isinstance(statement, Explain):
        yield from needs(statement.statement, catalog)
    elif isinstance(statement, _FREE):
        return
    elif isinstance(statement, _READS):
        yield from _writes(statement)
        yield from _reads(statement, catalog)
    else:
        yield from _definitions(statement, catalog)


def tables_read_by(statement: Statement, catalog: CatalogView) -> Iterator[str]:
    """The names of the tables that a statement's trees read, those behind views included."""
    for need in _reads(statement, catalog):
        if need.table is not None:
            yield need.table


def _reads(statement: Statement, catalog: CatalogView) -> Iterator[Need]:
    for tree in trees_of(statement):
        for node in all_of(tree, exp.Table):
            if (asked := table_of(node)) is not None:
                yield Need("SELECT", asked.name, position_of(asked))
            is_named = isinstance(node.this, exp.Identifier) and not _is_system(node)
            if is_named and (node.db or not is_cte(node)):
                for name in _read_by(node.name, catalog):
                    yield Need("SELECT", name, position_of(node))


def _read_by(name: str, catalog: CatalogView) -> list[str]:
    """The tables that a name means: itself, or those that the view of this name reads."""
    view = catalog.views.get(name.lower())
    if view is None:
        return [name]
    read = tables_read(view, catalog.views.values())
    return sorted(table.name for table in catalog.tables.values() if table.uuid in read)


def _is_system(node: exp.Table) -> bool:
    """`nearql.<name>`: the system tables show each what he may know of."""
    return node.db.lower() == "nearql" and not node.catalog


def _writes(statement: Statement) -> Iterator[Need]:
    if isinstance(statement, Insert):
        yield Need("INSERT", statement.table)
        conflict = statement.conflict
        if conflict is not None and conflict.assignments:
            yield Need("UPDATE", statement.table)
        if statement.returning or (conflict is not None and _reads_stored(conflict)):
            yield Need("SELECT", statement.table)
    elif isinstance(statement, Update):
        yield Need("UPDATE", statement.table)
        values = [value for _, value in statement.assignments]
        if _any_column([*values, statement.where, *statement.returning]):
            yield Need("SELECT", statement.table)
    elif isinstance(statement, Delete):
        yield Need("DELETE", statement.table)
        if _any_column([statement.where, *statement.returning]):
            yield Need("SELECT", statement.table)


def _any_column(trees: Iterable[exp.Expr | None]) -> bool:
    """Whether stored values can be learnt from any of these."""
    return any(tree is not None and tree.find(exp.Column, exp.Star) for tree in trees)


def _reads_stored(conflict: ConflictClause) -> bool:
    """Whether DO UPDATE reads the row that is there, and not only the one that was to come."""
    trees = [value for _, value in conflict.assignments]
    if conflict.where is not None:
        trees.append(conflict.where)
    columns = (column for tree in trees for column in all_of(tree, exp.Column))
    return any(column.table.lower() != "excluded" for column in columns)


def _definitions(statement: Statement, catalog: CatalogView) -> Iterator[Need]:
    if isinstance(statement, Truncate):
        yield Need("DELETE", statement.table)
    elif isinstance(statement, DropTable):
        for name in statement.tables:
            yield Need("ADMIN", name)
    elif isinstance(statement, AlterTable | SetOptions | CheckTable | CreateIndex):
        yield Need("ADMIN", statement.table)
    elif isinstance(statement, DropIndex):
        for name in statement.names:
            yield _of_index(name, catalog)
    elif isinstance(statement, Reindex):
        target = statement.target
        yield Need("ADMIN", target) if statement.is_table else _of_index(target, catalog)
    else:
        yield ADMINISTRATOR


def _of_index(name: str, catalog: CatalogView) -> Need:
    for table in catalog.tables.values():
        if any(index.name.lower() == name.lower() for index in table.indexes):
            return Need("ADMIN", table.name)
    return ADMINISTRATOR

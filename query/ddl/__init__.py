"""Statements that change the catalog: validated wholly, then proposed to metadata as one change.

A statement that would change nothing (IF EXISTS, IF NOT EXISTS, a scalar index) says so in the
answer's notices. Everything that can be told from the statement and the catalog is refused here;
what only the rows can tell (NOT NULL on an added column) is refused by the table.
"""

from __future__ import annotations

from nearql.engine.errors import InternalError
from nearql.query.ddl.alter import alter_table
from nearql.query.ddl.create import create_table
from nearql.query.ddl.drop import drop_index, drop_table, drop_view, reindex
from nearql.query.ddl.index import create_index
from nearql.query.ddl.keeping import check_table, set_options
from nearql.query.ports import Database
from nearql.query.result import Result
from nearql.query.statements import (
    AlterTable,
    CheckTable,
    CreateIndex,
    CreateTable,
    DropIndex,
    DropTable,
    DropView,
    Reindex,
    SetOptions,
    Statement,
)

__all__ = ["run_ddl"]


def run_ddl(statement: Statement, database: Database) -> Result:
    """Run one statement.

    Raises:
        SqlError, Unsupported, InvalidValue: what the statement asks for can't be.
        NotFound: a table, column or index isn't there, with the nearest name.
        Conflict: a name is taken, or something else needs what would go.
    """
    if isinstance(statement, CreateTable):
        return create_table(statement, database)
    if isinstance(statement, DropTable):
        return drop_table(statement, database)
    if isinstance(statement, DropView):
        return drop_view(statement, database)
    if isinstance(statement, AlterTable):
        return alter_table(statement, database)
    if isinstance(statement, CreateIndex):
        return create_index(statement, database)
    if isinstance(statement, DropIndex):
        return drop_index(statement, database)
    if isinstance(statement, Reindex):
        return reindex(statement, database)
    if isinstance(statement, CheckTable):
        return check_table(statement, database)
    if isinstance(statement, SetOptions):
        return set_options(statement, database)
    raise InternalError(f"{type(statement).__name__} is no statement of run_ddl.")

"""ALTER TABLE: every action is applied to the schema in turn; metadata sees one new schema.

A column's number marks its data in segments and is never given twice, not even after its column
was dropped and the rows are still on disk. Schema versions never repeat either, so an added column
takes its number from the version that adds it: version * 1024 + place, above every number that
CREATE TABLE gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sqlglot import exp

from nearql.engine.errors import Conflict, SqlError
from nearql.engine.named_query import dependents
from nearql.engine.schema import Column, IndexDef, TableDef, TableSchema
from nearql.query.ddl.columns import check_added, expression, with_default
from nearql.query.ddl.names import (
    LIMITS,
    at,
    check_new_name,
    done,
    find_table,
    taken,
    undefined_column,
)
from nearql.query.dialect import to_duckdb
from nearql.query.guard import names_of
from nearql.query.ports import Database
from nearql.query.result import Result
from nearql.query.statements import (
    AddColumn,
    AlterTable,
    DropColumn,
    RenameColumn,
    RenameTable,
    SetStorage,
)
from nearql.query.trees import all_of

Action = AddColumn | DropColumn | RenameColumn | RenameTable | SetStorage
_NUMBERS_PER_VERSION = 1_024


@dataclass
class _Alteration:
    """The schema while actions are applied to it."""

    statement: AlterTable
    database: Database
    table: TableDef
    columns: list[Column]
    checks: list[tuple[str, str]]
    new_name: str | None = None
    added: int = 0
    notices: list[str] = field(default_factory=list)

    def find(self, name: str) -> int | None:
        """The index of a visible column, whatever the case of its name."""
        for index, column in enumerate(self.columns):
            if column.name.lower() == name.lower() and not column.hidden:
                return index
        return None

    def existing(self, name: str) -> int:
        """The same, or NotFound."""
        index = self.find(name)
        if index is None:
            raise undefined_column(self.statement, self.table, name)
        return index

    def schema(self) -> TableSchema:
        """What came of it, one version up."""
        old = self.table.schema
        return TableSchema(tuple(self.columns), old.key_number, tuple(self.checks), old.version + 1)

    @property
    def changed(self) -> bool:
        """Whether there is anything to record."""
        old = self.table.schema
        same = tuple(self.columns) == old.columns and tuple(self.checks) == old.checks
        return not same or self.new_name is not None


def alter_table(statement: AlterTable, database: Database) -> Result:
    """Apply all actions, or none."""
    catalog = database.catalog()
    if statement.if_exists and statement.table.lower() not in names_of(catalog):
        return done(f"There is no table {statement.table!r}; nothing was done.")
    table = find_table(statement, catalog, statement.table)
    columns, checks = list(table.schema.columns), list(table.schema.checks)
    alteration = _Alteration(statement, database, table, columns, checks)
    for action in statement.actions:
        _apply(alteration, action)
    if alteration.changed:
        database.alter_table(table.name, alteration.schema(), alteration.new_name)
    return done(*alteration.notices)


def _apply(alteration: _Alteration, action: Action) -> None:
    if isinstance(action, AddColumn):
        _add(alteration, action)
    elif isinstance(action, DropColumn):
        _drop(alteration, action)
    elif isinstance(action, RenameColumn):
        _rename(alteration, action)
    elif isinstance(action, SetStorage):
        alteration.existing(action.name)
        alteration.notices.append("SET STORAGE changes nothing: vectors always stand in one piece.")
    else:
        _rename_table(alteration, action)


def _add(alteration: _Alteration, action: AddColumn) -> None:
    statement, column = alteration.statement, action.column
    if alteration.find(column.name) is not None:
        if not action.if_not_exists:
            raise taken(statement, "column", column.name)
        alteration.notices.append(f"Column {column.name!r} exists already; nothing was done.")
        return
    check_added(statement, column)
    if len(alteration.columns) >= LIMITS.columns:
        raise SqlError(
            f"The table would have more than {LIMITS.columns} columns.",
            code="too_many_columns", sqlstate="54011", position=at(statement, column.name),
        )  # fmt: skip
    version = alteration.table.schema.version + 1
    number = version * _NUMBERS_PER_VERSION + alteration.added
    alteration.added += 1
    made = with_default(statement, replace(column, number=number), alteration.database)
    alteration.columns.append(made)


def _drop(alteration: _Alteration, action: DropColumn) -> None:
    index = alteration.find(action.name)
    if index is None and action.if_exists:
        alteration.notices.append(f"There is no column {action.name!r}; nothing was done.")
        return
    index = alteration.existing(action.name)
    column = alteration.columns[index]
    if column.number == alteration.table.schema.key_number:
        raise _needed(
            alteration, f"Column {column.name!r} is the primary key and can't be dropped."
        )
    _check_unused(alteration, column, "dropped")
    _check_views(alteration, column.name, "dropped")
    if sum(not one.hidden for one in alteration.columns) == 1:
        raise _needed(alteration, f"Column {column.name!r} is the table's last; drop the table.")
    del alteration.columns[index]


def _rename(alteration: _Alteration, action: RenameColumn) -> None:
    statement = alteration.statement
    index = alteration.existing(action.name)
    check_new_name(statement, "column", action.new_name)
    other = alteration.find(action.new_name)
    if other is not None and other != index:
        raise taken(statement, "column", action.new_name)
    column = alteration.columns[index]
    indexed = next(
        (i.name for i in alteration.table.indexes if _reads(alteration, i, column)), None
    )
    if indexed is not None:
        raise _needed(
            alteration,
            f"Index {indexed!r} is on column {column.name!r}; drop it, rename, create it again.",
        )
    if column.name.lower() != action.new_name.lower():
        _check_views(alteration, column.name, "renamed")
    alteration.columns[index] = replace(column, name=action.new_name)
    alteration.checks = [
        (name, _renamed(alteration, condition, column.name, action.new_name))
        for name, condition in alteration.checks
    ]


def _rename_table(alteration: _Alteration, action: RenameTable) -> None:
    statement = alteration.statement
    check_new_name(statement, "table", action.new_name)
    other = alteration.database.catalog().tables.get(action.new_name.lower())
    if other is not None and other.uuid != alteration.table.uuid:
        raise taken(statement, "table", action.new_name)
    if action.new_name.lower() in alteration.database.catalog().views:
        raise taken(statement, "view", action.new_name)
    _check_views(alteration, None, "renamed")
    alteration.new_name = action.new_name


def _check_unused(alteration: _Alteration, column: Column, what: str) -> None:
    for index in alteration.table.indexes:
        if _reads(alteration, index, column):
            raise _needed(
                alteration,
                f"Index {index.name!r} is on column {column.name!r}; drop the index first.",
            )
    for name, condition in alteration.checks:
        if column.name.lower() in _columns_in(alteration, condition):
            raise _needed(
                alteration,
                f"CHECK constraint {name!r} reads column {column.name!r}, so it can't be {what}.",
            )


def _check_views(alteration: _Alteration, column: str | None, what: str) -> None:
    """Refuse what would break a view: it names the table, or the column."""
    catalog, table = alteration.database.catalog(), alteration.table
    for view in dependents((table.uuid,), catalog.views.values()):
        if column is None and table.uuid in view.reads:
            detail = f"View {view.name!r} reads table {table.name!r}, so it can't be {what}; "
        elif column is not None and column.lower() in view.needs:
            detail = f"View {view.name!r} may need column {column!r}, so it can't be {what}; "
        else:
            continue
        raise _needed(alteration, f"{detail}drop the view first.")


def _reads(alteration: _Alteration, index: IndexDef, column: Column) -> bool:
    """Whether an index is on a column, or names it in its expression or condition."""
    wanted = column.name.lower()
    texts = (text for text in (index.expression, index.condition) if text is not None)
    return index.column.lower() == wanted or any(
        wanted in _columns_in(alteration, text) for text in texts
    )


def _columns_in(alteration: _Alteration, condition: str) -> set[str]:
    tree = expression(alteration.statement, condition)
    return {str(column.name).lower() for column in all_of(tree, exp.Column)}


def _renamed(alteration: _Alteration, condition: str, old: str, new: str) -> str:
    tree = expression(alteration.statement, condition)
    for column in all_of(tree, exp.Column):
        if str(column.name).lower() == old.lower():
            column.set("this", exp.to_identifier(new, quoted=True))
    return to_duckdb(tree)


def _needed(alteration: _Alteration, detail: str) -> Conflict:
    return Conflict(
        detail, code="dependent_object", sqlstate="2BP01", position=alteration.statement.offset + 1
    )

"""ALTER TABLE: add, drop and rename columns, rename the table; the rest refused by name."""

from __future__ import annotations

from nearql.engine.errors import Unsupported
from nearql.query.dialect.create import Parts, column_definition, options_in
from nearql.query.dialect.cursor import Cursor
from nearql.query.dialect.utility import alter_extension
from nearql.query.statements import (
    AddColumn,
    AlterTable,
    CreateExtension,
    DropColumn,
    RenameColumn,
    RenameTable,
    SetOptions,
    SetStorage,
)

Action = AddColumn | DropColumn | RenameColumn | RenameTable | SetStorage
_STORAGES = ("PLAIN", "EXTERNAL", "EXTENDED", "MAIN", "DEFAULT")
_REFUSED = {
    "CONSTRAINT": "Constraints are declared in CREATE TABLE; they can't be added or dropped later.",
    "PRIMARY": "The primary key is declared in CREATE TABLE.",
    "CHECK": "CHECK is declared in CREATE TABLE.",
    "UNIQUE": "UNIQUE is not offered: only the primary key is unique.",
    "FOREIGN": "FOREIGN KEY is not offered.",
}
_ALTER = (
    "ALTER TABLE adds, drops and renames columns, renames the table and takes SET (replicas = n); "
    "to change a type, a default or "
    "NOT NULL, create a new table AS SELECT and rename it."
)


def alter(cursor: Cursor) -> AlterTable | SetOptions | CreateExtension:
    """ALTER TABLE [IF EXISTS] name action, ... or SET (option = value, ...); ALTER EXTENSION vector
    UPDATE.
    """
    cursor.expect("ALTER")
    if cursor.word() == "EXTENSION":
        return alter_extension(cursor)
    if cursor.word() == "VIEW":
        raise cursor.refuse(
            "ALTER VIEW is not offered; CREATE OR REPLACE VIEW gives another query."
        )
    if cursor.word() != "TABLE":
        raise cursor.refuse(f"ALTER {cursor.word()} is not offered; ALTER TABLE is.")
    cursor.expect("TABLE")
    if_exists = cursor.accept("IF", "EXISTS")
    _ = cursor.accept("ONLY")
    table = cursor.table()
    if cursor.word() == "SET" and cursor.word(1) == "(":
        cursor.expect("SET")
        options = options_in(cursor.inside())
        cursor.expect_end()
        return SetOptions(
            table=table, options=options, text=cursor.source.text, offset=cursor.source.offset
        )
    actions = tuple(cursor.listed(lambda: _action(cursor)))
    cursor.expect_end()
    if len(actions) > 1 and any(isinstance(action, RenameTable) for action in actions):
        raise Unsupported(
            "RENAME TO stands alone in an ALTER TABLE.", position=cursor.source.offset + 1
        )
    return AlterTable(
        table=table, actions=actions, if_exists=if_exists,
        text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip


def _action(cursor: Cursor) -> Action:
    if cursor.accept("ADD"):
        return _add(cursor)
    if cursor.accept("DROP"):
        return _drop(cursor)
    if cursor.accept("RENAME"):
        return _rename(cursor)
    if cursor.accept("ALTER"):
        return _alter_column(cursor)
    if cursor.word() in (
        "SET",
        "RESET",
        "ENABLE",
        "DISABLE",
        "OWNER",
        "ATTACH",
        "VALIDATE",
    ):
        raise cursor.refuse(_ALTER)
    raise cursor.unexpected("ADD, DROP or RENAME")


def _alter_column(cursor: Cursor) -> SetStorage:
    """After ALTER: [COLUMN] name SET STORAGE kind, which changes nothing here."""
    position = cursor.position
    _ = cursor.accept("COLUMN")
    name = cursor.name("a column name")
    if not cursor.accept("SET", "STORAGE"):
        raise Unsupported(_ALTER, position=position)
    if cursor.accept_any(*_STORAGES) is None:
        raise cursor.unexpected(f"one of {', '.join(_STORAGES)}")
    return SetStorage(name)


def _add(cursor: Cursor) -> AddColumn:
    _refuse_constraint(cursor)
    _ = cursor.accept("COLUMN")
    if_not_exists = cursor.accept("IF", "NOT", "EXISTS")
    made = Parts()
    column = column_definition(cursor.until(","), 0, made)
    if made.keys:
        raise Unsupported("The primary key is declared in CREATE TABLE.", position=cursor.position)
    if made.checks:
        raise Unsupported("CHECK is declared in CREATE TABLE.", position=cursor.position)
    return AddColumn(column, if_not_exists)


def _drop(cursor: Cursor) -> DropColumn:
    _refuse_constraint(cursor)
    _ = cursor.accept("COLUMN")
    if_exists = cursor.accept("IF", "EXISTS")
    name = cursor.name("a column name")
    if cursor.accept("CASCADE"):
        raise Unsupported(
            "DROP COLUMN ... CASCADE is not offered; drop the column's indexes first.",
            position=cursor.position,
        )
    _ = cursor.accept("RESTRICT")
    return DropColumn(name, if_exists)


def _rename(cursor: Cursor) -> RenameColumn | RenameTable:
    if cursor.accept("TO"):
        return RenameTable(cursor.name("the new name"))
    _refuse_constraint(cursor)
    _ = cursor.accept("COLUMN")
    name = cursor.name("a column name")
    cursor.expect("TO")
    return RenameColumn(name, cursor.name("the new name"))


def _refuse_constraint(cursor: Cursor) -> None:
    refused = _REFUSED.get(cursor.word())
    if refused is not None and cursor.word(1) not in ("", ","):
        raise cursor.refuse(refused)

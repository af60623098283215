"""DROP TABLE, DROP INDEX, REINDEX: everything named must be there before anything goes."""

from __future__ import annotations

from nearql.query.ddl.names import all_indexes, done, find_table, undefined_index
from nearql.query.ports import Database
from nearql.query.result import Result
from nearql.query.statements import DropIndex, DropTable, Reindex


def drop_table(statement: DropTable, database: Database) -> Result:
    """Drop the tables, each once."""
    catalog = database.catalog()
    names = list(dict.fromkeys(name.lower() for name in statement.tables))
    missing = [name for name in names if name not in catalog.tables]
    if missing and not statement.if_exists:
        find_table(statement, catalog, missing[0])
    for name in names:
        if name in catalog.tables:
            database.drop_table(catalog.tables[name].name, if_exists=True)
    return done(*(f"There is no table {name!r}; nothing was done." for name in missing))


def drop_index(statement: DropIndex, database: Database) -> Result:
    """Drop the indexes, each once."""
    indexes = all_indexes(database.catalog())
    names = list(dict.fromkeys(name.lower() for name in statement.names))
    missing = [name for name in names if name not in indexes]
    if missing and not statement.if_exists:
        known = [index.name for _, index in indexes.values()]
        raise undefined_index(statement, missing[0], known)
    for name in names:
        if name in indexes:
            database.drop_index(indexes[name][1].name, if_exists=True)
    return done(*(f"There is no index {name!r}; nothing was done." for name in missing))


def reindex(statement: Reindex, database: Database) -> Result:
    """Have one index, or all of a table, built anew in the background."""
    catalog = database.catalog()
    if statement.is_table:
        table = find_table(statement, catalog, statement.target)
        database.rebuild_indexes(table.name, [index.uuid for index in table.indexes])
        return done("Its indexes are built anew in the background.")
    indexes = all_indexes(catalog)
    if statement.target.lower() not in indexes:
        known = [index.name for _, index in indexes.values()]
        raise undefined_index(statement, statement.target, known)
    table, index = indexes[statement.target.lower()]
    database.rebuild_indexes(table.name, [index.uuid])
    return done("It is built anew in the background; until then the old one answers.")

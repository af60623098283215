"""DROP TABLE, VIEW, INDEX, and REINDEX: all that is named must be there before anything goes."""

from __future__ import annotations

from nearql.engine.named_query import ViewDef
from nearql.query.ddl.names import (
    all_indexes,
    check_unread,
    done,
    find_table,
    undefined_index,
    undefined_view,
)
from nearql.query.ports import Database
from nearql.query.result import Result
from nearql.query.statements import DropIndex, DropTable, DropView, Reindex


def drop_table(statement: DropTable, database: Database) -> Result:
    """Drop the tables, each once."""
    catalog = database.catalog()
    names = list(dict.fromkeys(name.lower() for name in statement.tables))
    missing = [name for name in names if name not in catalog.tables]
    for name in missing:
        if not statement.if_exists or name in catalog.views:
            find_table(statement, catalog, name)
    found = [catalog.tables[name] for name in names if name in catalog.tables]
    if not statement.cascade:
        check_unread(statement, catalog, {table.uuid: table.name for table in found})
    for table in found:
        database.drop_table(table.name, if_exists=True, cascade=statement.cascade)
    return done(*(f"There is no table {name!r}; nothing was done." for name in missing))


def drop_view(statement: DropView, database: Database) -> Result:
    """Drop the views, each once."""
    catalog = database.catalog()
    names = list(dict.fromkeys(name.lower() for name in statement.views))
    missing = [name for name in names if name not in catalog.views]
    for name in missing:
        if not statement.if_exists or name in catalog.tables:
            raise undefined_view(statement, catalog, name)
    found = [catalog.views[name] for name in names if name in catalog.views]
    if not statement.cascade:
        check_unread(statement, catalog, {view.uuid: view.name for view in found})
    for view in _readers_first(found):
        if view.name.lower() in database.catalog().views:  # an earlier one's CASCADE took it
            database.drop_view(view.name, cascade=statement.cascade)
    return done(*(f"There is no view {name!r}; nothing was done." for name in missing))


def _readers_first(views: list[ViewDef]) -> list[ViewDef]:
    """So that each can be dropped when its turn comes."""
    left, ordered = list(views), list[ViewDef]()
    while left:
        read = {uuid for view in left for uuid in view.reads}
        ordered += [view for view in left if view.uuid not in read]
        left = [view for view in left if view.uuid in read]
    return ordered


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

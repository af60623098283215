"""CHECK TABLE and ALTER TABLE ... SET (...): how a table is kept, rather than what it holds."""

from __future__ import annotations

from nearql.engine.errors import Unsupported
from nearql.query.ddl.columns import invalid_option
from nearql.query.ddl.create import replicas_of
from nearql.query.ddl.names import done, find_table
from nearql.query.ports import Database
from nearql.query.result import Result, listing
from nearql.query.statements import CheckTable, SetOptions

_TYPES = ("TEXT", "INTEGER", "TEXT", "TEXT", "BIGINT", "BIGINT", "TEXT")
_FIXED = {
    "shards": "The number of shards is chosen in CREATE TABLE, as each row belongs to a shard by "
    "its key. Create another table WITH (shards = ...), INSERT INTO it SELECT from this one, drop "
    "this one and rename the other.",
    "write_concern": "The write concern of a table is chosen in CREATE TABLE; a request may SET "
    "write_concern.",
}


def check_table(statement: CheckTable, database: Database) -> Result:
    """Verify the table's files and compare its copies."""
    table = find_table(statement, database.catalog(), statement.table)
    return listing(database.check_table(table.name), *_TYPES)


def set_options(statement: SetOptions, database: Database) -> Result:
    """Have another number of copies."""
    table = find_table(statement, database.catalog(), statement.table)
    options = dict(statement.options)
    for name in options:
        if name in _FIXED:
            raise Unsupported(_FIXED[name], position=statement.offset + 1)
        if name != "replicas":
            raise invalid_option(statement, name, "replicas: no other can be set later")
    if not options:
        raise invalid_option(statement, "SET", "replicas = n")
    replicas = replicas_of(statement, options["replicas"])
    return done(database.set_replicas(table.name, replicas))

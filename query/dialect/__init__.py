"""Text of a request -> statements.

`parse` is all that the rest needs; `distance_of`, `to_duckdb` and `nearest` help to work on the
trees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot.tokenizer_core import TokenType

from nearql.engine.errors import SqlError
from nearql.query import patience
from nearql.query.dialect import access, dml, utility
from nearql.query.dialect.alter import alter
from nearql.query.dialect.copy import copy
from nearql.query.dialect.create import create_table
from nearql.query.dialect.cursor import Cursor, did_you_mean, nearest
from nearql.query.dialect.depth import DEFAULT_LIMITS, Limits
from nearql.query.dialect.index import create_index, drop_index, reindex
from nearql.query.dialect.lexer import Source, split
from nearql.query.dialect.render import bit_distance_of, distance_of, to_duckdb, to_nearql
from nearql.query.dialect.tokens import retyped
from nearql.query.dialect.view import create_view, drop_view, is_create_view
from nearql.query.statements import DropTable, Explain, Statement

__all__ = [
    "Limits",
    "bit_distance_of",
    "did_you_mean",
    "distance_of",
    "nearest",
    "parse",
    "to_duckdb",
    "to_nearql",
]


def parse(text: str, limits: Limits = DEFAULT_LIMITS) -> list[Statement]:
    """The statements of a request, in order; empty ones are skipped.

    Raises:
        SqlError: with the 1-based position in `text` of what fits nowhere.
        Unsupported: something that is understood and not offered, with the alternative.
        TooLarge: beyond `limits`.
    """
    with patience.turn(text):
        return [_statement(source) for source in split(text, limits)]


def _statement(source: Source) -> Statement:
    return _read(Cursor(source))


def _read(cursor: Cursor) -> Statement:
    word = cursor.word()
    if word in _READERS:
        return _READERS[word](cursor)
    if word in utility.REFUSED:
        raise cursor.refuse(utility.REFUSED[word])
    known = (*_READERS, *utility.REFUSED)
    raise SqlError(
        f"{cursor.shown()!r} starts no statement.{did_you_mean(cursor.shown(), known)}",
        position=cursor.position,
    )


def _create(cursor: Cursor) -> Statement:
    cursor.expect("CREATE")
    if is_create_view(cursor):
        return create_view(cursor)
    word = cursor.word()
    if word in utility.REFUSED_OBJECTS:
        raise cursor.refuse(utility.REFUSED_OBJECTS[word])
    if word in ("INDEX", "UNIQUE"):
        return create_index(cursor)
    if word == "EXTENSION":
        return utility.create_extension(cursor)
    if word == "TABLE":
        return create_table(cursor)
    if word == "USER":
        return access.create_user(cursor)
    raise cursor.unexpected("TABLE, VIEW or INDEX")


def _drop(cursor: Cursor) -> Statement:
    cursor.expect("DROP")
    word = cursor.word()
    if word in utility.REFUSED_OBJECTS:
        raise cursor.refuse(utility.REFUSED_OBJECTS[word])
    if word == "INDEX":
        return drop_index(cursor)
    if word == "EXTENSION":
        return utility.drop_extension(cursor)
    if word == "TABLE":
        return _drop_table(cursor)
    if word == "USER":
        return access.drop_user(cursor)
    if word == "VIEW":
        return drop_view(cursor)
    raise cursor.unexpected("TABLE, VIEW or INDEX")


def _drop_table(cursor: Cursor) -> DropTable:
    cursor.expect("TABLE")
    if_exists = cursor.accept("IF", "EXISTS")
    tables = tuple(cursor.listed(cursor.table))
    cascade = cursor.accept_any("CASCADE", "RESTRICT") == "CASCADE"
    cursor.expect_end()
    return DropTable(
        tables=tables, if_exists=if_exists, cascade=cascade,
        text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip


def _explain(cursor: Cursor) -> Explain:
    analyze, json = utility.explain_options(cursor)
    if cursor.done:
        raise cursor.unexpected("a statement to explain")
    inner = Source(cursor.source.request, cursor.tokens[cursor.at :], cursor.source.limits)
    if inner.tokens[0].text.upper() == "EXPLAIN":
        raise cursor.unexpected("a statement other than EXPLAIN")
    return Explain(
        statement=_statement(inner), analyze=analyze, json=json,
        text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip


def _table(cursor: Cursor) -> Statement:
    """TABLE name is SELECT * FROM name."""
    first, *rest = cursor.source.tokens
    return dml.select(Cursor(cursor.source, [retyped(first, TokenType.FROM, "FROM"), *rest]))


_READERS: Mapping[str, Callable[[Cursor], Statement]] = {
    "SELECT": dml.select,
    "WITH": dml.with_statement,
    "VALUES": dml.select,
    "FROM": dml.select,
    "(": dml.select,
    "PIVOT": dml.select,
    "UNPIVOT": dml.select,
    "TABLE": _table,
    "COPY": copy,
    "INSERT": dml.insert,
    "UPDATE": dml.update,
    "DELETE": dml.delete,
    "CREATE": _create,
    "DROP": _drop,
    "ALTER": alter,
    "TRUNCATE": utility.truncate,
    "REINDEX": reindex,
    "SET": utility.set_variable,
    "RESET": utility.reset,
    "SHOW": utility.show,
    "DESCRIBE": utility.describe,
    "DESC": utility.describe,
    "EXPLAIN": _explain,
    "WAIT": utility.wait,
    "KILL": utility.kill,
    "CHECK": utility.check_table,
    "GRANT": access.grant,
    "REVOKE": access.revoke,
    "BEGIN": utility.transaction,
    "START": utility.transaction,
    "COMMIT": utility.transaction,
    "END": utility.transaction,
    "ROLLBACK": utility.transaction,
    "ABORT": utility.transaction,
}

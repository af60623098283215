"""Text of a request -> statements.

`parse` is all that the rest needs; `distance_of`, `to_duckdb` and `nearest` help to work on the trees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nearql.engine.errors import SqlError
from nearql.query.dialect import dml
from nearql.query.dialect.create import create_table
from nearql.query.dialect.cursor import Cursor, did_you_mean, nearest
from nearql.query.dialect.lexer import DEFAULT_LIMITS, Limits, Source, split
from nearql.query.dialect.render import distance_of, to_duckdb, to_nearql
from nearql.query.statements import DropTable, Statement

__all__ = ["Limits", "distance_of", "nearest", "parse", "to_duckdb", "to_nearql"]


def parse(text: str, limits: Limits = DEFAULT_LIMITS) -> list[Statement]:
    """The statements of a request, in order; empty ones are skipped.

    Raises:
        SqlError: with the 1-based position in `text` of what fits nowhere.
        Unsupported: something that is understood and not offered, with the alternative.
        TooLarge: beyond `limits`.
    """
    return [_statement(source) for source in split(text, limits)]


def _statement(source: Source) -> Statement:
    cursor = Cursor(source)
    read = _READERS.get(cursor.word())
    if read is None:
        raise SqlError(
            f"{cursor.shown()!r} starts no statement.{did_you_mean(cursor.shown(), _READERS)}",
            position=cursor.position,
        )
    return read(cursor)


def _create(cursor: Cursor) -> Statement:
    cursor.expect("CREATE")
    return create_table(cursor)


def _drop(cursor: Cursor) -> Statement:
    cursor.expect("DROP")
    cursor.expect("TABLE")
    if_exists = cursor.accept("IF", "EXISTS")
    tables = tuple(cursor.listed(cursor.table))
    cursor.expect_end()
    return DropTable(
        tables=tables, if_exists=if_exists, text=cursor.source.text, offset=cursor.source.offset
    )


_READERS: Mapping[str, Callable[[Cursor], Statement]] = {
    "SELECT": dml.select,
    "WITH": dml.with_statement,
    "VALUES": dml.select,
    "FROM": dml.select,
    "(": dml.select,
    "PIVOT": dml.select,
    "UNPIVOT": dml.select,
    "INSERT": dml.insert,
    "UPDATE": dml.update,
    "DELETE": dml.delete,
    "CREATE": _create,
    "DROP": _drop,
}

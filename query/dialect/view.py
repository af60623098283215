"""CREATE VIEW, DROP VIEW."""

from __future__ import annotations

from nearql.query.dialect.cursor import Cursor
from nearql.query.dialect.dml import query
from nearql.query.statements import CreateView, DropView


def is_create_view(cursor: Cursor) -> bool:
    """Whether VIEW or OR REPLACE VIEW comes next."""
    return cursor.word() == "VIEW" or (
        cursor.word() == "OR" and cursor.word(1) == "REPLACE" and cursor.word(2) == "VIEW"
    )


def create_view(cursor: Cursor) -> CreateView:
    """After CREATE: [OR REPLACE] VIEW [IF NOT EXISTS] name [(columns)] AS query."""
    or_replace = cursor.accept("OR", "REPLACE")
    cursor.expect("VIEW")
    if_not_exists = cursor.accept("IF", "NOT", "EXISTS")
    if or_replace and if_not_exists:
        raise cursor.refuse("OR REPLACE and IF NOT EXISTS contradict each other; write one.")
    view = cursor.table()
    columns = _columns(cursor.inside()) if cursor.word() == "(" else ()
    if cursor.word() == "WITH":
        raise cursor.refuse("A view has no options; write CREATE VIEW name AS query.")
    cursor.expect("AS")
    if cursor.done:
        raise cursor.unexpected("a query")
    body = Cursor(cursor.source, cursor.tokens[cursor.at :])
    return CreateView(
        view=view, columns=columns, or_replace=or_replace, if_not_exists=if_not_exists,
        query=body.text, tree=query(body),
        text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip


def _columns(inside: Cursor) -> tuple[str, ...]:
    names = tuple(inside.listed(lambda: inside.name("a column name")))
    inside.expect_end()
    return names


def drop_view(cursor: Cursor) -> DropView:
    """After DROP: VIEW [IF EXISTS] name, ... [CASCADE | RESTRICT]."""
    cursor.expect("VIEW")
    if_exists = cursor.accept("IF", "EXISTS")
    views = tuple(cursor.listed(cursor.table))
    cascade = cursor.accept_any("CASCADE", "RESTRICT") == "CASCADE"
    cursor.expect_end()
    return DropView(
        views=views, if_exists=if_exists, cascade=cascade,
        text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip

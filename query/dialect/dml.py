"""SELECT, INSERT, UPDATE and DELETE: the shell is read here, expressions and queries by sqlglot."""

from __future__ import annotations

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from nearql.engine.errors import SqlError
from nearql.query.dialect.cursor import Cursor, parse_tokens
from nearql.query.dialect.values import literal_values
from nearql.query.statements import (
    ConflictClause,
    Delete,
    Insert,
    Select,
    Statement,
    Update,
)

_RETURNING = "RETURNING"
_ON_CONFLICT = "ON CONFLICT"


def select(cursor: Cursor) -> Select:
    """Whatever returns rows and changes nothing."""
    return Select(tree=query(cursor), text=cursor.source.text, offset=cursor.source.offset)


def query(cursor: Cursor, what: str = "a query") -> exp.Query:
    """All that is left, as a query.

    Raises:
        SqlError: it is something else.
    """
    if cursor.done:
        raise cursor.unexpected(what)
    position = cursor.position
    tree = parse_tokens(cursor.source, cursor.tokens[cursor.at :])
    if isinstance(tree, exp.Values | exp.Pivot):
        tree = exp.select("*").from_(_relation(tree), copy=False)
    if not isinstance(tree, exp.Query):
        raise SqlError(f"Expected {what} here.", position=position)
    cursor.at = len(cursor.tokens)
    return tree


def _relation(tree: exp.Expr) -> exp.Expr:
    return exp.Subquery(this=tree) if isinstance(tree, exp.Pivot) else tree


def with_statement(cursor: Cursor) -> Statement:
    """WITH before a SELECT, or before an INSERT, whose source then gets the CTEs."""
    probe = Cursor(cursor.source)
    ctes = probe.until("SELECT", "FROM", "VALUES", "INSERT", "UPDATE", "DELETE", "PIVOT", "UNPIVOT")
    if probe.word() in ("UPDATE", "DELETE"):
        raise probe.refuse(
            f"WITH before {probe.word()} is not offered; write the CTE as a sub-query "
            f"of its FROM or USING."
        )
    if probe.word() != "INSERT":
        return select(cursor)
    return _insert(probe, ctes)


def insert(cursor: Cursor) -> Insert:
    """INSERT INTO table ..."""
    return _insert(cursor, None)


def _insert(cursor: Cursor, ctes: Cursor | None) -> Insert:
    cursor.expect("INSERT")
    ignore = _or_ignore(cursor)
    cursor.expect("INTO")
    table = cursor.table()
    alias = cursor.name("an alias") if cursor.accept("AS") else None
    columns = _columns(cursor)
    by_name = cursor.accept("BY", "NAME")
    _ = by_name or cursor.accept("BY", "POSITION")
    source = None if cursor.accept("DEFAULT", "VALUES") else _source(cursor, ctes)
    conflict = _conflict(cursor) or (ConflictClause(None) if ignore else None)
    return Insert(
        table=table,
        alias=alias,
        columns=columns,
        by_name=by_name,
        source=source,
        conflict=conflict,
        returning=_returning(cursor),
        text=cursor.source.text,
        offset=cursor.source.offset,
    )


def _or_ignore(cursor: Cursor) -> bool:
    if cursor.accept("OR", "IGNORE"):
        return True
    if cursor.word() == "OR":
        raise cursor.refuse(
            "INSERT OR REPLACE is not offered; write ON CONFLICT (key) DO UPDATE SET "
            "column = EXCLUDED.column."
        )
    return False


def _columns(cursor: Cursor) -> tuple[str, ...] | None:
    if cursor.word() != "(" or cursor.word(1) in ("SELECT", "WITH", "FROM", "VALUES", "("):
        return None
    inside = cursor.inside()
    names = tuple(inside.listed(lambda: inside.name("a column name")))
    inside.expect_end()
    return names


def _source(cursor: Cursor, ctes: Cursor | None) -> exp.Query:
    body = cursor.until(_ON_CONFLICT, _RETURNING)
    if ctes is not None:
        body = Cursor(cursor.source, [*ctes.tokens, *body.tokens])
    if body.done:
        raise cursor.unexpected("VALUES, a query or DEFAULT VALUES")
    values = literal_values(body.tokens) if body.word() == "VALUES" else None
    tree = values or parse_tokens(cursor.source, body.tokens)
    if not isinstance(tree, exp.Values | exp.Query):
        raise SqlError("Expected VALUES or a query.", position=body.position)
    return tree  # type: ignore[return-value]


def _conflict(cursor: Cursor) -> ConflictClause | None:
    if not cursor.accept("ON", "CONFLICT"):
        return None
    column = _conflict_column(cursor)
    cursor.expect("DO")
    if cursor.accept("NOTHING"):
        return ConflictClause(column)
    cursor.expect("UPDATE", "SET")
    assignments = _assignments(cursor.until("WHERE", _RETURNING))
    return ConflictClause(column, assignments, _where(cursor, _RETURNING))


def _conflict_column(cursor: Cursor) -> str | None:
    if cursor.word() == "ON":
        raise cursor.refuse(
            "ON CONFLICT ON CONSTRAINT is not offered; name the primary key: ON CONFLICT (id)."
        )
    if cursor.word() != "(":
        return None
    inside = cursor.inside()
    name = inside.name("the primary key column")
    if inside.word() == ",":
        raise inside.refuse("A primary key has one column, so ON CONFLICT names one.")
    inside.expect_end()
    return name


def _assignments(part: Cursor) -> tuple[tuple[str, exp.Expr], ...]:
    if part.done:
        raise part.unexpected("column = value")
    found: list[tuple[str, exp.Expr]] = []
    seen: set[str] = set()
    for item in part.split():
        position = item.position
        made = _tuple_assignment(item) if item.word() == "(" else [(_target(item), _value(item))]
        for name, value in made:
            if name.lower() in seen:
                raise SqlError(f"Column {name!r} is set twice.", position=position)
            seen.add(name.lower())
            found.append((name, value))
    return tuple(found)


def _value(item: Cursor) -> exp.Expr:
    return item.expression("a value")


def _target(item: Cursor) -> str:
    name = item.name("a column name")
    if item.accept("."):
        name = item.name("a column name")
    item.expect("=")
    return name


def _tuple_assignment(item: Cursor) -> list[tuple[str, exp.Expr]]:
    inside = item.inside()
    names = inside.listed(lambda: inside.name("a column name"))
    item.expect("=")
    position = item.position
    value = item.expression("a list of values")
    values = value.expressions if isinstance(value, exp.Tuple) else [value.unnest()]
    if len(values) != len(names) or isinstance(value, exp.Subquery):
        raise SqlError(
            f"{len(names)} columns need {len(names)} values in brackets.", position=position
        )
    return list(zip(names, values, strict=True))


def _where(cursor: Cursor, *stops: str) -> exp.Expr | None:
    if not cursor.accept("WHERE"):
        return None
    return cursor.until(*stops).expression("a condition")


def _returning(cursor: Cursor) -> tuple[exp.Expr, ...]:
    found: tuple[exp.Expr, ...] = ()
    if cursor.accept(_RETURNING):
        found = _projections(cursor)
    cursor.expect_end()
    return found


def _projections(cursor: Cursor) -> tuple[exp.Expr, ...]:
    if cursor.done:
        raise cursor.unexpected("columns to return")
    tree = parse_tokens(cursor.source, [_word(TokenType.SELECT), *cursor.tokens[cursor.at :]])
    if not isinstance(tree, exp.Select) or any(
        value for key, value in tree.args.items() if key not in ("expressions", "kind", "hint")
    ):
        raise cursor.unexpected("columns to return")
    cursor.at = len(cursor.tokens)
    return tuple(tree.expressions)


def _sources(cursor: Cursor, *stops: str) -> tuple[exp.Expr, ...]:
    """The FROM items and joins of UPDATE ... FROM, DELETE ... USING."""
    body = cursor.until(*stops)
    if body.done:
        raise cursor.unexpected("a table or sub-query")
    head = [_word(TokenType.SELECT), _word(TokenType.STAR), _word(TokenType.FROM)]
    tree = parse_tokens(cursor.source, [*head, *body.tokens])
    if not isinstance(tree, exp.Select):
        raise SqlError("Expected tables or sub-queries.", position=body.position)
    return (tree.args["from_"].this, *tree.args.get("joins", ()))


def update(cursor: Cursor) -> Update:
    """UPDATE table SET ..."""
    cursor.expect("UPDATE")
    table, alias = _aliased(cursor, "SET")
    cursor.expect("SET")
    assignments = _assignments(cursor.until("FROM", "WHERE", _RETURNING))
    sources = _sources(cursor, "WHERE", _RETURNING) if cursor.accept("FROM") else ()
    where = _where(cursor, _RETURNING)
    return Update(
        table=table,
        alias=alias,
        assignments=assignments,
        sources=sources,
        where=where,
        returning=_returning(cursor),
        text=cursor.source.text,
        offset=cursor.source.offset,
    )


def delete(cursor: Cursor) -> Delete:
    """DELETE FROM table ..."""
    cursor.expect("DELETE")
    cursor.expect("FROM")
    table, alias = _aliased(cursor, "USING", "WHERE", _RETURNING)
    sources = _sources(cursor, "WHERE", _RETURNING) if cursor.accept("USING") else ()
    where = _where(cursor, _RETURNING)
    return Delete(
        table=table,
        alias=alias,
        sources=sources,
        where=where,
        returning=_returning(cursor),
        text=cursor.source.text,
        offset=cursor.source.offset,
    )


def _aliased(cursor: Cursor, *follow: str) -> tuple[str, str | None]:
    table = cursor.table()
    if cursor.accept("AS") or not (cursor.done or cursor.word() in follow):
        return table, cursor.name("an alias")
    return table, None


def _word(kind: TokenType) -> Token:
    return Token(kind, "*" if kind is TokenType.STAR else kind.name)

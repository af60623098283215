"""COPY table FROM 'file' and COPY table | (query) TO 'file', in PostgreSQL's words."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from sqlglot import exp

from nearql.engine.errors import SqlError, Unsupported
from nearql.query.dialect import dml
from nearql.query.dialect.cursor import Cursor, did_you_mean
from nearql.query.statements import CopyFormat, CopyFrom, CopyTo, Select

FORMATS = ("parquet", "csv", "arrow")
_SUFFIXES = {
    ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow",
}  # fmt: skip
_JSON = ("json", "jsonl", "ndjson")
_LINES = (
    " JSON lines are sent to POST /v1/tables/{table}/rows, or with `nearql load`, and come from "
    "`nearql sql --format json`."
)
_NO_STREAM = (
    "COPY ... {words} is not offered; to load, send rows to POST /v1/tables/{{table}}/rows or run "
    "`nearql load`; to export, SELECT as an Arrow stream or `nearql sql --format csv`."
)


def copy(cursor: Cursor) -> CopyFrom | CopyTo:
    """COPY in either direction."""
    cursor.expect("COPY")
    common: dict[str, Any] = {"text": cursor.source.text, "offset": cursor.source.offset}
    query = _query(cursor, common) if cursor.word() == "(" else None
    table = "" if query is not None else cursor.table()
    columns = _columns(cursor) if query is None and cursor.word() == "(" else None
    way = cursor.accept_any("FROM", "TO")
    if way is None or (way == "FROM" and query is not None):
        raise cursor.unexpected("TO" if query is not None else "FROM or TO")
    path = _path(cursor, way)
    form = _format(cursor, path)
    if way == "FROM":
        return CopyFrom(table=table, columns=columns, path=path, form=form, **common)
    if query is None:
        query = _whole(table, columns, common)
    return CopyTo(query=query, path=path, form=form, **common)


def _query(cursor: Cursor, common: dict[str, Any]) -> Select:
    return Select(tree=dml.query(cursor.inside(), "a query that only reads"), **common)


def _whole(table: str, columns: tuple[str, ...] | None, common: dict[str, Any]) -> Select:
    named: list[exp.Expr] = [
        exp.column(exp.to_identifier(name, quoted=True)) for name in columns or ()
    ]
    tree = exp.select(*(named or [exp.Star()]))
    tree.set("from_", exp.From(this=exp.Table(this=exp.to_identifier(table, quoted=True))))
    return Select(tree=tree, **common)


def _columns(cursor: Cursor) -> tuple[str, ...]:
    inside = cursor.inside()
    names = tuple(inside.listed(lambda: inside.name("a column name")))
    inside.expect_end()
    return names


def _path(cursor: Cursor, way: str) -> str:
    if (word := cursor.word()) in ("STDIN", "STDOUT", "PROGRAM"):
        raise cursor.refuse(_NO_STREAM.format(words=f"{way} {word}"))
    return cursor.string("a file's path in quotation marks")


def _format(cursor: Cursor, path: str) -> CopyFormat:
    """[WITH] (FORMAT csv, HEADER, ...), or the older words without brackets."""
    _ = cursor.accept("WITH")
    place = cursor.position
    given: dict[str, Any] = {}
    if cursor.word() == "(":
        inside = cursor.inside()
        inside.listed(lambda: _option(inside, given))
        inside.expect_end()
    else:
        while not cursor.done and cursor.word() != "WHERE":
            _option(cursor, given)
    if cursor.word() == "WHERE":
        raise cursor.refuse("COPY ... WHERE is not offered: INSERT INTO ... SELECT filters.")
    cursor.expect_end()
    suffix = PurePosixPath(path).suffix.lower()
    name = given.pop("format", None) or _SUFFIXES.get(suffix)
    if name is None and suffix[1:] in _JSON:
        raise _no_format(suffix[1:], place)
    if name is None:
        raise SqlError(
            f"What kind of file {path[:80]!r} is can't be told by its name; write (FORMAT "
            f"{' | '.join(FORMATS)}).",
            position=place, code="invalid_option", sqlstate="22023",
        )  # fmt: skip
    if given and name != "csv":
        raise SqlError(
            f"{', '.join(given).upper()} is for FORMAT csv only; this file is {name}.",
            position=place, code="invalid_option", sqlstate="22023",
        )  # fmt: skip
    return CopyFormat(name=name, **given)


def _option(cursor: Cursor, given: dict[str, Any]) -> None:
    position, word = cursor.position, cursor.name("an option of COPY").upper()
    if word in ("CSV", "PARQUET", "ARROW"):  # COPY ... WITH CSV HEADER
        given["format"] = word.lower()
    elif word in ("TEXT", "BINARY"):
        raise _no_format(word.lower(), position)
    elif word == "FORMAT":
        name = _word(cursor).lower()
        if name not in FORMATS:
            raise _no_format(name, position)
        given["format"] = name
    elif word == "HEADER":
        given["header"] = _truth(cursor, position)
    elif word in ("DELIMITER", "NULL"):
        _ = cursor.accept("AS")
        value = cursor.string("a text in quotation marks")
        if word == "DELIMITER" and (len(value) != 1 or value in '"\r\n' or not value.isascii()):
            raise SqlError(
                "DELIMITER is one ASCII character, neither a quotation mark nor a line's end.",
                position=position, code="invalid_option", sqlstate="22023",
            )  # fmt: skip
        given[word.lower()] = value
    else:
        known = ("FORMAT", "HEADER", "DELIMITER", "NULL")
        raise Unsupported(
            f"COPY has no option {word}; it has {', '.join(known)}.{did_you_mean(word, known)}",
            position=position,
        )


def _word(cursor: Cursor) -> str:
    """A word, in quotation marks or not."""
    at = cursor.at
    try:
        return cursor.name("a word")
    except SqlError:
        cursor.at = at
        return cursor.string("a word")


def _truth(cursor: Cursor, position: int) -> bool:
    if cursor.done or cursor.word() in (",", "CSV", "DELIMITER", "NULL", "FORMAT"):
        return True
    word = _word(cursor).lower()
    if word not in ("true", "false", "on", "off"):
        raise SqlError(
            "HEADER is true or false.", position=position, code="invalid_option", sqlstate="22023"
        )
    return word in ("true", "on")


def _no_format(name: str, position: int) -> Unsupported:
    hint = _LINES if name in _JSON else did_you_mean(name, FORMATS)
    return Unsupported(
        f"COPY has no FORMAT {name}; it has {', '.join(FORMATS)}.{hint}",
        position=position,
    )

"""CREATE INDEX in pgvector's forms, DROP INDEX, REINDEX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from nearql.engine.errors import SqlError, Unsupported
from nearql.engine.types import Metric
from nearql.query.dialect.create import with_options
from nearql.query.dialect.cursor import Cursor, did_you_mean
from nearql.query.statements import CreateIndex, DropIndex, Reindex

KINDS = ("auto", "flat", "hnsw", "ivfflat", "ivfpq", "ivfrabitq", "cagra")
_SCALAR_KINDS = ("btree", "hash", "gin", "gist", "brin", "spgist", "art")
_METRIC = {"l2": Metric.L2, "ip": Metric.INNER_PRODUCT, "cosine": Metric.COSINE, "l1": Metric.L1}
OPCLASSES: Mapping[str, Metric] = {
    f"{kind}_{short}_ops": metric
    for kind in ("vector", "halfvec")
    for short, metric in _METRIC.items()
}
BIT_OPCLASSES = ("bit_hamming_ops", "bit_jaccard_ops")
_SPARSE = tuple(f"sparsevec_{short}_ops" for short in _METRIC)
NO_SCALAR_INDEX = (
    "Scalar columns need no index: filters scan columns in memory. CREATE INDEX {name}did nothing."
)


def create_index(cursor: Cursor) -> CreateIndex:
    """After CREATE [UNIQUE]: INDEX ..."""
    if cursor.word() == "UNIQUE":
        raise cursor.refuse("UNIQUE indexes are not offered: only the primary key is unique.")
    cursor.expect("INDEX")
    concurrently = cursor.accept("CONCURRENTLY")
    if_not_exists = cursor.accept("IF", "NOT", "EXISTS")
    name = None if cursor.word() == "ON" else cursor.name("an index name")
    cursor.expect("ON")
    _ = cursor.accept("ONLY")
    table = cursor.table()
    kind = _kind(cursor)
    indexed, is_vector = _indexed(cursor, kind)
    options = _options(cursor)
    where = _condition(cursor)
    notices: tuple[str, ...] = (
        () if is_vector else (NO_SCALAR_INDEX.format(name=f"{name} " if name else ""),)
    )
    if concurrently:
        notices += ("CONCURRENTLY changes nothing: every index is built in the background.",)
    return CreateIndex(
        table=table, name=name, column=indexed.column, kind=kind if is_vector else None,
        metric=_metric(indexed) if is_vector else Metric.L2, opclass=indexed.opclass,
        expression=indexed.expression, where=where, options=options, if_not_exists=if_not_exists,
        notices=notices, text=cursor.source.text, offset=cursor.source.offset,
    )  # fmt: skip


def _kind(cursor: Cursor) -> str | None:
    """The lower-case name after USING; None without USING."""
    if not cursor.accept("USING"):
        return None
    position = cursor.position
    kind = cursor.name("an index kind").lower()
    if kind not in (*KINDS, *_SCALAR_KINDS):
        hint = did_you_mean(kind, KINDS)
        raise Unsupported(
            f"There is no index kind {kind!r}; offered: {', '.join(KINDS)}.{hint}",
            position=position,
        )
    return kind


@dataclass(frozen=True, slots=True)
class _Indexed:
    """One item in the brackets: a column or an expression, and its operator class."""

    column: str  # "" for an expression
    expression: exp.Expr | None
    opclass: str | None
    position: int  # of the operator class


def _indexed(cursor: Cursor, kind: str | None) -> tuple[_Indexed, bool]:
    """(what is indexed, whether it is declared as a vector index)."""
    items = cursor.inside().split()
    if not items:
        raise cursor.unexpected("a column in brackets")
    found = [_indexed_item(item) for item in items]
    if kind in _SCALAR_KINDS or (kind is None and found[0].opclass is None):
        return found[0], False
    if len(found) > 1:
        raise Unsupported("A vector index has one column.", position=found[1].position)
    return found[0], True


def _indexed_item(item: Cursor) -> _Indexed:
    name, expression = "", None
    if item.word() == "(":
        expression = item.inside().expression("an expression")
    elif item.word(1) == "(":
        start = item.at
        item.at += 1
        item.inside()
        expression = Cursor(item.source, item.tokens[start : item.at]).expression()
    else:
        name = item.name("a column name")
    position = item.position
    opclass = None
    if not item.done and item.word() not in ("ASC", "DESC", "NULLS", "COLLATE"):
        opclass = item.name("an operator class").lower()
    while item.accept_any("ASC", "DESC", "NULLS", "FIRST", "LAST"):
        pass
    item.expect_end()
    return _Indexed(name, expression, opclass, position)


def _metric(indexed: _Indexed) -> Metric:
    """The metric of the operator class; l2 where there is none, and for bit strings."""
    opclass = indexed.opclass
    if opclass is None or opclass in BIT_OPCLASSES:
        return Metric.L2
    if opclass in _SPARSE:
        raise Unsupported(
            f"{opclass} needs SPARSEVEC(n) columns, which are not offered: store VECTOR(n) and "
            f"use vector{opclass.removeprefix('sparsevec')}.",
            position=indexed.position,
        )
    if opclass not in OPCLASSES:
        known = (*OPCLASSES, *BIT_OPCLASSES)
        raise SqlError(
            f"There is no operator class {opclass!r}.{did_you_mean(opclass, known)}",
            position=indexed.position, code="undefined_object", sqlstate="42704",
        )  # fmt: skip
    return OPCLASSES[opclass]


def _options(cursor: Cursor) -> tuple[tuple[str, Any], ...]:
    if cursor.word() == "INCLUDE":
        raise cursor.refuse("INCLUDE is not offered: filters read the table's own columns.")
    return with_options(cursor)


def _condition(cursor: Cursor) -> exp.Expr | None:
    """[WHERE condition], up to the end."""
    if cursor.word() == "TABLESPACE":
        raise cursor.refuse("There are no tablespaces.")
    if not cursor.accept("WHERE"):
        cursor.expect_end()
        return None
    return cursor.expression("a condition")


def drop_index(cursor: Cursor) -> DropIndex:
    """After DROP: INDEX [CONCURRENTLY] [IF EXISTS] a, b."""
    cursor.expect("INDEX")
    _ = cursor.accept("CONCURRENTLY")
    if_exists = cursor.accept("IF", "EXISTS")
    names = tuple(cursor.listed(lambda: cursor.name("an index name")))
    _ = cursor.accept_any("RESTRICT", "CASCADE")
    cursor.expect_end()
    return DropIndex(
        names=names, if_exists=if_exists, text=cursor.source.text, offset=cursor.source.offset
    )


def reindex(cursor: Cursor) -> Reindex:
    """REINDEX [INDEX | TABLE] [CONCURRENTLY] name."""
    cursor.expect("REINDEX")
    what = cursor.accept_any("INDEX", "TABLE")
    if what is None:
        raise cursor.unexpected("INDEX or TABLE")
    _ = cursor.accept("CONCURRENTLY")
    target = cursor.name("a name")
    cursor.expect_end()
    return Reindex(
        target=target,
        is_table=what == "TABLE",
        text=cursor.source.text,
        offset=cursor.source.offset,
    )

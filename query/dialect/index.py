"""CREATE INDEX in pgvector's forms, DROP INDEX, REINDEX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_LATER = {
    "bit_hamming_ops": "BIT(n)", "bit_jaccard_ops": "BIT(n)", "sparsevec_l2_ops": "SPARSEVEC(n)",
    "sparsevec_ip_ops": "SPARSEVEC(n)", "sparsevec_cosine_ops": "SPARSEVEC(n)",
    "sparsevec_l1_ops": "SPARSEVEC(n)",
}  # fmt: skip
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
    column, metric, is_vector = _indexed(cursor, kind)
    options = _options(cursor)
    _refuse_rest(cursor)
    notices: tuple[str, ...] = (
        () if is_vector else (NO_SCALAR_INDEX.format(name=f"{name} " if name else ""),)
    )
    if concurrently:
        notices += ("CONCURRENTLY changes nothing: every index is built in the background.",)
    return CreateIndex(
        table=table, name=name, column=column, kind=kind if is_vector else None, metric=metric,
        options=options, if_not_exists=if_not_exists, notices=notices,
        text=cursor.source.text, offset=cursor.source.offset,
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


def _indexed(cursor: Cursor, kind: str | None) -> tuple[str, Metric, bool]:
    """(column, metric, whether it is declared as a vector index)."""
    items = cursor.inside().split()
    if not items:
        raise cursor.unexpected("a column in brackets")
    columns = [_indexed_column(item) for item in items]
    scalar_kind = kind in _SCALAR_KINDS
    name, opclass, position = columns[0]
    if scalar_kind or (kind is None and opclass is None):
        return name, Metric.L2, False
    if len(columns) > 1:
        raise Unsupported("A vector index has one column.", position=columns[1][2])
    return name, _metric(opclass, position), True


def _indexed_column(item: Cursor) -> tuple[str, str | None, int]:
    """(name, operator class, position of the class)."""
    if item.word() == "(" or item.word(1) == "(":
        raise item.refuse(
            "Indexes on expressions are not offered; index the vector column itself "
            "(HALFVEC columns store half the bytes)."
        )
    name = item.name("a column name")
    position = item.position
    opclass = None
    if not item.done and item.word() not in ("ASC", "DESC", "NULLS", "COLLATE"):
        opclass = item.name("an operator class").lower()
    while item.accept_any("ASC", "DESC", "NULLS", "FIRST", "LAST"):
        pass
    item.expect_end()
    return name, opclass, position


def _metric(opclass: str | None, position: int) -> Metric:
    if opclass is None:
        return Metric.L2
    if opclass in _LATER:
        raise Unsupported(
            f"{opclass} needs {_LATER[opclass]} columns, which are not offered yet.",
            position=position,
        )
    if opclass not in OPCLASSES:
        raise SqlError(
            f"There is no operator class {opclass!r}.{did_you_mean(opclass, OPCLASSES)}",
            position=position, code="undefined_object", sqlstate="42704",
        )  # fmt: skip
    return OPCLASSES[opclass]


def _options(cursor: Cursor) -> tuple[tuple[str, Any], ...]:
    if cursor.word() == "INCLUDE":
        raise cursor.refuse("INCLUDE is not offered: filters read the table's own columns.")
    return with_options(cursor)


def _refuse_rest(cursor: Cursor) -> None:
    if cursor.word() == "WHERE":
        raise cursor.refuse(
            "Partial indexes are not offered: a filter in the query never costs recall, "
            "so index the "
            "whole column."
        )
    if cursor.word() == "TABLESPACE":
        raise cursor.refuse("There are no tablespaces.")
    cursor.expect_end()


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

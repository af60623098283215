"""CREATE INDEX: the definition is checked and recorded; the node builds it in the background."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from nearql.engine.errors import SqlError, Unsupported
from nearql.engine.index.choice import kind_of
from nearql.engine.index.registry import index_kinds
from nearql.engine.schema import Column, IndexDef, TableDef
from nearql.engine.types import Metric
from nearql.query.ddl.columns import check_expression, invalid_option
from nearql.query.ddl.names import (
    all_indexes,
    at,
    check_new_name,
    done,
    find_table,
    taken,
    undefined_column,
)
from nearql.query.dialect import did_you_mean, to_nearql
from nearql.query.dialect.index import BIT_OPCLASSES, OPCLASSES
from nearql.query.guard import position_of
from nearql.query.ports import CatalogView, Database
from nearql.query.result import Result
from nearql.query.rules.common import is_volatile
from nearql.query.sql_terms import SqlTerms
from nearql.query.statements import CreateIndex

_OF_EXPRESSION = (
    "Index {name!r} is recorded and nothing is built: searches by {expression} are computed "
    "exactly for every row that qualifies. Index the column itself to permit approximate answers."
)
_OF_BITS = (
    "Index {name!r} holds nothing: searches that it is for compare the bits of every row, exactly. "
    "Kinds hnsw and ivfflat with bit_hamming_ops are built."
)


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    whole: bool = True

    def holds(self, value: Any) -> bool:
        """Whether the value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class _OneOf:
    values: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"


_RECALL = _Range(0.01, 1.0, whole=False)
_LISTS = _Range(1, 32_768)
_HNSW: Mapping[str, _Range | _OneOf] = {
    "m": _Range(2, 100),
    "ef_construction": _Range(4, 1_000),
    "storage": _OneOf(("float32", "float16", "sq8")),
}
_GRAPH = {"graph_degree": _Range(4, 512), "intermediate_graph_degree": _Range(4, 1_024)}
_IVF = {"lists": _LISTS}
OPTIONS: Mapping[str, Mapping[str, _Range | _OneOf]] = {
    "auto": {**_HNSW, **_IVF},
    "flat": {},
    "hnsw": _HNSW,
    "ivfflat": _IVF,
    "ivfpq": _IVF,
    "ivfrabitq": _IVF,
    "cagra": _GRAPH,
}
_NO_L1 = ("ivfflat", "ivfpq", "ivfrabitq", "cagra")  # whose libraries have no such kernels
_BUILT = (
    "Index {name!r} is built in the background; nearql.indexes shows how far it is. Rows that it "
    "doesn't hold yet are read, so answers are complete meanwhile."
)
_READ = "An index of kind flat holds nothing: searches read every row, exactly."
_NO_DEVICE = "Index {name!r} is recorded: kind cagra needs a GPU, without one searches are exact."
_NO_FAISS = "Index {name!r} is recorded: FAISS is not installed here, so searches are exact."


def create_index(statement: CreateIndex, database: Database) -> Result:
    """Validate and record; on a scalar column, say that nothing was done."""
    table = find_table(statement, database.catalog(), statement.table)
    if statement.where is not None:
        check_expression(statement, statement.where, "WHERE", table)
        _check_stable(statement.where, "The condition")
    if statement.name is not None:
        check_new_name(statement, "index", statement.name)
    recording = _Recording(statement, database, table)
    if statement.expression is not None:
        return _expression(recording, statement.expression)
    column = table.schema.by_name.get(statement.column.lower())
    if column is None or column.hidden:
        raise undefined_column(statement, table, statement.column)
    if column.type.bits is not None and statement.kind is not None:
        return _bits(recording, column)
    if not column.type.is_vector:
        return _scalar(statement, column)
    kind = statement.kind or "auto"
    if statement.opclass in BIT_OPCLASSES:
        raise _wrong_class(statement, f"Column {column.name!r}", column.type.display)
    _check_metric(statement, kind)
    options = _options(statement, kind)
    index = IndexDef("", "", column.name, kind, statement.metric, options)
    return recording.done(index, _told(kind))


@dataclass(frozen=True)
class _Recording:
    """A statement whose index is recorded."""

    statement: CreateIndex
    database: Database
    table: TableDef

    def done(self, index: IndexDef, told: str) -> Result:
        """Record an index under the name that is asked for, or a free one."""
        statement, catalog = self.statement, self.database.catalog()
        name = statement.name or _free_name(catalog, self.table, index.column)
        if name.lower() in all_indexes(catalog):
            if not statement.if_not_exists:
                raise taken(statement, "index", name)
            return done(f"Index {name!r} exists already; nothing was done.")
        condition = None if statement.where is None else to_nearql(statement.where)
        index = replace(index, uuid=str(uuid.uuid4()), name=name, condition=condition)
        self.database.create_index(self.table.name, index, if_not_exists=statement.if_not_exists)
        notices = statement.notices if statement.kind is not None else ()
        return done(
            *notices, told.format(name=name, column=index.column, expression=index.expression)
        )


def _told(kind: str) -> str:
    """What becomes of an index of this kind on this node."""
    if kind in ("flat", "cagra"):
        return _READ if kind == "flat" else _NO_DEVICE
    return _BUILT if index_kinds() else _NO_FAISS


def _expression(recording: _Recording, tree: exp.Expr) -> Result:
    """Checked as an index of its kind would be; nothing is built."""
    statement, table = recording.statement, recording.table
    kind = check_expression(statement, tree, "The indexed expression", table)
    _check_stable(tree, "The expression")
    if statement.kind is None:
        return done(*statement.notices)
    options = _options(statement, statement.kind)
    if kind != "BIT" and not kind.startswith("FLOAT["):
        raise Unsupported(
            f"{to_nearql(tree)} is {kind}: USING {statement.kind} indexes vectors.",
            position=position_of(tree),
        )
    if (kind == "BIT") != (statement.opclass in BIT_OPCLASSES):
        raise _wrong_class(statement, to_nearql(tree), "BIT" if kind == "BIT" else "a vector")
    named = tree.find(exp.Column)
    column = table.schema.by_name[named.name.lower()].name if named is not None else ""
    index = IndexDef(
        "", "", column, statement.kind, statement.metric, options,
        expression=to_nearql(tree), bits=_compared(statement),
    )  # fmt: skip
    understood = SqlTerms().of(table.schema, index) is not None
    return recording.done(index, _told_of(index) if understood else _OF_EXPRESSION)


def _told_of(index: IndexDef) -> str:
    """What becomes of an index, of bit strings too."""
    if index.bits is None:
        return _told(index.kind)
    if not index_kinds():
        return _NO_FAISS
    return _BUILT if kind_of(index) is not None else _OF_BITS


def _check_stable(tree: exp.Expr, what: str) -> None:
    if is_volatile(tree):
        raise Unsupported(
            f"{what} of an index must give the same for a row at any time: {to_nearql(tree)} "
            "doesn't.", position=position_of(tree),
        )  # fmt: skip


def _bits(recording: _Recording, column: Column) -> Result:
    statement, kind = recording.statement, recording.statement.kind or "auto"
    options = _options(statement, kind)
    if statement.opclass is not None and statement.opclass not in BIT_OPCLASSES:
        raise _wrong_class(statement, f"Column {column.name!r}", column.type.display)
    bits = _compared(statement) or "hamming"
    index = IndexDef("", "", column.name, kind, statement.metric, options, bits=bits)
    return recording.done(index, _told_of(index))


def _compared(statement: CreateIndex) -> str | None:
    """By what bit strings are compared; None for vectors."""
    opclass = statement.opclass
    return opclass.split("_")[1] if opclass in BIT_OPCLASSES and opclass else None


def _wrong_class(statement: CreateIndex, what: str, kind: str) -> SqlError:
    fitting = ", ".join(BIT_OPCLASSES) if kind.startswith("BIT") else ", ".join(OPCLASSES)
    return SqlError(
        f"{what} is {kind}, which {statement.opclass} doesn't compare; use one of {fitting}.",
        code="wrong_type", sqlstate="42804",
        position=at(statement, statement.opclass) if statement.opclass else None,
    )  # fmt: skip


def _scalar(statement: CreateIndex, column: Column) -> Result:
    if statement.kind is not None:
        raise Unsupported(
            f"Column {column.name!r} is no vector: USING {statement.kind} indexes "
            f"VECTOR and HALFVEC "
            "columns.", position=at(statement, column.name),
        )  # fmt: skip
    return done(*statement.notices)


def _check_metric(statement: CreateIndex, kind: str) -> None:
    if kind in _NO_L1 and statement.metric is Metric.L1:
        raise Unsupported(
            f"An index of kind {kind} can't compare by L1 distance; hnsw and flat can.",
            position=at(statement, kind),
        )


def _options(statement: CreateIndex, kind: str) -> dict[str, Any]:
    """What WITH says, checked; numbers may stand in quotation marks, as for PostgreSQL."""
    offered = {**OPTIONS[kind], "target_recall": _RECALL}
    options: dict[str, Any] = {}
    for name, value in statement.options:
        if name not in offered:
            raise SqlError(
                f"An index of kind {kind} has no option {name!r}; it has {', '.join(offered)}."
                f"{did_you_mean(name, offered)}",
                code="invalid_option", sqlstate="22023", position=at(statement, name),
            )  # fmt: skip
        options[name] = _number(value) if isinstance(offered[name], _Range) else value
        if not offered[name].holds(options[name]):
            raise invalid_option(statement, name, str(offered[name]))
    m = options.get("m", 16)
    if "ef_construction" in options and options["ef_construction"] < 2 * m:
        raise invalid_option(statement, "ef_construction", f"at least 2 * m = {2 * m}")
    return options


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _free_name(catalog: CatalogView, table: TableDef, column: str) -> str:
    """PostgreSQL's habit: docs_vec_idx, docs_vec_idx1, ..."""
    names = all_indexes(catalog)
    base = f"{table.name}_{column or 'expr'}_idx"
    name, number = base, 0
    while name.lower() in names:
        number += 1
        name = f"{base}{number}"
    return name

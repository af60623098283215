"""`bm25(column, words)`: a column of the scan; `rrf(rank, ...)`: plain arithmetic.

bm25 is how well a row's text answers the words, more is better: 0 where it has none of them, NULL
where the text or the words are NULL. rrf is reciprocal rank fusion (Cormack, Clarke and Buettcher,
SIGIR 2009): the sum of 1 / (60 + rank) over the lists in which a row stands; NULL ranks add
nothing.
"""

from __future__ import annotations

from sqlglot import exp

from nearql.engine.errors import SqlError
from nearql.engine.schema import Column
from nearql.query.binder import Binding, PendingText, Source, own_nodes, unwrapped
from nearql.query.dialect import to_duckdb
from nearql.query.rules.common import pending_value, put_column
from nearql.query.trees import copy_of

BM25 = "bm25"
RRF = "rrf"
_RRF_K = 60


def text_scores(select: exp.Select, binding: Binding) -> None:
    """Replace every bm25() by a column of its table, every rrf() by its sum."""
    for node in list(own_nodes(select)):
        if not isinstance(node, exp.Anonymous):
            continue
        name = str(node.this).lower()
        if name == BM25:
            _score(node, select, binding)
        elif name == RRF:
            _fuse(node)


def _score(node: exp.Anonymous, select: exp.Select, binding: Binding) -> None:
    if len(node.expressions) != 2:
        raise _wrong(node, "it takes a TEXT column and the words to look for")
    found = binding.column(node.expressions[0])
    if found is None or not _is_own(found[0], select, binding):
        raise _wrong(node, "its first argument must be a column of a table in this FROM clause")
    source, column = found
    if column.type.name != "VARCHAR":
        raise _wrong(node, f"column {column.name!r} is {column.type.display}, not TEXT")
    if not binding.is_constant(node.expressions[1]):
        raise _wrong(node, "its words must be the same for every row: a value or a parameter")
    put_column(node, source.refer(_text_column(source, column, node.expressions[1]).name))


def _text_column(source: Source, column: Column, words: exp.Expr) -> PendingText:
    """The column of the source that is this score; made on first use."""
    identity = f"{column.name.lower()} {to_duckdb(words)}"
    for text in source.texts:
        if text.identity == identity:
            return text
    name = f"{source.name}_t{len(source.texts)}"
    value = pending_value(words, f"the words of bm25({source.table.name}.{column.name})")
    text = PendingText(name, column.name, value, identity)
    source.texts.append(text)
    return text


def _fuse(node: exp.Anonymous) -> None:
    if not node.expressions:
        raise _wrong(node, "it takes one rank or more")
    terms: list[exp.Expr] = []
    for rank in node.expressions:
        shifted = exp.Add(
            this=exp.Literal.number(_RRF_K), expression=exp.paren(copy_of(rank), copy=False)
        )
        share = exp.Div(this=exp.Literal.number("1.0e0"), expression=exp.paren(shifted))
        terms.append(exp.Coalesce(this=share, expressions=[exp.Literal.number("0.0e0")]))
    total = terms[0]
    for term in terms[1:]:
        total = exp.Add(this=total, expression=term)
    put_column(node, exp.paren(total))


def _is_own(source: Source, select: exp.Select, binding: Binding) -> bool:
    if source.opaque or source.system or source.materialized is not None:
        return False
    return any(entry.source is source for entry in binding.entries(select).values())


def _wrong(node: exp.Anonymous, why: str) -> SqlError:
    start = unwrapped(node).meta.get("start")
    return SqlError(
        f"{str(node.this).lower()}() can't be computed here: {why}.",
        code="wrong_arguments", sqlstate="42883", position=None if start is None else start + 1,
    )  # fmt: skip

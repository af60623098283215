"""What a statement becomes: SQL for DuckDB, and the relations that must be registered before it
runs.

A plan holds no parameter's value, so it serves every execution of the same text against the same
catalog.

Example: `SELECT title FROM docs WHERE price < 5 ORDER BY vec <-> :q LIMIT 3` becomes

    Query: SELECT title FROM (SELECT ... FROM nq0_1) AS docs ORDER BY docs.nq0_1_d0, docs.nq0_1_key
        LIMIT 3
    `- Relation nq0_1: docs(title) by Nearest(vec, l2, k = 3 + 0)
       |- vector: parameter q
       `- filter: Query: SELECT docs.nq0_2_row FROM (SELECT ... FROM nq0_2) AS docs WHERE price < 5
          `- Relation nq0_2: docs(price) by Scan
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nearql.engine.schema import TableDef
from nearql.engine.types import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nearql.engine.derived import Derivation
    from nearql.query.implied import PartialIndex

INTERNAL = "nq0_"  # how every generated name starts; the guard refuses such names in a statement


def sql_name(parameter: str) -> str:
    """The parameter's name in our SQL: DuckDB takes names or positions, not both."""
    return f"{INTERNAL}p{parameter}" if parameter.isdigit() else parameter


@dataclass(frozen=True, eq=False)
class Value:
    """A vector, a number or a text, known only when the statement runs. One source is set.

    where: what it is compared with, for messages. dimensions: of a vector, where the column says
        so. position: where it is written, 1-based in the request, where that is known.
    bits: how many, of bit strings, which are as vectors of zeros and ones; signs: made of those of
        a vector's elements. A parameter that is meant as bits has a query, too, which reads it
        where it isn't given as text.
    """

    where: str
    parameter: str | None = None
    literal: NDArray[np.float32] | float | str | None = None
    query: Query | None = None
    dimensions: int | None = None
    position: int | None = None
    bits: int | None = None
    signs: bool = False


@dataclass(frozen=True, eq=False)
class Distance:
    """A table's vector column and a query vector, compared. name: the column that this becomes.

    derived: what an expression makes of the column, compared instead; shown: that expression.
    """

    name: str
    column: str
    metric: Metric
    query: Value
    derived: Derivation | None = None
    shown: str = ""


@dataclass(frozen=True, eq=False)
class TextScore:
    """How well a text column answers some words. name: the column that this becomes."""

    name: str
    column: str
    words: Value


@dataclass(frozen=True, eq=False)
class Scan:
    """All rows, or those among them that `filter` returns (row numbers)."""

    filter: Query | None = None


@dataclass(frozen=True, eq=False)
class Nearest:
    """The limit + offset nearest rows among those that `filter` returns (row numbers), in order.

    survivors: where the statement joins: returns how many rows it makes of those found so far; rows
        are fetched until it makes `limit + offset`, or none is left.
    partial: indexes that may be asked besides those over all rows. index: the name of one that is
        over the expression and all rows.
    """

    distance: Distance
    limit: Value
    offset: Value | None = None
    filter: Query | None = None
    survivors: Query | None = None
    partial: tuple[PartialIndex, ...] = ()
    index: str | None = None


@dataclass(frozen=True, eq=False)
class Within:
    """Every row that may be nearer than a radius; the SQL above compares once more, in DuckDB's
    arithmetic.
    """

    distance: Distance
    radius: Value


@dataclass(frozen=True, eq=False)
class KnnJoin:
    """The nearest rows to each row of another relation, as one batch.

    name: the distance's column. left: returns (row id BIGINT, vector FLOAT[]).
    left_name: the column of the relation that holds the left row's id.
    survivors: for a join with further conditions between left and right: returns (left row id, how
        many
        of the rows found so far satisfy them); rows are fetched until `limit + offset` do, or none
        is left.
    """

    name: str
    column: str
    metric: Metric
    left: Query
    left_name: str
    limit: Value
    offset: Value | None = None
    filter: Query | None = None
    survivors: Query | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """What a function over the whole table gives: `kmeans` or `mmr`.

    names: of its own two columns: cluster or rank, and distance.
    count: of clusters or rows. query, balance, fetch: of mmr, the last two None where not given.
    """

    function: str
    column: str
    metric: Metric
    names: tuple[str, str]
    count: Value
    query: Value | None = None
    balance: Value | None = None
    fetch: Value | None = None

    @property
    def values(self) -> list[Value]:
        """All that are given."""
        every = (self.query, self.count, self.balance, self.fetch)
        return [value for value in every if value is not None]


Access = Scan | Nearest | Within | KnnJoin | Made


@dataclass(frozen=True, eq=False)
class Relation:
    """A base table as one SELECT sees it, registered as `name`.

    columns: of the table, under their own names. distances: further columns, that of `access`
        included. texts: columns of full-text scores. row, key: names under which the row number and
        the primary key are added, where something needs them.
    """

    name: str
    table: TableDef
    columns: tuple[str, ...]
    access: Access
    distances: tuple[Distance, ...] = ()
    texts: tuple[TextScore, ...] = ()
    row: str | None = None
    key: str | None = None


@dataclass(frozen=True, eq=False)
class SystemRelation:
    """`nearql.<table>`, registered as `name`."""

    name: str
    table: str


@dataclass(frozen=True, eq=False)
class Materialized:
    """A query's result kept as a temporary table, so that several queries see the same rows under
    the same ids.
    """

    name: str
    query: Query


Step = Relation | SystemRelation | Materialized


@dataclass(frozen=True, eq=False)
class Query:
    """SQL over relations.

    steps: relations that the SQL names, to be made first, in this order.
    parameters: the user's parameters in the SQL, where they have the names that `sql_name` gives.
    vectors: further parameters, name there -> vector.
    volatile: the same inputs may give another answer (random(), now()).
    text: the part of the statement that it is, in the user's words, for EXPLAIN: `str` of it.
    """

    steps: tuple[Step, ...]
    sql: str
    parameters: tuple[str, ...] = ()
    vectors: dict[str, Value] = field(default_factory=dict)
    volatile: bool = False
    text: object = ""


@dataclass(frozen=True, eq=False)
class Output:
    """One column of a select list that needs no DuckDB.

    column: of the table; None = the distance, or `minuend` minus the distance.
    """

    name: str
    column: str | None
    minuend: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A planned query.

    direct: the select list, where the whole statement is one nearest-neighbour search of plain
        columns;
        it is then answered from the arrays, without DuckDB.
    vectors: places of vectors in the answer and the types to show for them; see `shown`.
    notes: what the planner decided and why, for EXPLAIN.
    columns: names of columns in reach, for hints.
    """

    query: Query
    direct: tuple[Output, ...] | None = None
    vectors: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @cached_property
    def tables(self) -> Mapping[str, str]:
        """Names of the tables that it reads, by uuid."""
        return {step.table.uuid: step.table.name for step in relations(self)}


def relations(plan: Plan) -> list[Relation]:
    """Every relation of base tables in a plan, those inside filters and values too."""
    found: dict[str, Relation] = {}
    queries = [plan.query]
    while queries:
        for step in queries.pop().steps:
            if isinstance(step, Materialized):
                queries.append(step.query)
            elif isinstance(step, Relation) and step.name not in found:
                found[step.name] = step
                queries.extend(queries_of(step))
    return list(found.values())


def queries_of(step: Relation) -> list[Query]:
    """The queries that must be answered to make a relation."""
    access = step.access
    found = [one.query.query for one in step.distances]
    found += [one.words.query for one in step.texts]
    if isinstance(access, Nearest | KnnJoin):
        found += [access.limit.query, access.offset.query if access.offset else None]
    if isinstance(access, Within):
        found.append(access.radius.query)
    elif isinstance(access, Made):
        found += [value.query for value in access.values]
    else:
        found.append(access.filter)
    if isinstance(access, Nearest | KnnJoin):
        found.append(access.survivors)
    if isinstance(access, KnnJoin):
        found.append(access.left)
    return [query for query in found if query is not None]

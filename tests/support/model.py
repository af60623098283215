"""The naive executor: NumPy distances in plain DuckDB, and random tables for it and for NearQL.

Statements are written once, with what the two spell differently in braces: `{l2:a|b}` is `a <-> b`
for NearQL, and for the model a call that computes the same in Python. `{present:x}` and `{tie:x}`
are what NearQL adds by its own rules under LIMIT: that x is not NULL, and x as a last sort key.
Vectors are small whole numbers, so that sums are exact in any order and distances tie often.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nearql.engine.types import OnConflict
from nearql.query.settings import SessionSettings
from support.sql import Sql

OPERATORS = {"l2": "<->", "ip": "<#>", "cos": "<=>", "l1": "<+>"}
DIMENSIONS = 3
_DISTANCE = re.compile(r"\{(l2|ip|cos|l1):([^|]*)\|((?:[^{}]|\{[^}]*\})*)\}")
_PRESENT = re.compile(r"\{present:([^}]*)\}")
_TIE = re.compile(r"\{tie:([^}]*)\}")


def near(text: str) -> str:
    """The statement for NearQL."""
    text = _DISTANCE.sub(lambda m: f"({m[2]} {OPERATORS[m[1]]} {m[3]})", text)
    return _TIE.sub("", _PRESENT.sub("TRUE", text))


def naive(text: str) -> str:
    """The statement for the model."""
    text = _DISTANCE.sub(lambda m: f"m_{m[1]}({m[2]}, {m[3]})", text)
    text = _TIE.sub(r"\1", _PRESENT.sub(r"((\1) IS NOT NULL)", text))
    return re.sub(r":(\w+)", r"$\1", text)


def _distance(kind: str, a: list[float] | None, b: list[float] | None) -> float | None:
    if a is None or b is None:
        return None
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if kind == "l2":
        return math.sqrt(float(((x - y) ** 2).sum()))
    if kind == "l1":
        return float(np.abs(x - y).sum())
    if kind == "ip":
        return -float((x * y).sum())
    lengths = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return min(max(1.0 - float((x * y).sum()) / lengths, 0.0), 2.0) if lengths else math.nan


@dataclass(frozen=True)
class Data:
    """Two tables. vecs: None = NULL."""

    vecs: list[list[int] | None]
    cats: list[str | None]
    prices: list[int | None]
    queries: list[list[int] | None]
    shards: int = 1

    def docs(self) -> pa.Table:
        """id, cat, price, vec."""
        return pa.table(
            {
                "id": pa.array(range(len(self.vecs)), pa.int64()),
                "cat": pa.array(self.cats, pa.string()),
                "price": pa.array(self.prices, pa.int64()),
                "vec": pa.array(self.vecs, pa.list_(pa.float32())),
            }
        )

    def asked(self) -> pa.Table:
        """id, v."""
        return pa.table(
            {
                "id": pa.array(range(len(self.queries)), pa.int64()),
                "v": pa.array(self.queries, pa.list_(pa.float32())),
            }
        )


class Model:
    """The same tables in DuckDB."""

    def __init__(self, data: Data) -> None:
        self.connection = duckdb.connect(":memory:", config={"threads": "1"})
        for kind in OPERATORS:
            self._function(kind)
        self.connection.register("docs_given", data.docs())
        self.connection.register("asked_given", data.asked())
        self.connection.execute(
            "CREATE TABLE docs (id BIGINT PRIMARY KEY, cat TEXT, price BIGINT, vec FLOAT[])"
        )
        self.connection.execute("INSERT INTO docs SELECT * FROM docs_given")
        self.connection.execute("CREATE TABLE asked AS SELECT * FROM asked_given")

    def _function(self, kind: str) -> None:
        self.connection.create_function(  # type: ignore[call-overload]  # the stubs know enums only
            f"m_{kind}_raw",
            lambda a, b: pa.array(
                [_distance(kind, x, y) for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)],
                pa.float32(),
            ),
            ["FLOAT[]", "FLOAT[]"],
            "FLOAT",
            type="arrow",
            null_handling="special",
        )
        self.connection.execute(
            f"CREATE MACRO m_{kind}(a, b) AS m_{kind}_raw(CAST(a AS FLOAT[]), CAST(b AS FLOAT[]))"
        )

    def rows(self, text: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of the statement's model form."""
        sql = naive(text)
        used = {name: params[name] for name in params if re.search(rf"\${name}\b", sql)}
        return self.connection.execute(sql, used).fetchall()


@contextmanager
def both(data: Data) -> Iterator[tuple[Sql, Model]]:
    """The tables in NearQL and in the model; so few rows are not worth a second thread."""
    sql, model = Sql(SessionSettings(duck_threads=1)), Model(data)
    sql.run(
        "CREATE TABLE docs (id BIGINT PRIMARY KEY, cat TEXT, price BIGINT, vec VECTOR(3)) "
        f"WITH (shards = {data.shards});"
        "CREATE TABLE asked (id BIGINT PRIMARY KEY, v VECTOR(3))"
    )
    for name, rows in (("docs", data.docs()), ("asked", data.asked())):
        outcome = sql.session.insert_rows(name, rows, OnConflict.ERROR)
        assert (outcome.inserted, outcome.failed) == (rows.num_rows, ())
    try:
        yield sql, model
    finally:
        sql.database.close()
        model.connection.close()


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Comparable rows: NaN equals NaN; floats to 5 digits, for sums in another order."""
    return [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else float(f"{value:.5g}") + 0.0
    return tuple(value) if isinstance(value, list) else value


def check(sql: Sql, model: Model, text: str, params: dict[str, Any], *, ordered: bool) -> None:
    """NearQL and the model give the same rows, in the same order where it is defined."""
    used = {name: value for name, value in params.items() if f":{name}" in text}
    got, expected = plain(sql.rows(near(text), used)), plain(model.rows(text, params))
    if not ordered:
        got, expected = sorted(got, key=repr), sorted(expected, key=repr)
    assert got == expected, near(text)


def vector(chance: random.Random) -> list[int]:
    """Whole numbers near zero: equal ones, zero ones and equal distances are common."""
    return [chance.randint(-2, 2) for _ in range(DIMENSIONS)]


def tables(chance: random.Random) -> Data:
    """Up to 40 rows, some without a vector."""
    count = chance.choice([0, 1, 5, 20, 40])

    def maybe(value: Any) -> Any:
        return None if chance.random() < 0.15 else value

    return Data(
        [maybe(vector(chance)) for _ in range(count)],
        [maybe(chance.choice("abc")) for _ in range(count)],
        [maybe(chance.randint(0, 9)) for _ in range(count)],
        [maybe(vector(chance)) for _ in range(chance.randint(0, 5))],
        chance.choice([1, 3]),
    )

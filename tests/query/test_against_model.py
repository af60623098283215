"""Random tables, filters and statements against a naive model: NumPy distances in plain DuckDB.

The statements are those of tests/scripts/model.sql, written once, with the operators as
`{l2:a|b}`: NearQL gets `a <-> b`, the model calls a function that computes the same in Python.
Vectors are small whole numbers, so that sums are exact in any order and distances tie often.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.types import OnConflict
from nearql.query import executor, knn
from support.sql import Sql

SCRIPT = Path(__file__).parents[1] / "scripts" / "model.sql"
OPERATORS = {"l2": "<->", "ip": "<#>", "cos": "<=>", "l1": "<+>"}
DIMENSIONS = 3
_DISTANCE = re.compile(r"\{(l2|ip|cos|l1):([^|]*)\|((?:[^{}]|\{[^}]*\})*)\}")
_PRESENT = re.compile(r"\{present:([^}]*)\}")


def near(text: str) -> str:
    """The statement for NearQL."""
    text = _DISTANCE.sub(lambda m: f"({m[2]} {OPERATORS[m[1]]} {m[3]})", text)
    return _PRESENT.sub("TRUE", text)


def naive(text: str) -> str:
    """The statement for the model."""
    text = _DISTANCE.sub(lambda m: f"m_{m[1]}({m[2]}, {m[3]})", text)
    text = _PRESENT.sub(r"(\1 IS NOT NULL)", text)
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
        self.connection = duckdb.connect(":memory:")
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
    """The tables in NearQL and in the model."""
    sql, model = Sql(), Model(data)
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


FILTERS = [
    "TRUE",
    "price < 5",
    "cat = 'a'",
    "cat IS NULL OR price BETWEEN 2 AND 6",
    "docs.id IN (SELECT id FROM asked)",
    "cat LIKE '%b%' AND NOT price = 3",
    "price > (SELECT avg(price) FROM docs)",
    "EXISTS (SELECT 1 FROM asked a WHERE a.id = docs.id)",
    "{l2:vec|:q2} > 1.5",
    "{l2:vec|:q} < :r",
    "{cos:vec|:q2} <= 0.5 AND price >= 1",
    "price = :n",
]


def forms() -> list[tuple[str, bool]]:
    """Every statement form, and whether it defines the order of its rows."""
    parts = SCRIPT.read_text().split("\n\n")[1:]
    lines = [part.splitlines() for part in parts]
    return [(" ".join(rest), first == "-- ordered") for first, *rest in lines]


def statement(chance: random.Random, text: str) -> tuple[str, dict[str, Any]]:
    """A statement of this form, and its parameters."""
    kind = chance.choice(list(OPERATORS))
    text = text.replace("{D}", f"{{{kind}:vec|:q}}").replace("{J}", f"{{{kind}:docs.vec|a.v}}")
    text = text.replace("{F}", f"({chance.choice(FILTERS)})")
    params = {
        "q": vector(chance), "q2": vector(chance), "k": chance.randint(0, 12),
        "o": chance.randint(0, 4), "r": chance.randint(-3, 6) / 2, "n": chance.randint(0, 9),
    }  # fmt: skip
    return text, params


CHANGES = [
    "DELETE FROM docs WHERE id % 7 = :n",
    "UPDATE docs SET price = price + 1, cat = 'c' WHERE id % 5 = :n",
    "UPDATE docs SET vec = (SELECT v FROM asked WHERE asked.id = :n) WHERE docs.id % 3 = 0",
    (
        "INSERT INTO docs SELECT id + 100, cat, 1, vec FROM docs WHERE id % 4 = :n "
        "ON CONFLICT DO NOTHING"
    ),
    "DELETE FROM docs WHERE price > (SELECT avg(price) + 3 FROM docs)",
]


def change(sql: Sql, model: Model, chance: random.Random) -> None:
    """Write something to both."""
    text, params = chance.choice(CHANGES), {"n": chance.randint(0, 4)}
    used = params if ":n" in text else {}
    if sql.run(text, used).row_count:
        model.connection.execute(naive(text), used)


@pytest.mark.parametrize("seed", range(12))
def test_statements_equal_the_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is pushed down, the rows are those of the naive statement, for every form.

    Every other time nothing is fetched beyond k at first, so that joins have to widen.
    """
    chance = random.Random(seed)
    if seed % 2:
        for module in (executor, knn):
            monkeypatch.setattr(module, "_EXTRA", 0)
            monkeypatch.setattr(module, "_WIDEN", 2)
    with both(tables(chance)) as (sql, model):
        for form, ordered in forms():
            if chance.random() < 0.2:
                change(sql, model, chance)
            text, params = statement(chance, form)
            check(sql, model, text, params, ordered=ordered)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_many_statements_equal_the_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, many more."""
    test_statements_equal_the_model(seed, monkeypatch)

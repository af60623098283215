"""The differential fuzzer: statements of `support.grammar` by NearQL and by a naive executor.

A seed stands for one pair of random tables, `STATEMENTS` statements over them and some writes in
between. Besides the comparison with the model, every statement is asked in other words that mean
the same: with a condition that is always true, through a common table expression, and, where it
only filters, as two parts that are united.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from nearql.engine.errors import NearQLError
from nearql.query import executor, knn
from support.grammar import VIEWS, Grammar, Statement
from support.model import Model, both, near, plain, tables
from support.sql import Sql

STATEMENTS = 40  # of one seed
CHANGES = (
    "DELETE FROM docs WHERE id % 7 = 3",
    "UPDATE docs SET price = price + 1, cat = 'c' WHERE id % 5 = 2",
    "UPDATE docs SET vec = (SELECT v FROM asked WHERE asked.id = 1) WHERE docs.id % 3 = 0",
    (
        "INSERT INTO docs SELECT id + 100, cat, 1, vec FROM docs WHERE id % 4 = 1 "
        "ON CONFLICT DO NOTHING"
    ),
)


@dataclass(frozen=True)
class Failure:
    """A statement that two executors answer differently."""

    seed: int
    text: str
    params: dict[str, Any]
    why: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.why}\n  {self.text}\n  {self.params}"


def run(
    seed: int, statements: int = STATEMENTS, *, words: int | None = None
) -> tuple[int, list[Failure]]:
    """(statements compared, those that differ) of one seed.

    words: in how many other words each is asked; None = all that there are.
    """
    chance = random.Random(seed)
    failures: list[Failure] = []
    with _narrow(seed % 2 == 1), both(tables(chance)) as (sql, model):
        for name, query in VIEWS.items():
            sql.run(f"CREATE VIEW {name} AS {query}")
            model.connection.execute(f"CREATE VIEW {name} AS {query}")
        grammar = Grammar(chance)
        for _ in range(statements):
            if chance.random() < 0.05:
                _change(chance.choice(CHANGES), sql, model)
            made = grammar.statement()
            why = _differs(made, sql, model, words)
            if why:
                failures.append(Failure(seed, near(made.text), made.params, why))
    return statements, failures


@contextmanager
def _narrow(narrow: bool) -> Iterator[None]:
    """Every other seed fetches nothing beyond k at first, so that joins have to widen."""
    modules = [vars(executor), vars(knn)]
    kept = [(module, module["_EXTRA"], module["_WIDEN"]) for module in modules]
    try:
        for module in modules if narrow else []:
            module["_EXTRA"], module["_WIDEN"] = 0, 2
        yield
    finally:
        for module, extra, widen in kept:
            module["_EXTRA"], module["_WIDEN"] = extra, widen


def _change(text: str, sql: Sql, model: Model) -> None:
    sql.run(text)
    model.connection.execute(text)


def _differs(made: Statement, sql: Sql, model: Model, words: int | None) -> str | None:
    used = {name: value for name, value in made.params.items() if f":{name}" in made.text}
    used = {n: v for n, v in used.items() if f":{n}" in near(made.text)}
    got = _answer(sql, near(made.text), used)
    try:
        expected = model.rows(made.text, made.params)
    except duckdb.Error as error:
        return None if isinstance(got, str) else f"the model refuses it: {error}"
    if isinstance(got, str):
        return f"refused: {got}"
    got, expected = plain(got), plain(expected)
    if _sorted(got) != _sorted(expected):
        return f"{len(got)} rows {_sorted(got)[:6]} but expected {_sorted(expected)[:6]}"
    if made.ordered and got != expected:
        return f"order {got[:8]} but expected {expected[:8]}"
    return _means_otherwise(list(_other_words(made))[:words], sql, used, got)


def _means_otherwise(
    others: list[tuple[str, str]], sql: Sql, used: dict[str, Any], got: list[tuple[Any, ...]]
) -> str | None:
    """The same in other words."""
    for name, text in others:
        again = _answer(sql, text, used)
        if isinstance(again, str):
            return f"{name} refused: {again}: {text}"
        if _sorted(plain(again)) != _sorted(got):
            return f"{name} gives {_sorted(plain(again))[:6]} but {_sorted(got)[:6]}: {text}"
    return None


def _other_words(made: Statement) -> Iterator[tuple[str, str]]:
    text = near(made.text)
    if not text.startswith("WITH "):
        yield "a CTE around it", f"WITH around AS ({text}) SELECT * FROM around"
    if " WHERE " in text:
        always = " WHERE length('a') = 1 AND "
        yield "a filter that is always true", text.replace(" WHERE ", always, 1)
    if made.split is not None:
        parts = (made.split, f"({made.split}) IS NOT TRUE")
        yield "two parts united", " UNION ALL ".join(f"({text} AND {part})" for part in parts)


def _sorted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def _answer(sql: Sql, text: str, params: dict[str, Any]) -> list[tuple[Any, ...]] | str:
    try:
        return sql.rows(text, params)
    except NearQLError as error:
        return f"{error.code}: {error.detail}"

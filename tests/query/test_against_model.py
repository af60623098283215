"""Random tables, filters and statements against a naive model; see `support.model`.

The statements are those of tests/scripts/model.sql.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from nearql.query import executor, knn
from support.model import OPERATORS, Model, both, check, naive, tables, vector
from support.sql import Sql

SCRIPT = Path(__file__).parents[1] / "scripts" / "model.sql"


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


@pytest.mark.parametrize("seed", range(3))
def test_names_mean_what_they_did(seed: int) -> None:
    """Merged sub-queries take nobody's names away: tests/scripts/names.sql."""
    chance = random.Random(seed)
    parts = SCRIPT.with_name("names.sql").read_text().split("\n\n")[1:]
    with both(tables(chance)) as (sql, model):
        for part in parts:
            params = {"q": vector(chance), "q2": vector(chance), "r": chance.randint(-1, 6) / 2}
            check(sql, model, " ".join(part.split()), params, ordered=False)

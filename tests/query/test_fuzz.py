"""Statements with parts dropped, doubled and swapped: an answer or a clear error, never a crash."""

from __future__ import annotations

import random

import pytest

from support.sql import Sql
from support.wrong_text import crash, mutated, statements


def fuzz(sql: Sql, seed: int, rounds: int) -> None:
    """Run mutated statements and report every crash."""
    sql.run("CREATE TABLE queries (id BIGINT PRIMARY KEY, v VECTOR(2))")
    sql.run("INSERT INTO queries SELECT id, vec FROM docs WHERE id < 5")
    chance, texts = random.Random(seed), statements()
    found = [crash(sql, mutated(chance.choice(texts), chance)) for _ in range(rounds)]
    problems = [one for one in found if one]
    assert not problems, "\n".join(problems)


def test_mutated_statements_never_crash(docs: Sql) -> None:
    fuzz(docs, 0, 300)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_mutated_statements_never_crash(docs: Sql, seed: int) -> None:
    fuzz(docs, seed, 1500)

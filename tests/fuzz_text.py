"""`python3 dev.py fuzz-text [--seconds 600] [--seed N]`: wrong SQL text, for as long as asked.

Statements of the golden scripts and of pgvector's surface with parts dropped, doubled and swapped,
attempts to break out among them. Each is answered, or refused with a code and, where the request is
wrong, a place in the text. Prints how many of each; exit code 1 where one was neither.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from nearql.engine.errors import NearQLError
from support.escapes import ESCAPES
from support.sql import Sql
from support.wrong_text import PARAMS, crash, mutated, statements


def verdict(sql: Sql, text: str) -> tuple[str, str | None]:
    """(what came of it, what is wrong with that)."""
    wrong = crash(sql, text)
    if wrong is not None:
        return "crash", wrong
    try:
        sql.run(text, PARAMS, statement_timeout_ms=5000)
    except NearQLError as error:
        placed = error.position is not None or error.http_status != 400
        return error.code, None if placed else f"{text}\n  no position: {error.code} {error}"
    return "answered", None


def database() -> Sql:
    """The tables that the scripts are about."""
    sql = Sql()
    sql.run(
        "CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, price DOUBLE, cat TEXT, "
        "vec VECTOR(2))"
    )
    sql.run("CREATE TABLE queries (id BIGINT PRIMARY KEY, v VECTOR(2))")
    for i in range(30):
        sql.run(f"INSERT INTO docs VALUES ({i}, 'title {i}', {i}, 'a', '[{i % 5},{i // 5}]')")
    sql.run("INSERT INTO queries SELECT id, vec FROM docs WHERE id < 5")
    return sql


def main() -> int:
    """Run until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    chance, texts = (
        random.Random(seed),
        [*statements(), *ESCAPES],
    )
    sql, found, failed = database(), Counter[str](), 0
    until = time.monotonic() + given.seconds
    while time.monotonic() < until:
        what, wrong = verdict(sql, mutated(chance.choice(texts), chance))
        found[what] += 1
        if wrong is not None:
            failed += 1
            print(wrong, flush=True)
    print(f"seed {seed}: {found.total()} statements, {failed} wrong")
    print(", ".join(f"{what} {count}" for what, count in found.most_common()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Statements with parts dropped, doubled and swapped, and what may not come of them."""

from __future__ import annotations

import random
from pathlib import Path

from nearql.engine.errors import InternalError, NearQLError
from support.sql import Sql

SCRIPTS = Path(__file__).parents[1] / "scripts"
PARAMS = {"q": [1, 2], "p": [2, 1], "k": 3, "o": 1, "r": 1.5}


def statements() -> list[str]:
    """Those of the golden scripts, and writes."""
    paths = [*sorted((SCRIPTS / "rules").glob("*.sql")), SCRIPTS / "writes.sql"]
    blocks = [block for path in paths for block in path.read_text().split("\n\n")]
    return [block.partition("\n----\n")[0] for block in blocks]


def mutated(text: str, chance: random.Random) -> str:
    """One to three small changes."""
    words = text.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(words)), chance.randrange(len(words))
        match chance.randrange(5):
            case 0 if len(words) > 3:
                del words[at]
            case 1:
                words.insert(at, words[other])
            case 2:
                words[at], words[other] = words[other], words[at]
            case 3:
                words[at] = chance.choice(
                    ["NULL", "*", "vec", "id", "1", "'x'", "docs", "(", ")", ":q"]
                )
            case _:
                words[at] = chance.choice(
                    ["DESC", "DISTINCT", "LATERAL", "<->", "LIMIT", "AND", "-"]
                )
    return " ".join(words)


def crash(sql: Sql, text: str) -> str | None:
    """What went wrong other than by a clear error."""
    try:
        sql.run(text, PARAMS, statement_timeout_ms=5000)
    except InternalError as error:
        return f"{text}\n  {error.detail}"
    except NearQLError as error:
        if "nq_" in error.detail.replace("nq0_", "nq_") and not _names_ours(text):
            return f"{text}\n  shows internal names: {error.detail}"
    except Exception as error:  # noqa: BLE001  this is what the test looks for
        return f"{text}\n  {type(error).__name__}: {error}"
    return None


def _names_ours(text: str) -> bool:
    """Whether the text itself says an internal name, which the error then repeats."""
    return "nq" in text.lower() or "__" in text

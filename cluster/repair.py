"""Whether the copies of a shard hold the same, at one LSN; and which of them is wrong if not.

Each copy is asked for the hashes of what it holds at an LSN (`ShardCopy.content_hashes`). While
writes go on the LSN must lie a little ahead, so that no copy is past it when it is asked; without
writes it must be the end of the log, as no other comes. So the first try names the present end;
where a copy was past it already, the next goes ahead by twice what was written meanwhile; where it
did not come in time, the next names the end again.

    digests 7f.. 7f.. 7f..      all agree
    digests 7f.. 7f.. 03..      the third has diverged: most have the other
    digests 7f.. 03..           two copies disagree, nobody can say which is right: the operator

A copy that can't be read for damage is corrupt whatever the others hold.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nearql.engine.errors import Corruption, NearQLError

TRIES = 12
AHEAD = 32  # records, at least, where writes go on

OK, DIVERGED, CORRUPT, DISPUTED, UNKNOWN = "ok", "diverged", "corrupt", "disputed", "unknown"


@dataclass(frozen=True, slots=True)
class Digest:
    """What a copy holds. lsn: at which; None: it could not be told, as the copy is at `at` now.

    at: its last applied record. rows: live ones. hashes: of all rows, as bytes.
    """

    at: int
    lsn: int | None = None
    rows: int = 0
    hashes: bytes = b""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one copy. state: ok, diverged, corrupt, disputed (copies differ, and no majority says
    which is right) or unknown (it could not be asked).
    """

    node: str
    state: str
    lsn: int | None = None
    rows: int | None = None
    detail: str = ""


# Asks node for its digest at an LSN (None: just where it is), waiting so many seconds.
Ask = Callable[[str, int | None, float], Digest]


@dataclass
class _Found:
    digests: dict[str, Digest] = field(default_factory=dict)
    errors: dict[str, NearQLError] = field(default_factory=dict)


def compare(ask: Ask, nodes: Sequence[str], timeout_s: float) -> list[Verdict]:
    """Verdicts on the copies on these nodes; the first should be the primary's.

    Where the copies could not be seen at one LSN in time, those that answered are `unknown`.
    """
    give_up, ahead = time.monotonic() + timeout_s, 0
    found = _Found()
    with ThreadPoolExecutor(max(1, len(nodes)), thread_name_prefix="compare") as pool:
        for _ in range(TRIES):
            left = give_up - time.monotonic()
            if left <= 0:
                break
            where = _asked(pool, ask, nodes, None, min(left, 5.0))
            if not where.digests:
                return judge(where.digests, where.errors, None)
            start = max(digest.at for digest in where.digests.values())
            found = _asked(pool, ask, list(where.digests), start + ahead, min(left, 10.0))
            found.errors.update(where.errors)
            late = [d for d in found.digests.values() if d.lsn is None]
            if not late:
                return judge(found.digests, found.errors, start + ahead)
            furthest = max(digest.at for digest in late)
            passed = furthest > start + ahead
            ahead = max(AHEAD, 2 * ahead, 2 * (furthest - start)) if passed else 0
    return judge(found.digests, found.errors, None)


def _asked(
    pool: ThreadPoolExecutor, ask: Ask, nodes: Sequence[str], lsn: int | None, wait_s: float
) -> _Found:
    found = _Found()
    answers = {node: pool.submit(ask, node, lsn, wait_s) for node in nodes}
    for node, answer in answers.items():
        try:
            found.digests[node] = answer.result()
        except NearQLError as error:
            found.errors[node] = error
    return found


def judge(
    digests: Mapping[str, Digest], errors: Mapping[str, NearQLError], lsn: int | None
) -> list[Verdict]:
    """What is to be said of each copy. lsn: at which all digests are; None: at none."""
    verdicts = [_failed(node, error) for node, error in errors.items()]
    if lsn is None:
        detail = "copies could not be seen at one LSN in time"
        return verdicts + [Verdict(node, UNKNOWN, detail=detail) for node in digests]
    if not digests:
        return verdicts
    held = Counter((digest.rows, digest.hashes) for digest in digests.values())
    best, count = held.most_common(1)[0]
    agreed = count * 2 > len(digests)
    for node, digest in digests.items():
        right = (digest.rows, digest.hashes) == best
        state = OK if len(held) == 1 or (agreed and right) else DIVERGED if agreed else DISPUTED
        detail = "" if state == OK else f"others hold {_others(held, digest)}"
        verdicts.append(Verdict(node, state, digest.lsn, digest.rows, detail))
    return verdicts


def _failed(node: str, error: NearQLError) -> Verdict:
    state = CORRUPT if isinstance(error, Corruption) else UNKNOWN
    return Verdict(node, state, detail=error.detail)


def _others(held: Counter[tuple[int, bytes]], digest: Digest) -> str:
    rows = sorted({rows for rows, hashes in held if (rows, hashes) != (digest.rows, digest.hashes)})
    same = rows == [digest.rows]
    return "other values" if same else f"{' or '.join(map(str, rows))} rows"

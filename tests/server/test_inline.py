"""Searches that the event loop runs itself: which, how many at a time, and never another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nearql.query.plan_cache import Pace, Prepared
from nearql.server import inline as server_inline
from nearql.server.inline import BURST, CROWDED_S, Inline
from nearql.server.node import Node
from support.http_node import Served, make_config, serve

SEARCH = "SELECT id FROM docs ORDER BY vec <-> :q LIMIT 3"
QUICK_S = 0.0005


def prepared(*seconds: float) -> Prepared:
    """A text whose last runs took so long."""
    made = Prepared((), ())
    for one in seconds:
        made.pace.told({}, one)
    return made


def inline(limit_ms: int = 1, *, room: bool = True) -> Inline:
    return Inline(limit_ms, lambda: room)


def test_only_what_was_short_in_all_of_its_last_runs_is_taken() -> None:
    quick = [QUICK_S] * Pace.RUNS
    assert inline().takes(prepared(*quick), {})
    assert not inline().takes(prepared(*quick[1:]), {})
    assert not inline().takes(prepared(*quick[1:], 0.0011), {})
    assert inline().takes(prepared(0.0011, *quick), {})
    assert inline().takes(prepared(*[0.001] * Pace.RUNS), {})


def test_nothing_is_taken_where_the_limit_is_zero_or_memory_is_short() -> None:
    quick = prepared(*[QUICK_S] * Pace.RUNS)
    assert not inline(0).takes(quick, {})
    assert not inline(room=False).takes(quick, {})


def test_runs_under_other_settings_tell_nothing() -> None:
    quick = prepared(*[QUICK_S] * Pace.RUNS)
    assert not inline().takes(quick, {"target_recall": 0.99})
    quick.pace.told({"target_recall": 0.99}, QUICK_S)
    assert not inline().takes(quick, {})


def test_a_run_that_takes_much_longer_goes_back_to_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, quick = inline(), prepared(*[QUICK_S] * Pace.RUNS)
    times = iter([0.0, 0.003, 1.0, 2.0, 2.005, 3.0])
    monkeypatch.setattr(server_inline, "time", SimpleNamespace(monotonic=lambda: next(times)))

    async def run_twice() -> tuple[bool, bool]:
        found.run(quick, lambda: None)
        after_short = found.takes(quick, {})
        found.run(quick, lambda: None)
        return after_short, found.takes(quick, {})

    assert asyncio.run(run_twice()) == (True, False)


def test_an_error_is_the_callers() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def run() -> None:
        inline().run(prepared(), fail)

    with pytest.raises(ValueError, match="no"):
        asyncio.run(run())


def test_more_at_once_go_to_the_threads_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    found, quick = inline(), prepared(*[QUICK_S] * Pace.RUNS)
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(server_inline, "time", SimpleNamespace(monotonic=lambda: now.value))

    async def run() -> list[bool]:
        taken = []
        for _ in range(BURST):
            taken.append(found.takes(quick, {}))
            found.run(quick, lambda: None)
        taken.append(found.takes(quick, {}))
        await asyncio.sleep(0)
        taken.append(found.takes(quick, {}))
        now.value += CROWDED_S
        return [*taken, found.takes(quick, {})]

    assert asyncio.run(run()) == [True] * BURST + [False, False, True]


def test_the_loops_next_turn_begins_a_new_burst() -> None:
    found, quick = inline(), prepared(*[QUICK_S] * Pace.RUNS)

    async def run() -> list[bool]:
        taken = []
        for _ in range(BURST + 1):
            taken.append(found.takes(quick, {}))
            found.run(quick, lambda: None)
            await asyncio.sleep(0)
        return taken

    assert asyncio.run(run()) == [True] * (BURST + 1)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Served]:
    """A node with a table of 50 rows; every search counts as short, on any machine."""
    config = make_config(tmp_path)
    with closing(Node.open(config)) as node, serve(node, config) as running:
        edge = running.server.config.app.state.edge  # type: ignore[union-attr]
        edge.inline = Inline(3_600_000, node.has_room)
        assert running.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY, vec VECTOR(2))").is_success
        rows = ", ".join(f"({n}, '[{n}, 0]')" for n in range(50))
        assert running.sql(f"INSERT INTO docs VALUES {rows}").is_success
        yield running


def rows_of(served: Served, text: str, **members: Any) -> list[Any]:
    answer = served.sql(text, **members)
    assert answer.is_success, answer.text
    found: list[Any] = answer.json()["rows"]
    return found


def runs(served: Served) -> int:
    found: int = served.server.config.app.state.edge.inline.runs  # type: ignore[union-attr]
    return found


def test_a_repeated_search_is_run_by_the_loop_with_the_same_answers(real: Served) -> None:
    for n in range(Pace.RUNS + 5):
        assert rows_of(real, SEARCH, params={"q": [n, 0]})[0] == [n]
    assert runs(real) == 4  # the first run plans; the next eight show that they are short
    assert rows_of(real, SEARCH, params={"q": [7, 0]}) == [[7], [6], [8]]


def test_what_is_written_is_seen_by_the_next_search(real: Served) -> None:
    for _ in range(Pace.RUNS + 2):
        rows_of(real, SEARCH, params={"q": [0, 0]})
    before = runs(real)
    assert rows_of(real, "DELETE FROM docs WHERE id = 0") == []
    assert rows_of(real, SEARCH, params={"q": [0, 0]}) == [[1], [2], [3]]
    assert runs(real) == before + 1


def test_an_error_in_the_loop_is_a_problem_as_ever(real: Served) -> None:
    for _ in range(Pace.RUNS + 2):
        rows_of(real, SEARCH, params={"q": [0, 0]})
    before = runs(real)
    answer = real.sql(SEARCH, params={"q": [1, 2, 3]})
    assert answer.status_code == 400
    assert answer.json()["code"] == "wrong_dimensions"
    assert runs(real) == before + 1


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM docs ORDER BY vec <-> :q LIMIT :k",
        "SELECT id FROM docs ORDER BY vec <-> (SELECT vec FROM docs WHERE id = :k) LIMIT 3",
        "SELECT count(*) FROM docs",
    ],
)
def test_what_has_no_bound_of_its_own_is_never_run_by_the_loop(real: Served, text: str) -> None:
    for _ in range(Pace.RUNS + 2):
        rows_of(real, text, params={"q": [1, 0], "k": 3})
    assert runs(real) == 0


def test_a_filter_that_is_not_kept_is_evaluated_by_a_thread(real: Served) -> None:
    text = "SELECT id FROM docs WHERE id >= :least ORDER BY vec <-> :q LIMIT 1"
    for _ in range(Pace.RUNS + 3):
        assert rows_of(real, text, params={"q": [0, 0], "least": 4}) == [[4]]
    kept = real.node.session().filters.stats()
    before = runs(real)
    assert before == 2
    assert rows_of(real, text, params={"q": [0, 0], "least": 9}) == [[9]]
    assert real.node.session().filters.stats().entries == kept.entries + 1
    assert rows_of(real, "SELECT state, text FROM nearql.queries WHERE state = 'failed'") == []


def test_a_changed_table_is_planned_by_a_thread_first(real: Served) -> None:
    for _ in range(Pace.RUNS + 2):
        rows_of(real, SEARCH, params={"q": [0, 0]})
    before = runs(real)
    rows_of(real, "ALTER TABLE docs ADD COLUMN more TEXT")
    rows_of(real, SEARCH, params={"q": [0, 0]})
    assert runs(real) == before

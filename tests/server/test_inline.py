"""Searches that the event loop runs itself: which, how many at a time, and never another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from nearql.engine.errors import Conflict, InvalidValue
from nearql.query import executor
from nearql.query.at_once import shared_key
from nearql.query.plan_cache import Pace, Prepared
from nearql.query.watchdog import Stop
from nearql.query.weight import Deferred
from nearql.server import inline as server_inline
from nearql.server.access.principal import LOCAL
from nearql.server.edge import Edge
from nearql.server.inline import BURST, CROWDED_S, Inline
from nearql.server.request import SqlRequest
from nearql.server.routes.sql import Later, Question, answers_of, group_of
from support.http_node import Served

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


def same(members: Sequence[str]) -> list[str | Exception]:
    """Answers each member with itself; 'wrong' with an error."""
    return [ValueError(one) if one == "wrong" else one for one in members]


def test_a_run_that_takes_much_longer_goes_back_to_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, quick = inline(), prepared(*[QUICK_S] * Pace.RUNS)
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(server_inline, "time", SimpleNamespace(monotonic=lambda: now.value))

    def taking(seconds: float) -> Callable[[list[str]], list[str | Exception]]:
        def answer(members: list[str]) -> list[str | Exception]:
            now.value += seconds
            return same(members)

        return answer

    async def run() -> list[bool]:
        await found.ask("key", quick, "q", taking(0.003))
        taken = [found.takes(quick, {})]
        both = [found.ask("key", quick, "q", taking(0.006)) for _ in range(2)]
        await asyncio.gather(*both)
        taken.append(found.takes(quick, {}))
        await found.ask("key", quick, "q", taking(0.005))
        return [*taken, found.takes(quick, {})]

    assert asyncio.run(run()) == [True, True, False]


def test_requests_found_together_are_one_call_for_each_key() -> None:
    found, quick, calls = inline(), prepared(), list[list[str]]()

    def answer(members: list[str]) -> list[str | Exception]:
        calls.append(list(members))
        return same(members)

    async def run() -> list[Any]:
        joined = [found.ask(key, quick, f"{key}{n}", answer) for n, key in enumerate("aba")]
        return await asyncio.gather(*joined)

    assert asyncio.run(run()) == ["a0", "b1", "a2"]
    assert calls == [["a0", "a2"], ["b1"]]
    assert (found.runs, found.calls) == (3, 2)


def test_an_error_is_the_answer_of_the_one_who_caused_it() -> None:
    async def run() -> list[Any]:
        found = inline()
        joined = [found.ask("key", prepared(), one, same) for one in ("a", "wrong", "b")]
        return await asyncio.gather(*joined, return_exceptions=True)

    first, error, last = asyncio.run(run())
    assert (first, last) == ("a", "b")
    assert str(error) == "wrong"


def test_an_error_of_the_call_is_everybodys() -> None:
    def fail(members: list[str]) -> list[str | Exception]:
        raise RuntimeError("broken")

    async def run() -> list[Any]:
        found = inline()
        joined = [found.ask("key", prepared(), one, fail) for one in ("a", "b")]
        return await asyncio.gather(*joined, return_exceptions=True)

    assert list(map(str, asyncio.run(run()))) == ["broken", "broken"]


def test_a_request_that_is_gone_leaves_the_others_their_answers() -> None:
    async def run() -> str:
        found = inline()
        gone, stays = (found.ask("key", prepared(), one, same) for one in ("a", "b"))
        gone.cancel()
        return await stays

    assert asyncio.run(run()) == "b"


def test_more_at_once_go_to_the_threads_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    found, quick = inline(), prepared(*[QUICK_S] * Pace.RUNS)
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(server_inline, "time", SimpleNamespace(monotonic=lambda: now.value))

    async def run() -> list[bool]:
        taken, joined = [], []
        for _ in range(BURST):
            taken.append(found.takes(quick, {}))
            joined.append(found.ask("key", quick, "q", same))
        taken.append(found.takes(quick, {}))
        await asyncio.gather(*joined)
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
            await found.ask("key", quick, "q", same)
        return taken

    assert asyncio.run(run()) == [True] * (BURST + 1)


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


@pytest.mark.parametrize("text", [SEARCH, "SELECT count(*) FROM docs"])
def test_a_request_is_counted_once_among_plans_that_were_kept(real: Served, text: str) -> None:
    plans = real.node.session().plans
    before = plans.hits, plans.misses
    for _ in range(Pace.RUNS + 4):  # the first is parsed; of a search the last are the loop's
        rows_of(real, text, params={"q": [0, 0]})
    assert (plans.hits, plans.misses) == (before[0] + Pace.RUNS + 3, before[1] + 1)


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


def joined(real: Served, params: dict[str, Any], text: str = SEARCH, settings: Any = None) -> Any:
    """A request as it joins a group."""
    node = real.node
    asked = SqlRequest(text, params, settings)
    question = Question(
        body=b"", content_type="", request_id=None, session=None, arrow=False,
        started=time.perf_counter(), stop=Stop(), node=node, principal=LOCAL,
    )  # fmt: skip
    known = Later(asked, node.session().known_search(text))
    return question, known, copy_context(), group_of(question, known)[1]


def test_the_loop_waits_for_no_table_that_is_being_altered(
    real: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of(real, SEARCH, params={"q": [0, 0]})
    checked: list[str] = []

    def altered(view: Any, table: Any) -> None:
        checked.append(table.name)
        raise Conflict("It changed.", code="schema_changed")

    monkeypatch.setattr(executor, "check_schema", altered)
    session, params = real.node.session(), {"q": [0, 0]}
    with pytest.raises(Deferred):
        session.execute(SEARCH, params, prepared=session.known_search(SEARCH), at_once=True)
    assert checked == ["docs"]  # once: between two tries it would sleep


def edge_of(real: Served) -> Edge:
    found: Edge = real.server.config.app.state.edge  # type: ignore[union-attr]
    return found


def shown(made: Any) -> Any:
    return orjson.loads(made.pieces[0])["rows"]


def test_a_group_gets_an_answer_for_each(real: Served) -> None:
    rows_of(real, SEARCH, params={"q": [0, 0]})
    members = [joined(real, {"q": [n, 0]}) for n in (5, 0, 49, 5)]
    asked = real.node.session().statements
    before = next(asked._ids)
    made = answers_of(edge_of(real), members)
    assert next(asked._ids) == before + 1  # it was no statement of its own
    assert list(map(shown, made)) == [
        [[5], [4], [6]], [[0], [1], [2]], [[49], [48], [47]], [[5], [4], [6]],
    ]  # fmt: skip


def test_what_a_group_logs_names_one_of_its_requests(
    real: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of(real, SEARCH, params={"q": [0, 0]})
    members = []
    for name in ("first", "second"):
        with bound_contextvars(request_id=name):
            members.append(joined(real, {"q": [5, 0]}))
    seen: list[Any] = []
    statements = real.node.session().statements
    monkeypatch.setattr(statements, "_slow_s", 0.0)
    monkeypatch.setattr(statements, "on_slow", lambda _: seen.append(get_contextvars()))
    with bound_contextvars(request_id="whoever came first in this turn of the loop"):
        answers_of(edge_of(real), members)
    assert seen == [{"request_id": "first"}]


def test_in_a_group_each_gets_its_own_error(real: Served) -> None:
    rows_of(real, SEARCH, params={"q": [0, 0]})
    members = [joined(real, params) for params in ({"q": [5, 0]}, {"q": [1, 2, 3]}, {"q": None})]
    first, wrong, null = answers_of(edge_of(real), members)
    assert shown(first) == [[5], [4], [6]]
    assert isinstance(wrong, InvalidValue)
    assert wrong.code == "wrong_dimensions"
    assert shown(null) == []


def test_what_may_share_a_call(real: Served) -> None:
    text = "SELECT id FROM docs WHERE id >= :least ORDER BY vec <-> :q LIMIT 3 OFFSET 1"
    rows_of(real, text, params={"q": [0, 0], "least": 10})
    known = real.node.session().known_search(text)
    key = shared_key(known, {"q": [1, 2], "least": 4})
    assert key == shared_key(known, {"least": 4, ":q": [3, 4]})
    others = ({"q": 1, "least": 5}, {"q": 1, "least": True}, {"q": 1, "least": 4.0}, {"q": 1})
    assert all(shared_key(known, other) != key for other in others)
    assert shared_key(known, {"q": 1, "least": 0.0}) != shared_key(known, {"q": 1, "least": -0.0})
    groups = [
        group_of(*joined(real, {"q": [1, 2], "least": 4}, text, {"latency_budget_ms": given})[:2])
        for given in (1, True, 1)
    ]
    assert groups[0] == groups[2] != groups[1]  # true is an error
    assert shared_key(known, {"q": [1, 2], "least": [4]}) is None
    members = [joined(real, {"q": [n, 0], "least": 10}, text) for n in (0, 30)]
    assert list(map(shown, answers_of(edge_of(real), members))) == [
        [[11], [12], [13]], [[29], [31], [28]],
    ]  # fmt: skip


def test_of_several_statements_the_last_is_the_answer(real: Served) -> None:
    text = f"{SEARCH}; SELECT id FROM docs ORDER BY vec <-> :p LIMIT 2"
    for _ in range(Pace.RUNS + 2):
        assert rows_of(real, text, params={"q": [5, 0], "p": [9, 0]}) == [[9], [8]]
    assert real.node.session().known_search(text) is None  # a group would answer the first
    assert runs(real) == 0


@pytest.mark.parametrize("condition", ["id >= :q[1]", "id = list_sum(:q)"])
def test_a_filter_by_the_query_vector_is_each_requests_own(real: Served, condition: str) -> None:
    text = f"SELECT id FROM docs WHERE {condition} ORDER BY vec <-> :q LIMIT 1"
    assert rows_of(real, text, params={"q": [5, 0]}) == [[5]]
    known = real.node.session().known_search(text)
    known.strategy = "hnsw/faiss_cpu"
    assert shared_key(known, {"q": [30, 0]}) is None  # it would get the rows left for [5, 0]

"""Read-your-writes: which tokens a connection sends, also where its requests overlap."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nearql
from nearql.client import errors
from nearql.client.session import SessionTokens
from support.clients import Connect
from support.scripted_server import (
    Received,
    Reply,
    ScriptedServer,
    http,
    in_turn,
    problem,
    rows,
)

STORED = b'{"rows": 1, "inserted": 1, "updated": 0, "failed": []}'


def test_an_answer_covers_what_was_sent_with_its_request() -> None:
    seen = SessionTokens()
    assert seen.text is None
    seen.answered(None, "A")
    seen.answered("A", "B")
    assert seen.text == "B"
    seen.answered("B", "C")
    seen.answered("B", "D")  # overlapped: knows nothing of C
    assert seen.text == "C,D"
    seen.answered("C,D", None)
    assert seen.text == "C,D"
    seen.answered("C,D", "E")
    assert seen.text == "E"
    seen.answered(None, "E")
    assert seen.text == "E"
    seen.forget()
    assert seen.text is None


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_nothing_seen_is_lost_and_the_tokens_stay_few(events: list[tuple[int, bool]]) -> None:
    """Requests of four clients begin and end in any order; a token stands for a set of writes."""
    seen, covers, under_way = SessionTokens(), dict[str, frozenset[int]](), dict[int, str | None]()
    done: set[int] = set()
    for number, (client, begins) in enumerate(events):
        if begins:
            under_way.setdefault(client, seen.text)
        elif client in under_way:
            sent = under_way.pop(client)
            before = [covers[token] for token in sent.split(",")] if sent else []
            covers[str(number)] = frozenset({number}).union(*before)
            done.add(number)
            seen.answered(sent, str(number))
        kept = (seen.text or "").split(",") if seen.text else []
        assert set().union(*(covers[token] for token in kept)) == done
        assert len(kept) <= 5


def test_stored_rows_are_part_of_the_session(connect: Connect) -> None:
    def answer(request: Received) -> Reply:
        return http(200, STORED, NearQL_Session="R") if "/rows" in request.target else rows()

    with ScriptedServer(answer) as node, connect(node.url) as db:
        db.insert("t", {"id": [1]})
        db.sql("SELECT 1")
        assert [r.headers.get("nearql-session") for r in node.received] == [None, "R"]


def test_batches_under_way_together_are_all_part_of_it(connect: Connect) -> None:
    """The first two batches wait for each other, so neither's token can cover the other's."""
    together = threading.Barrier(2, timeout=60)

    def answer(request: Received) -> Reply:
        if "/rows" not in request.target:
            return rows(stats={"session": "last"})
        together.wait()
        return http(200, STORED, NearQL_Session=f"R{request.headers['nearql-request-id'][-1]}")

    with ScriptedServer(answer) as node, connect(node.url) as db:
        db.insert("t", [{"id": 1}, {"id": 2}], batch_bytes=1)
        db.sql("SELECT 1")
        db.sql("SELECT 1")
        read, again = (r for r in node.received if r.target == "/v1/sql")
        assert sorted(read.headers["nearql-session"].split(",")) == ["R1", "R2"]
        assert again.headers["nearql-session"] == "last"


@pytest.mark.parametrize("code", ["rolled_back_session", "invalid_session"])
def test_a_session_that_ended_is_told_once(connect: Connect, code: str) -> None:
    lost = problem(409, code)
    answers = rows(stats={"session": "old"}), lost, rows(stats={"session": "new"})
    with ScriptedServer(in_turn(*answers)) as node, connect(node.url) as db:
        db.sql("SELECT 1")
        with pytest.raises(errors.Conflict):
            db.sql("SELECT 1")
        assert db.sql("SELECT 1").fetchall() == [(1,)]
        sent = [request.headers.get("nearql-session") for request in node.received]
        assert sent == [None, "old", None]


def test_threads_share_a_session() -> None:
    """A write by one thread is part of what the next read of another sends."""
    answers = {"1": rows(stats={"session": "A"}), "2": rows(stats={"session": "B"})}
    with (
        ScriptedServer(lambda r: answers.get(str(r.json["sql"])[-1], rows())) as node,
        nearql.connect(node.url) as db,
    ):
        for text in ("INSERT INTO t VALUES (1) -- 1", "INSERT INTO u VALUES (1) -- 2"):
            writer = threading.Thread(target=db.sql, args=(text,))
            writer.start()
            writer.join()
        db.sql("SELECT 3")
        assert node.received[-1].headers["nearql-session"] == "B"

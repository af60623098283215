"""Read levels and session tokens: what is waited for, what is refused, what is confirmed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nearql.engine.errors import Conflict, InvalidValue, StatementTimeout, Unavailable
from nearql.query.replicas import Freshness
from nearql.server.gateway import reads
from nearql.server.session_token import SESSION_HEADER, session_token
from support.cluster_edges import MakePair, Pair
from support.fake_cluster import FakeCopy
from support.http_node import DOCS, FakeResult

TOKEN = {(DOCS.uuid, 0): (4, 17)}


def entered(
    pair: Pair, token: dict[Any, Any], level: str | None, staleness: int | None = None
) -> Any:
    """Enter a read of docs here."""
    gateway = pair.here.gateway
    wanted = Freshness(level, staleness, time.monotonic() + 30)
    return gateway.reads(token).enter([DOCS.uuid], wanted)


@pytest.mark.parametrize(
    ("token", "level", "asked"),
    [
        ({}, None, ("read", "any", None, None)),
        ({}, "session", ("read", "any", None, None)),
        ({}, "linearizable", ("read", "linearizable", None, None)),
        (TOKEN, None, ("read", "session", (4, 17), None)),
        (TOKEN, "any", ("read", "any", None, None)),
        ({("another", 0): (4, 17)}, None, ("read", "any", None, None)),
    ],
)
def test_the_level_that_a_copy_is_asked_for(
    make_pair: MakePair, token: dict[Any, Any], level: str | None, asked: tuple[Any, ...]
) -> None:
    with make_pair(2) as pair:
        entered(pair, token, level)
        assert pair.here.copy.asked == [asked]


def open_now(pair: Pair, token: dict[Any, Any], level: str | None) -> bool:
    return bool(pair.here.gateway.reads(token).at_once([DOCS.uuid], level))


@pytest.mark.parametrize(
    ("token", "level", "is_open", "asked"),
    [
        ({}, None, True, []),
        ({}, "any", True, []),
        ({}, "session", True, []),
        ({("another", 0): (4, 17)}, None, True, []),
        (TOKEN, None, True, [("read", "session", (4, 17), None)]),
        (TOKEN, "session", True, [("read", "session", (4, 17), None)]),
        (TOKEN, "any", True, []),
        ({}, "bounded", False, []),
        ({}, "linearizable", False, []),
    ],
)
def test_what_may_be_read_without_waiting(
    make_pair: MakePair, token: dict[Any, Any], level: str | None, is_open: bool, asked: list[Any]
) -> None:
    with make_pair(2) as pair:
        assert open_now(pair, token, level) is is_open
        assert pair.here.copy.asked == asked


def test_a_copy_that_is_not_so_far_is_not_read_without_waiting(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        for error in (StatementTimeout("not yet"), Conflict("lost", code="rolled_back")):
            pair.here.copy.gate = error
            assert not open_now(pair, TOKEN, None)
        assert open_now(pair, {}, None)
        pair.here.copy.readable = False
        assert not open_now(pair, {}, None)
        assert not pair.here.gateway.reads({}).at_once(["a table that is gone"], None)


def test_bounded_needs_a_bound(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        with pytest.raises(InvalidValue, match="max_staleness_ms"):
            entered(pair, {}, "bounded")
        entered(pair, {}, "bounded", 500)
        assert pair.here.copy.asked == [("read", "bounded", None, 500)]


def test_a_linearizable_read_is_confirmed_at_its_end(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        confirm = entered(pair, {}, "linearizable")
        assert pair.here.copy.grant.confirmed == 0
        pair.here.copy.grant.error = Unavailable("The lease ended.", code="lease_lost")
        with pytest.raises(Unavailable):
            confirm()


def test_a_copy_that_lost_what_the_session_saw(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        pair.here.copy.gate = Conflict("Rolled back.", code="rolled_back", epoch=4, lsn=17)
        with pytest.raises(Conflict, match="'docs'") as caught:
            entered(pair, TOKEN, None)
        assert caught.value.code == "rolled_back_session"
        assert caught.value.extra == {"epoch": 4, "lsn": 17}


def test_a_missing_copy_is_said(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "COMES_UP_S", 0.0)
    with make_pair(2) as pair:
        pair.here.copy.readable = False
        with pytest.raises(Unavailable) as caught:
            entered(pair, {}, "any")
        assert caught.value.code == "shard_unavailable"


def test_a_copy_that_was_made_a_moment_ago_is_waited_for(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def readable(copy: FakeCopy) -> bool:
        asked.append(True)
        return len(asked) > 3

    with make_pair(2) as pair:
        monkeypatch.setattr(FakeCopy, "readable", property(readable), raising=False)
        entered(pair, {}, "any")
        assert len(asked) == 4


def test_a_table_that_was_dropped_meanwhile_is_the_planners_to_tell(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        wanted = Freshness("any", None, time.monotonic() + 30)
        pair.here.gateway.reads({}).enter(["dropped"], wanted)()
        assert pair.here.copy.asked == []


def test_a_token_reaches_the_session_and_is_not_refused_for_being_ahead(
    make_pair: MakePair,
) -> None:
    with make_pair(2) as pair:
        shards = [{"table": "docs", "shard": 0, "epoch": 4, "lsn": 17}]
        token = session_token(pair.here.node, {}, shards)
        pair.here.session.answers["SELECT 1"] = lambda call: FakeResult(stats={"shards": shards})
        answer = pair.here.client.post(
            "/v1/sql", json={"sql": "SELECT 1"}, headers={SESSION_HEADER: token}
        )
        assert answer.status_code == 200, answer.text
        reads = pair.here.session.calls[0].reads
        assert reads is not None
        assert list(reads.seen) == shards
        assert answer.json()["stats"]["session"] == token

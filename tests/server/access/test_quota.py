"""Requests per second and at a time, by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearql.engine.errors import Overloaded
from nearql.server.access.principal import LOCAL, Principal
from nearql.server.access.quota import KEYS_KEPT, Quotas
from nearql.server.access.rights import ALL
from support.secured import ROOT_KEY, secured


def somebody(key: str = "k1", **limits: int) -> Principal:
    return Principal("ann", "key", ALL, key, **limits)


def ask(quotas: Quotas, principal: Principal) -> bool:
    """Whether a request passes."""
    try:
        with quotas.request(principal):
            return True
    except Overloaded:
        return False


def test_a_rate_is_a_burst_and_then_even() -> None:
    now = [100.0]
    quotas = Quotas(2, 0, lambda: now[0])
    assert [ask(quotas, somebody()) for _ in range(3)] == [True, True, False]
    assert ask(quotas, somebody("k2"))
    now[0] += 0.5
    assert [ask(quotas, somebody()) for _ in range(2)] == [True, False]
    now[0] += 100
    assert [ask(quotas, somebody()) for _ in range(3)] == [True, True, False]


def test_requests_at_a_time() -> None:
    quotas = Quotas(0, 2)
    with quotas.request(somebody()), quotas.request(somebody()):
        assert not ask(quotas, somebody())
        assert ask(quotas, somebody("k2"))
    assert ask(quotas, somebody())


def test_a_request_that_fails_gives_its_place_back() -> None:
    quotas = Quotas(0, 1)
    with pytest.raises(ValueError, match="x"), quotas.request(somebody()):
        raise ValueError("x")
    assert ask(quotas, somebody())


def test_a_key_s_own_limits_win() -> None:
    quotas = Quotas(1, 1, lambda: 0.0)
    assert [ask(quotas, somebody(rate=3)) for _ in range(4)] == [True, True, True, False]


def test_who_is_counted() -> None:
    assert not Quotas(5, 5).limit(LOCAL)
    assert Quotas(5, 0).limit(somebody())
    assert not Quotas(0, 0).limit(somebody())
    assert Quotas(0, 0).limit(somebody(rate=1))


def test_what_is_kept_is_bounded() -> None:
    quotas = Quotas(1, 0, lambda: 0.0)
    with quotas.request(somebody("held")):
        for number in range(KEYS_KEPT + 10):
            assert ask(quotas, somebody(str(number)))
        assert len(quotas._used) == KEYS_KEPT
        assert "held" in quotas._used


def test_over_http_429_says_when(tmp_path: Path) -> None:
    with secured(tmp_path) as node:
        key = node.new_key("busy", role="reader", rate=1)
        answers = [node.request("GET", "/v1/whoami", key) for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "key_rate_exceeded"
        assert refused[0].headers["retry-after"] == "1"
        assert node.request("GET", "/v1/whoami", ROOT_KEY).status_code == 200

"""Every route with every kind of credentials. A route that is not in the table below fails."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from nearql.server.routes import Rule
from nearql.server.routes.all import ROUTES
from support.secured import Secured, make_token, secured, unsigned_token

# method and path -> what a request with the right rights answers (None: any status but 401, 403).
# A new route needs its line here and its rule in routes.all.
RULES: dict[tuple[str, str], Rule] = {
    ("POST", "/v1/sql"): Rule.BY_TABLE,
    ("POST", "/v1/tables/{table}/rows"): Rule.BY_TABLE,
    ("GET", "/v1/tables"): Rule.BY_TABLE,
    ("GET", "/v1/tables/{table}"): Rule.BY_TABLE,
    ("GET", "/v1/tables/{table}/map"): Rule.BY_TABLE,
    ("GET", "/v1/cluster"): Rule.BY_TABLE,
    ("GET", "/v1/cluster/nodes"): Rule.ANYBODY,
    ("GET", "/v1/cluster/shards"): Rule.BY_TABLE,
    ("POST", "/v1/cluster/tokens"): Rule.ADMIN,
    ("DELETE", "/v1/cluster/nodes/{node}"): Rule.ADMIN,
    ("POST", "/v1/cluster/move"): Rule.ADMIN,
    ("POST", "/v1/cluster/drain"): Rule.ADMIN,
    ("POST", "/v1/cluster/rebalance"): Rule.ADMIN,
    ("POST", "/v1/cluster/failover"): Rule.ADMIN,
    ("GET", "/v1/jobs"): Rule.ADMIN,
    ("GET", "/v1/jobs/{job}"): Rule.ADMIN,
    ("DELETE", "/v1/jobs/{job}"): Rule.ADMIN,
    ("POST", "/v1/backup"): Rule.ADMIN,
    ("POST", "/v1/restore"): Rule.ADMIN,
    ("GET", "/v1/keys"): Rule.ADMIN,
    ("POST", "/v1/keys"): Rule.ADMIN,
    ("DELETE", "/v1/keys/{key}"): Rule.ADMIN,
    ("POST", "/v1/keys/{key}/rotate"): Rule.ANYBODY,
    ("POST", "/v1/revocations"): Rule.ADMIN,
    ("POST", "/v1/login"): Rule.OPEN,
    ("DELETE", "/v1/login"): Rule.ANYBODY,
    ("GET", "/v1/whoami"): Rule.ANYBODY,
    ("GET", "/livez"): Rule.OPEN,
    ("GET", "/readyz"): Rule.OPEN,
    ("GET", "/leaderz"): Rule.OPEN,
    ("GET", "/metrics"): Rule.ALL_TABLES,
    ("GET", "/openapi.json"): Rule.OPEN,
    ("GET", "/docs"): Rule.OPEN,
    ("GET", "/"): Rule.OPEN,
    ("GET", "/assets/{asset}"): Rule.OPEN,
}
# For a user with rights on another table only: routes whose answer is about `docs`.
FORBIDDEN_ELSEWHERE = {
    ("POST", "/v1/sql"), ("POST", "/v1/tables/{table}/rows"), ("GET", "/v1/tables/{table}"),
    ("GET", "/v1/tables/{table}/map"),
}  # fmt: skip
# Further refusals, by the handler: another's key; what is no session.
FORBIDDEN_BY_HANDLER = {("POST", "/v1/keys/{key}/rotate"), ("DELETE", "/v1/login")}
# What a reader of all tables may not: he may not write.
FORBIDDEN_TO_READERS = {("POST", "/v1/tables/{table}/rows")}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("routes")) as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
        running.done("CREATE TABLE other (id BIGINT PRIMARY KEY)")
        yield running


@pytest.fixture(scope="module")
def keys(node: Secured) -> dict[str, str]:
    """A key or token by what it is."""
    past = int(time.time()) - 3600
    ended = node.new_key("ended", role="admin", expires_in_s=1)
    node.layer.store._now = lambda: time.time() + 2  # the clock of this node, two seconds on
    foreign = make_token(b"a secret that no key set holds, 32 bytes", role="admin")
    header = {"jwk": {"kty": "oct", "k": "AAAA"}, "jku": "http://evil.example/keys"}
    return {
        "reader": node.new_key("reader", role="reader"),
        "writer of another table": node.new_key("writer", role="writer", tables=["other"]),
        "nobody": node.new_key("nobody"),
        "expired key": ended,
        "expired token": make_token(role="admin", iat=past, exp=past + 60),
        "forged key": "nq_" + "A" * 43,
        "forged token": foreign,
        "forged token with a key in it": make_token(
            b"\0" * 32, header=header, role="admin", sub="mallory"
        ),
        "alg: none": unsigned_token(role="admin"),
        "unknown key id": make_token(header={"kid": "k2"}, role="admin"),
        "another audience": make_token(role="admin", aud="elsewhere"),
        "another issuer": make_token(role="admin", iss="elsewhere"),
        "no exp": make_token(role="admin", exp=None),
        "too long a life": make_token(role="admin", exp=int(time.time()) + 100_000),
        "tampered token": make_token(role="reader")[:-4] + "AAAA",
        "no role and no user": make_token(sub="unknown"),
    }


INVALID = [
    "expired key", "expired token", "forged key", "forged token", "forged token with a key in it",
    "alg: none", "unknown key id", "another audience", "another issuer", "no exp",
    "too long a life", "tampered token", "no role and no user",
]  # fmt: skip


def ask(node: Secured, method: str, path: str, key: str | None) -> int:
    """The status of a harmless request to a route, about the table docs."""
    where = path.replace("{table}", "docs").replace("{key}", "0" * 12)
    where = where.replace("{asset}", "dashboard.js").replace("{node}", "n9")
    content: bytes | None = None
    headers = {"Content-Type": "application/json"}
    if path == "/v1/sql":
        content = b'{"sql": "SELECT * FROM docs"}'
    elif path.endswith("/rows"):
        content, headers = b'{"id": 1}', {"Content-Type": "application/x-ndjson"}
    elif method == "POST":
        content = json.dumps({}).encode()
    answer = node.request(method, where, key, content=content, headers=headers)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


def test_every_route_has_its_rule() -> None:
    assert {(e.method, e.path): e.rule for e in ROUTES} == RULES


@pytest.mark.parametrize(("method", "path"), RULES, ids=lambda value: str(value))
def test_a_route_without_credentials(node: Secured, method: str, path: str) -> None:
    status = ask(node, method, path, None)
    assert (status == 401) == (RULES[method, path] is not Rule.OPEN)


@pytest.mark.parametrize("who", INVALID)
def test_credentials_that_are_not_valid_open_no_route(
    node: Secured, keys: dict[str, str], who: str
) -> None:
    for (method, path), rule in RULES.items():
        status = ask(node, method, path, keys[who])
        assert (status == 401) == (rule is not Rule.OPEN), path


@pytest.mark.parametrize(("method", "path"), RULES, ids=lambda value: str(value))
def test_a_route_with_too_few_rights(
    node: Secured, keys: dict[str, str], method: str, path: str
) -> None:
    rule, route = RULES[method, path], (method, path)
    elsewhere = route in FORBIDDEN_ELSEWHERE or rule in (Rule.ADMIN, Rule.ALL_TABLES)
    refused = elsewhere or route in FORBIDDEN_BY_HANDLER
    assert (ask(node, method, path, keys["writer of another table"]) == 403) == refused
    assert (ask(node, method, path, keys["nobody"]) == 403) == refused
    to_readers = route in FORBIDDEN_TO_READERS | FORBIDDEN_BY_HANDLER or rule is Rule.ADMIN
    assert (ask(node, method, path, keys["reader"]) == 403) == to_readers

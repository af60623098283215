"""`auth.mode = required` over a real node and a real socket: who gets in, and to what."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearql.server.access.layer import AccessLayer
from nearql.server.config import ConfigError
from nearql.server.node import Node
from support.secured import ROOT_KEY, Secured, bearer, make_token, secured, secured_config


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Tables docs (two rows) and secret (one row); users reader, writer of docs, nobody, root."""
    with secured(tmp_path_factory.mktemp("secured")) as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(2))")
        running.done("CREATE TABLE secret (id BIGINT PRIMARY KEY, word TEXT)")
        running.done("INSERT INTO docs VALUES (1, 'one', '[1,0]'), (2, 'two', '[0,1]')")
        running.done("INSERT INTO secret VALUES (1, 'xyzzy')")
        yield running


@pytest.fixture(scope="module")
def reader(node: Secured) -> str:
    return node.new_key("reader", role="reader")


@pytest.fixture(scope="module")
def writer(node: Secured) -> str:
    """May write docs, and nothing else."""
    return node.new_key("writer", role="writer", tables=["docs"])


def refusal(answer: Any) -> tuple[int, str]:
    """Status and code of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_without_a_key_nothing_but_health_answers(node: Secured) -> None:
    assert refusal(node.sql("SELECT 1", None)) == (401, "unauthenticated")
    assert node.sql("SELECT 1", None).headers["www-authenticate"] == "Bearer"
    assert refusal(node.request("GET", "/no/such/route", None)) == (401, "unauthenticated")
    assert node.request("GET", "/livez", None).status_code == 200
    assert node.request("GET", "/livez", "wrong").status_code == 200


@pytest.mark.parametrize("key", ["nq_wrong", "x", ROOT_KEY[:-1], ROOT_KEY + "0"])
def test_a_wrong_key_is_refused(node: Secured, key: str) -> None:
    assert refusal(node.sql("SELECT 1", key)) == (401, "invalid_token")


@pytest.mark.parametrize("header", ["Authorization", "Cookie", "Origin"])
def test_what_says_who_asks_comes_once(node: Secured, header: str) -> None:
    """What stands before the node may have looked at the other one."""
    said = bearer(ROOT_KEY)["Authorization"] if header == "Authorization" else "x"
    twice = [(header, said), (header, said), *bearer(ROOT_KEY).items()][: 2 + (said == "x")]
    answer = node.served.client.get("/v1/whoami", headers=twice)
    assert refusal(answer) == (401, "invalid_token")


def test_another_scheme_is_refused(node: Secured) -> None:
    answer = node.request("GET", "/v1/whoami", None, headers={"Authorization": "Basic eA=="})
    assert refusal(answer) == (401, "invalid_token")


def test_a_reader_reads_everything_and_changes_nothing(node: Secured, reader: str) -> None:
    assert node.done("SELECT word FROM secret", reader) == [["xyzzy"]]
    for text in (
        "INSERT INTO docs VALUES (9, 'x', '[1,1]')",
        "UPDATE docs SET title = 'x'",
        "DELETE FROM docs",
        "TRUNCATE docs",
        "DROP TABLE docs",
        "CREATE TABLE more (id BIGINT PRIMARY KEY)",
        "CREATE TABLE more AS SELECT * FROM docs",
        "CREATE INDEX ON docs USING hnsw (vec vector_l2_ops)",
        "ALTER TABLE docs ADD COLUMN x BIGINT",
        "EXPLAIN ANALYZE DELETE FROM docs",
        "GRANT ADMIN ON docs TO reader",
        "CREATE USER mallory WITH (role = admin)",
        "DROP USER writer",
        "KILL 1",
    ):
        assert refusal(node.sql(text, reader)) == (403, "forbidden"), text
    assert node.done("SELECT count(*) FROM docs") == [[2]]


HIDDEN = [
    "SELECT * FROM secret",
    "SELECT * FROM main.secret",
    'SELECT * FROM "SECRET"',
    "TABLE secret",
    "SELECT (SELECT max(word) FROM secret)",
    "SELECT * FROM docs WHERE title IN (SELECT word FROM secret)",
    "SELECT * FROM docs WHERE EXISTS (SELECT 1 FROM secret)",
    "WITH s AS (SELECT * FROM secret) SELECT * FROM s",
    "WITH docs AS (SELECT * FROM secret) SELECT * FROM docs",
    "WITH RECURSIVE r AS (SELECT id FROM secret UNION ALL SELECT id + 1 FROM r) SELECT * FROM r",
    "SELECT * FROM docs JOIN secret USING (id)",
    "SELECT * FROM docs, LATERAL (SELECT word FROM secret) s",
    "SELECT title FROM docs UNION ALL SELECT word FROM secret",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM secret))",
    "SELECT id FROM docs ORDER BY (SELECT max(word) FROM secret)",
    "SELECT count(*) FILTER (WHERE title = (SELECT max(word) FROM secret)) FROM docs",
    "INSERT INTO docs SELECT id + 10, word, '[1,1]' FROM secret",
    "INSERT INTO docs VALUES (11, (SELECT max(word) FROM secret), '[1,1]')",
    "INSERT INTO docs VALUES (1) ON CONFLICT (id) DO UPDATE SET title = (SELECT 'a' FROM secret)",
    "INSERT INTO docs VALUES (12, 'x', '[1,1]') RETURNING (SELECT max(word) FROM secret)",
    "UPDATE docs SET title = (SELECT max(word) FROM secret)",
    "UPDATE docs SET title = word FROM secret WHERE docs.id = secret.id",
    "DELETE FROM docs USING secret WHERE docs.id = secret.id",
    "DELETE FROM docs WHERE title = (SELECT max(word) FROM secret)",
    "EXPLAIN SELECT * FROM secret",
    "EXPLAIN ANALYZE SELECT * FROM secret",
    "INSERT INTO secret VALUES (2, 'x')",
    "DROP TABLE secret",
    "DROP TABLE IF EXISTS secret",
    "TRUNCATE secret",
    "SELECT 1; SELECT * FROM secret",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_a_table_that_one_may_not_use_is_not_there(node: Secured, writer: str, text: str) -> None:
    """Whatever the way; and the answer does not tell whether there is such a table."""
    answer = node.sql(text, writer)
    assert refusal(answer) == (403, "forbidden")
    assert "xyzzy" not in answer.text
    other = node.sql(text.replace("secret", "nosuch").replace("SECRET", "NOSUCH"), writer)
    assert answer.json()["detail"].lower() == (
        other.json()["detail"].replace("nosuch", "secret").replace("NOSUCH", "secret").lower()
    )


def test_a_missing_table_is_404_for_those_who_may_know_all(node: Secured, reader: str) -> None:
    assert refusal(node.sql("SELECT * FROM nosuch", reader)) == (404, "undefined_table")


def test_describe_tells_nothing_of_a_hidden_table(node: Secured, writer: str) -> None:
    answer = node.sql("DESCRIBE secret", writer)
    assert answer.status_code == 404
    assert "word" not in answer.text
    assert node.sql("DESCRIBE secre", writer).json()["detail"] == answer.json()["detail"].replace(
        "secret", "secre"
    )


SYSTEM = ["tables", "columns", "indexes", "shards", "segments", "settings", "nodes", "devices"]


@pytest.mark.parametrize("name", SYSTEM)
def test_system_tables_show_only_what_is_visible(node: Secured, writer: str, name: str) -> None:
    for text in (f"SELECT * FROM nearql.{name}", f"SHOW {name}"):
        if text == "SHOW settings":
            continue
        answer = node.sql(text, writer)
        assert answer.status_code == 200, answer.text
        assert "secret" not in answer.text, text


def test_a_writer_of_one_table_writes_it(node: Secured, writer: str) -> None:
    node.done("INSERT INTO docs VALUES (20, 'x', '[1,1]')", writer)
    node.done("UPDATE docs SET title = 'y' WHERE id = 20", writer)
    assert node.done("SELECT title FROM docs WHERE id = 20", writer) == [["y"]]
    node.done("DELETE FROM docs WHERE id = 20", writer)
    assert node.done("SHOW TABLES", writer)[0][0] == "docs"
    assert len(node.done("SHOW TABLES", writer)) == 1


def test_bulk_rows_are_checked_before_the_body_is_read(
    node: Secured, writer: str, reader: str
) -> None:
    def load(table: str, key: str, mode: str = "insert") -> Any:
        return node.request(
            "POST", f"/v1/tables/{table}/rows?mode={mode}", key,
            content=b'{"id": 30, "title": "x", "vec": [1, 1]}',
            headers={"Content-Type": "application/x-ndjson"},
        )  # fmt: skip

    assert refusal(load("docs", reader)) == (403, "forbidden")
    assert refusal(load("secret", writer)) == (403, "forbidden")
    assert refusal(load("nosuch", writer)) == (403, "forbidden")
    assert refusal(load("nosuch", reader)) == (404, "undefined_table")
    assert load("docs", writer).json()["inserted"] == 1
    only_insert = node.new_key("loader", role="none")
    node.done("GRANT INSERT ON docs TO loader")
    assert refusal(load("docs", only_insert, "upsert")) == (403, "forbidden")
    assert load("docs", only_insert).json()["failed"][0]["code"] == "duplicate_key"
    node.done("DELETE FROM docs WHERE id = 30")


def test_tables_routes_show_only_what_is_visible(node: Secured, writer: str) -> None:
    listed = node.request("GET", "/v1/tables", writer).json()["tables"]
    assert [t["name"] for t in listed] == ["docs"]
    assert refusal(node.request("GET", "/v1/tables/secret", writer)) == (403, "forbidden")
    assert "secret" not in node.request("GET", "/v1/cluster", writer).text
    assert "secret" not in node.request("GET", "/v1/cluster/shards", writer).text
    assert refusal(node.request("GET", "/metrics", writer)) == (403, "forbidden")


def test_grants_hold_from_the_next_request_on_until_they_are_revoked(node: Secured) -> None:
    key = node.new_key("ann")
    read, write = "SELECT count(*) FROM docs", "DELETE FROM docs WHERE id = -1"
    assert node.sql(read, key).status_code == 403
    node.done("GRANT SELECT ON docs TO ann")
    assert node.sql(read, key).status_code == 200
    assert node.sql(write, key).status_code == 403
    node.done("GRANT DELETE, UPDATE ON TABLE docs TO ann")
    assert node.sql(write, key).status_code == 200
    node.done("REVOKE SELECT ON docs FROM ann")
    assert node.sql(read, key).status_code == 403
    assert node.sql(write, key).status_code == 403  # it reads rows
    node.done("REVOKE ALL ON docs FROM ann")
    assert node.sql("SELECT * FROM nearql.tables", key).json()["rows"] == []


def test_a_grant_is_for_the_table_and_not_for_its_name(node: Secured) -> None:
    key = node.new_key("bob")
    node.done("CREATE TABLE brief (id BIGINT PRIMARY KEY)")
    node.done("GRANT SELECT ON brief TO bob")
    assert node.done("SELECT * FROM brief", key) == []
    node.done("DROP TABLE brief")
    node.done("CREATE TABLE brief (id BIGINT PRIMARY KEY)")
    assert node.sql("SELECT * FROM brief", key).status_code == 403
    node.done("DROP TABLE brief")


def test_admin_on_a_table_is_no_more_than_that(node: Secured) -> None:
    key = node.new_key("owner")
    node.done("CREATE TABLE mine (id BIGINT PRIMARY KEY, vec VECTOR(2))")
    node.done("GRANT ADMIN ON mine TO owner")
    node.done("ALTER TABLE mine ADD COLUMN x BIGINT", key)
    node.done("CREATE INDEX by_vec ON mine USING hnsw (vec vector_l2_ops)", key)
    node.done("DROP INDEX by_vec", key)
    assert node.sql("CREATE TABLE more (id BIGINT PRIMARY KEY)", key).status_code == 403
    assert node.sql("GRANT SELECT ON mine TO reader", key).status_code == 403
    assert node.request("GET", "/v1/keys", key).status_code == 403
    node.done("DROP TABLE mine", key)


def test_plans_of_one_are_not_used_by_another(node: Secured, writer: str, reader: str) -> None:
    text = "SELECT word FROM secret WHERE id = 1"
    for _ in range(3):
        assert node.done(text, reader) == [["xyzzy"]]
        assert node.sql(text, writer).status_code == 403


def test_running_statements_of_others_are_not_shown(node: Secured, reader: str) -> None:
    rows = node.done('SELECT "user" FROM nearql.queries', reader)
    assert {row[0] for row in rows} == {"reader"}


# ---- keys ---------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_never_again(node: Secured) -> None:
    answer = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "once", "role": "reader"})
    key = answer.json()["key"]
    assert key.startswith("nq_")
    assert len(key) == 46
    assert key not in node.request("GET", "/v1/keys", ROOT_KEY).text
    assert key not in str(node.node.metadata.state)


def test_a_revoked_key_is_dead_at_once(node: Secured) -> None:
    made = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "gone", "role": "reader"})
    key, key_id = made.json()["key"], made.json()["id"]
    assert node.sql("SELECT 1", key).status_code == 200
    assert node.request("DELETE", f"/v1/keys/{key_id}", ROOT_KEY).json() == {"revoked": key_id}
    assert refusal(node.sql("SELECT 1", key)) == (401, "invalid_token")
    again = node.request("DELETE", f"/v1/keys/{key_id}", ROOT_KEY)
    assert refusal(again) == (404, "undefined_key")


def test_a_rotated_key_has_a_grace(node: Secured) -> None:
    made = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "rota", "role": "reader"})
    old, path = made.json()["key"], f"/v1/keys/{made.json()['id']}/rotate"
    new = node.request("POST", path, old).json()["key"]  # a key may rotate itself
    assert node.sql("SELECT 1", old).status_code == node.sql("SELECT 1", new).status_code == 200
    last = node.request("POST", path, ROOT_KEY, json={"grace_s": 0}).json()["key"]
    assert refusal(node.sql("SELECT 1", new)) == (401, "expired_token")
    assert refusal(node.sql("SELECT 1", old)) == (401, "invalid_token")
    assert node.sql("SELECT 1", last).status_code == 200


def test_a_key_may_not_rotate_another(node: Secured, reader: str) -> None:
    made = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "other", "role": "none"})
    answer = node.request("POST", f"/v1/keys/{made.json()['id']}/rotate", reader)
    assert refusal(answer) == (403, "forbidden")


def test_an_expired_key_is_refused(node: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    key = node.new_key("brief_life", role="reader", expires_in_s=60)
    assert node.sql("SELECT 1", key).status_code == 200
    now = node.layer.store._now()
    monkeypatch.setattr(node.layer.store, "_now", lambda: now + 61)
    assert refusal(node.sql("SELECT 1", key)) == (401, "expired_token")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_member"),
        ({"user": 7}, "invalid_value"),
        ({"user": "a b"}, "invalid_user_name"),
        ({"user": "bootstrap"}, "invalid_user_name"),
        ({"user": "x1", "role": "king"}, "invalid_value"),
        ({"user": "x1", "role": "admin", "tables": ["docs"]}, "invalid_value"),
        ({"user": "x1", "expires_in_s": 0}, "invalid_value"),
        ({"user": "x1", "rate": True}, "invalid_value"),
        ({"user": "x1", "tables": "docs"}, "invalid_value"),
        ({"user": "x1", "what": 1}, "unknown_member"),
    ],
)
def test_wrong_members_are_refused_and_make_nothing(
    node: Secured, writer: str, body: dict[str, Any], code: str
) -> None:
    before = node.request("GET", "/v1/keys", ROOT_KEY).json()
    answer = node.request("POST", "/v1/keys", ROOT_KEY, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert node.request("GET", "/v1/keys", ROOT_KEY).json() == before


def test_the_role_of_a_user_that_is_there_is_not_changed(node: Secured, writer: str) -> None:
    answer = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "writer", "role": "admin"})
    assert refusal(answer) == (409, "duplicate_user")


def test_users_in_sql(node: Secured) -> None:
    node.done("CREATE USER carl WITH (role = writer)")
    assert refusal(node.sql("CREATE USER carl")) == (409, "duplicate_user")
    assert refusal(node.sql("GRANT SELECT ON docs TO nobody_here")) == (404, "undefined_user")
    key = node.new_key("carl")
    assert node.sql("SELECT * FROM secret", key).status_code == 200
    node.done("DROP USER carl")
    assert refusal(node.sql("SELECT 1", key)) == (401, "invalid_token")
    assert refusal(node.sql("DROP USER carl")) == (404, "undefined_user")
    node.done("DROP USER IF EXISTS carl")


# ---- sessions -----------------------------------------------------------------------------------


def test_a_session_acts_for_its_key_and_ends_with_it(node: Secured) -> None:
    made = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "dora", "role": "reader"})
    opened = node.request("POST", "/v1/login", None, json={"key": made.json()["key"]})
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    token = opened.json()["token"]
    who = node.request("GET", "/v1/whoami", token).json()
    assert (who["user"], who["via"], who["all_tables"]) == ("dora", "session", ["SELECT"])
    assert refusal(node.request("POST", "/v1/login", token)) == (403, "forbidden")
    node.request("DELETE", f"/v1/keys/{made.json()['id']}", ROOT_KEY)
    assert refusal(node.sql("SELECT 1", token)) == (401, "invalid_token")


def test_a_cookie_changes_nothing_without_the_word_of_the_browser(node: Secured) -> None:
    client = node.served.client
    client.cookies.clear()
    client.post("/v1/login", headers=bearer(ROOT_KEY))
    try:
        assert client.get("/v1/whoami").json()["user"] == "bootstrap"
        body = {"sql": "SELECT 1"}
        assert refusal(client.post("/v1/sql", json=body)) == (403, "cross_origin")
        foreign = client.post("/v1/sql", json=body, headers={"Origin": "http://evil.example"})
        assert refusal(foreign) == (403, "cross_origin")
        for origin in ("null", "http://[::1", "x"):
            strange = client.post("/v1/sql", json=body, headers={"Origin": origin})
            assert refusal(strange) == (403, "cross_origin")
        own = client.post("/v1/sql", json=body, headers={"Origin": node.served.url})
        assert own.status_code == 200
        assert client.delete("/v1/login", headers={"Origin": node.served.url}).status_code == 200
        assert client.get("/v1/whoami").status_code == 401
    finally:
        client.cookies.clear()


# ---- signed tokens ------------------------------------------------------------------------------


def test_a_signed_token_with_a_role(node: Secured) -> None:
    token = make_token(role="reader")
    assert node.done("SELECT word FROM secret", token) == [["xyzzy"]]
    assert node.sql("DELETE FROM docs", token).status_code == 403
    limited = make_token(role="reader", tables=["docs"])
    assert node.sql("SELECT word FROM secret", limited).status_code == 403
    assert node.sql("SELECT title FROM docs", limited).status_code == 200


def test_a_signed_token_of_a_user_has_the_users_rights(node: Secured) -> None:
    token = make_token(sub="emil", role="admin")
    node.done("CREATE USER emil")
    assert node.sql("SELECT * FROM docs", token).status_code == 403
    node.done("GRANT SELECT ON docs TO emil")
    assert node.sql("SELECT * FROM docs", token).status_code == 200


def test_revoked_tokens(node: Secured) -> None:
    one, other = make_token(jti="t1", role="reader"), make_token(jti="t2", role="reader")
    assert node.sql("SELECT 1", one).status_code == 200
    answer = node.request("POST", "/v1/revocations", ROOT_KEY, json={"jti": "t1"})
    assert answer.json() == {"revoked": "t1"}
    assert refusal(node.sql("SELECT 1", one)) == (401, "invalid_token")
    assert node.sql("SELECT 1", other).status_code == 200
    mine = make_token(sub="frida", role="reader")
    node.request("POST", "/v1/revocations", ROOT_KEY, json={"subject": "frida"})
    assert refusal(node.sql("SELECT 1", mine)) == (401, "invalid_token")
    assert node.sql("SELECT 1", other).status_code == 200


# ---- the audit log, the start -------------------------------------------------------------------


def test_administrative_acts_are_recorded_refused_ones_too(node: Secured, reader: str) -> None:
    node.sql("CREATE TABLE audited (id BIGINT PRIMARY KEY)")
    node.sql("DROP TABLE audited")
    key = node.new_key("audited_user", role="reader")
    lines = node.audit()
    acts = [(line["act"], line["target"], line["outcome"], line["user"]) for line in lines]
    assert ("create_table", "audited", "done", "bootstrap") in acts
    assert ("drop_table", "audited", "done", "bootstrap") in acts
    assert ("create_key", "audited_user", "done", "bootstrap") in acts
    assert all(line["request_id"] for line in lines)
    text = (node.config.node.data_dir / "audit.log").read_text()
    assert key not in text
    assert ROOT_KEY not in text
    mode = (node.config.node.data_dir / "audit.log").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_an_act_that_fails_by_a_fault_of_ours_is_recorded(
    node: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(node.layer.store, "create_key", broken)
    answer = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "fault", "role": "reader"})
    assert answer.status_code == 500
    line = node.audit()[-1]
    assert (line["act"], line["target"], line["outcome"]) == (
        "create_key",
        "fault",
        "internal_error",
    )
    assert line["request_id"] == answer.json()["request_id"]


def test_a_key_too_many_makes_no_user_either(
    node: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node.layer.store
    node.new_key("of_many", role="reader")
    while len(store.state.keys) <= len(store.state.users):
        node.new_key("of_many")
    monkeypatch.setattr(store, "_most", len(store.state.keys))
    answer = node.request("POST", "/v1/keys", ROOT_KEY, json={"user": "toomany", "role": "reader"})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_keys")
    assert store.user("toomany") is None


def test_the_bootstrap_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    config = secured_config(tmp_path)
    path = Path(config.auth.bootstrap_admin_key_file)
    path.unlink()
    node = Node.open(config)
    try:
        AccessLayer(node, config)
        made = path.read_text()
        assert made.startswith("nq_")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        AccessLayer(node, config)
        assert path.read_text() == made
    finally:
        node.close()


def test_a_start_without_any_credential_is_refused(tmp_path: Path) -> None:
    config = secured_config(tmp_path, bootstrap_admin_key_file="", jwt_key_file="")
    node = Node.open(config)
    try:
        with pytest.raises(ConfigError, match="bootstrap_admin_key_file"):
            AccessLayer(node, config)
    finally:
        node.close()


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with secured(tmp_path) as running:
        running.done("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
        key = running.new_key("ann")
        running.done("GRANT SELECT ON docs TO ann")
    with secured(tmp_path) as running:
        assert running.done("SELECT * FROM docs", key) == []
        assert running.sql("DELETE FROM docs", key).status_code == 403


def test_a_view_shows_nobody_more_than_its_tables_do(node: Secured, writer: str) -> None:
    """Only administrators make views; one that reads a hidden table is hidden itself."""
    node.done("CREATE VIEW open_view AS SELECT id FROM docs")
    node.done("CREATE VIEW mixed AS SELECT o.id, s.word FROM open_view o, secret s")
    assert node.sql("SELECT count(*) FROM open_view", writer).json()["rows"] == [[2]]
    assert refusal(node.sql("SELECT word FROM mixed", writer)) == (403, "forbidden")
    assert node.sql("SHOW VIEWS", writer).json()["row_count"] == 1
    for text in ("CREATE VIEW mine AS SELECT 1 AS a", "DROP VIEW open_view"):
        assert refusal(node.sql(text, writer)) == (403, "forbidden")
    node.done("DROP VIEW open_view CASCADE")

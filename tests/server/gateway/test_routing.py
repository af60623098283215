"""Which node a request runs on: followers redirect or proxy, the leader forwards to the primary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pyarrow as pa
import pytest

from nearql.engine.errors import Conflict, Unavailable, WriteUnknown
from nearql.engine.types import ShardPosition
from nearql.server.session_token import SESSION_HEADER, _decode
from support.cluster_edges import MakePair, Pair
from support.http_node import DOCS, FakeOutcome, FakeResult, rows_result

INSERT = "WITH new AS (SELECT 1 AS id) INSERT INTO docs (id) SELECT id FROM new"
SELECT = "SELECT 'INSERT INTO docs' AS x FROM docs"
NDJSON = {"Content-Type": "application/x-ndjson"}
IDENTITY = "6f1c2f0e-6f0c-4c5e-9d0e-2f6a1b3c4d5e:1"


def sql(pair: Pair, text: str, **headers: str) -> httpx.Response:
    """POST /v1/sql to `here`, as a plain client that follows nothing."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return pair.here.client.post("/v1/sql", json={"sql": text}, headers=sent)


def ran(pair: Pair) -> tuple[int, int]:
    """How many statements or batches ran here and there."""
    return len(pair.here.session.calls), len(pair.there.session.calls)


# ---- a follower that redirects ------------------------------------------------------------------


@pytest.mark.parametrize("text", [INSERT, "CREATE TABLE t (id BIGINT PRIMARY KEY)", "DROP TABLE x"])
def test_a_follower_sends_writes_to_the_leader(make_pair: MakePair, text: str) -> None:
    with make_pair(2) as pair:
        answer = sql(pair, text, Host="evil.example")
        assert answer.status_code == 307
        assert answer.headers["Location"] == "http://n1.example:8470/v1/sql"
        assert answer.headers["NearQL-Leader"] == "n1"
        assert answer.headers["NearQL-Role"] == "follower"
        body = answer.json()
        assert (body["code"], body["definite"], body["leader"]) == ("not_leader", True, "n1")
        assert "Retry-After" not in answer.headers
        assert ran(pair) == (0, 0)


def test_the_locations_path_and_query_are_the_requests_own(make_pair: MakePair) -> None:
    with make_pair(1, leader=2) as pair:
        route = "/v1/tables/d%6Fcs/rows?mode=upsert&write_concern=all"
        answer = pair.here.client.post(route, content=b'{"id": 1}', headers=NDJSON)
        assert answer.status_code == 307
        assert answer.headers["Location"] == f"http://n2.example:8470/base{route}"
        assert ran(pair) == (0, 0)


def test_a_follower_reads_by_what_is_parsed(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        assert sql(pair, SELECT).status_code == 200
        assert ran(pair) == (1, 0)


def test_a_follower_says_what_is_wrong_with_a_statement(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        answer = sql(pair, "INSERT INTO docs VALUES (")
        assert (answer.status_code, answer.json()["code"]) == (400, "syntax_error")


@pytest.mark.parametrize("routing", ["redirect", "proxy"])
@pytest.mark.parametrize("here", [1, 2])
def test_without_a_leader_writes_wait_and_reads_go_on(
    make_pair: MakePair, here: int, routing: str
) -> None:
    with make_pair(here, leader=None, routing=routing) as pair:
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_leader")
        assert answer.json()["definite"]
        assert answer.json()["retryable"]
        assert answer.headers["Retry-After"] == "1"
        body = pair.here.client.post("/v1/tables/docs/rows", content=b'{"id": 1}', headers=NDJSON)
        assert (body.status_code, body.json()["code"]) == (503, "no_leader")
        assert ran(pair) == (0, 0)
        assert sql(pair, SELECT).status_code == 200


# ---- forwarded to the primary -------------------------------------------------------------------


@pytest.mark.parametrize(("here", "routing"), [(1, "redirect"), (1, "proxy"), (3, "proxy")])
def test_a_statement_runs_whole_on_the_primarys_node(
    make_pair: MakePair, here: int, routing: str
) -> None:
    other = 2 if here == 1 else 1
    with make_pair(here, leader=1, primary=other, routing=routing) as pair:
        pair.there.session.answers[INSERT] = lambda call: FakeResult(
            row_count=1, stats={"write": {"concern": "majority", "committed": True, "copies": 2}}
        )
        answer = sql(pair, INSERT, NearQL_Request_Id=IDENTITY)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["row_count"] == 1
        assert body["stats"]["write"]["copies"] == 2
        assert ran(pair) == (0, 1)
        assert pair.there.session.calls[0].request_id is not None
        assert pair.mesh.calls == [(f"id-{here}", f"id-{other}", "sql")]


def test_every_answer_tells_where_the_nodes_are(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        answers = [sql(pair, SELECT), sql(pair, INSERT)]
        answers.append(pair.here.client.post("/v1/tables/docs/rows", content=b"", headers=NDJSON))
    with make_pair(1) as pair:
        answers.append(pair.here.client.post("/v1/tables/docs/rows", content=b"", headers=NDJSON))
    assert [answer.status_code for answer in answers] == [200, 307, 307, 200]
    urls = "http://n1.example:8470, http://n2.example:8470/base, http://n3.example:8470"
    assert {answer.headers["NearQL-Nodes"] for answer in answers} == {urls}


def test_a_local_primary_is_not_forwarded_to(make_pair: MakePair) -> None:
    with make_pair(1) as pair:
        assert sql(pair, INSERT).status_code == 200
        assert ran(pair) == (1, 0)
        assert pair.mesh.calls == []


def test_arrow_answers_are_relayed(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        text = "INSERT INTO docs (id) VALUES (5) RETURNING id"
        found = pa.table({"id": [5]})
        pair.there.session.answers[text] = lambda call: rows_result(found, "BIGINT")
        answer = sql(pair, text, Accept="application/vnd.apache.arrow.stream")
        assert answer.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
        assert pa.ipc.open_stream(answer.content).read_all().to_pydict() == {"id": [5]}


def test_errors_of_the_primary_are_the_answer(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:

        def refuse(call: Any) -> Any:
            raise Conflict("Key 1 exists.", code="duplicate_key", key=1)

        pair.there.session.answers[INSERT] = refuse
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (409, "duplicate_key")
        assert answer.json()["key"] == 1


def test_a_primary_that_is_not_reached_has_done_nothing(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        pair.mesh.cut.add("id-2")
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (503, "node_unreachable")
        assert answer.json()["definite"]
        assert answer.json()["node"] == "n2"
        assert answer.headers["Retry-After"] == "1"


def test_a_lost_answer_is_unknown_and_names_the_request(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        pair.mesh.fail = WriteUnknown("The connection broke.", code="call_lost")
        answer = sql(pair, INSERT, NearQL_Request_Id=IDENTITY)
        body = answer.json()
        assert (answer.status_code, body["code"]) == (504, "write_unknown")
        assert body["definite"] is False
        assert body["request_id"] == IDENTITY
        assert ran(pair) == (0, 1)  # it did happen: only the retry can tell


def test_a_lost_answer_of_a_read_did_nothing(make_pair: MakePair) -> None:
    with make_pair(3) as pair:
        pair.here.copy.readable = False
        pair.mesh.fail = WriteUnknown("The connection broke.", code="call_lost")
        answer = sql(pair, SELECT)
        assert (answer.status_code, answer.json()["code"]) == (503, "node_lost")
        assert answer.json()["definite"]
        assert answer.json()["retryable"]


def test_without_a_primary_writes_are_refused(make_pair: MakePair) -> None:
    with make_pair(1, primary=None) as pair:
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_primary")
        assert answer.json()["table"] == "docs"
        assert sql(pair, "DROP TABLE docs").status_code == 200  # metadata alone


def test_primaries_that_are_apart_are_waited_for(make_pair: MakePair) -> None:
    with make_pair(1) as pair:
        pair.metadata.put_table(DOCS, ["id-1", "id-2"], ["id-1", "id-2", "id-3"])
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (503, "primaries_apart")
        assert ran(pair) == (0, 0)


# ---- bulk rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "routing"), [(1, "redirect"), (3, "proxy")])
def test_bulk_rows_are_stored_by_the_primarys_node(
    make_pair: MakePair, here: int, routing: str
) -> None:
    other = 2 if here == 1 else 1
    with make_pair(here, leader=1, primary=other, routing=routing) as pair:
        client = pair.here.client
        lines = b'{"id": 1, "title": "a"}\n{"id": 2}'
        sent = {**NDJSON, "NearQL-Request-Id": IDENTITY}
        answer = client.post(
            "/v1/tables/docs/rows?mode=upsert&write_concern=all", content=lines, headers=sent
        )
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"rows": 2, "inserted": 2, "updated": 0, "failed": []}
        assert ran(pair) == (0, 1)
        call = pair.there.session.calls[0]
        assert call.settings == {"write_concern": "all"}
        assert call.request_id is not None
        assert call.rows is not None
        assert call.rows["id"].to_pylist() == [1, 2]


def test_where_the_primary_stored_rows_is_part_of_the_session(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        end = ShardPosition(0, 4, 17)
        pair.there.session.on_insert = lambda call: FakeOutcome(inserted=1, positions=(end,))
        answer = pair.here.client.post("/v1/tables/docs/rows", content=b'{"id": 1}', headers=NDJSON)
        token = answer.headers[SESSION_HEADER]
        assert _decode(token) == {(DOCS.uuid, 0): (4, 17)}


def test_rows_that_the_primary_refused_are_told(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:
        from nearql.query.bulk import BulkOutcome
        from nearql.query.casting import RowFailure

        failed = (RowFailure(1, "duplicate_key", "Key 2 exists.", "23505"),)
        pair.there.session.on_insert = lambda call: BulkOutcome(1, 0, failed)
        answer = pair.here.client.post(
            "/v1/tables/docs/rows", content=b'{"id": 1}\n{"id": 2}', headers=NDJSON
        )
        told = {"row": 1, "code": "duplicate_key", "detail": "Key 2 exists."}
        assert answer.json()["failed"] == [told]


# ---- reads where there is no copy ---------------------------------------------------------------


def test_a_read_without_a_copy_here_is_answered_elsewhere(make_pair: MakePair) -> None:
    with make_pair(3) as pair:
        del pair.here.replication.copies[f"{DOCS.uuid}/0"]
        assert sql(pair, SELECT).status_code == 200
        assert ran(pair) == (0, 1)


def test_of_several_that_could_read_the_primary_does(make_pair: MakePair) -> None:
    with make_pair(3, leader=3, primary=2) as pair:
        pair.here.copy.readable = False
        pair.mesh.handlers["id-2"] = pair.mesh.handlers["id-1"]
        assert sql(pair, SELECT).status_code == 200
        assert pair.mesh.calls == [("id-3", "id-2", "sql")]


def test_a_shard_that_nobody_can_read_is_said(make_pair: MakePair) -> None:
    with make_pair(3) as pair:
        pair.here.copy.readable = False
        pair.metadata.change_shard(DOCS, 0, isr=("id-3",))
        answer = sql(pair, SELECT)
        assert (answer.status_code, answer.json()["code"]) == (503, "shard_unavailable")
        assert (answer.json()["table"], answer.json()["shard"]) == ("docs", 0)
        assert sql(pair, "SELECT 1").status_code == 200


# ---- health -------------------------------------------------------------------------------------


def test_leaderz_is_true_on_the_leader_alone(make_pair: MakePair) -> None:
    with make_pair(1) as pair:
        assert pair.here.client.get("/leaderz").status_code == 200
        answer = pair.there.client.get("/leaderz")
        assert (answer.status_code, answer.json()["code"]) == (503, "follower")
        pair.there.cluster.leader_id = None
        assert pair.there.client.get("/leaderz").json()["code"] == "no_leader"


def test_readyz_needs_current_metadata_and_copies_in_sync(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        client = pair.here.client
        assert client.get("/readyz").status_code == 200
        pair.here.cluster.ticking = False
        assert client.get("/readyz").json()["code"] == "metadata_stale"
        pair.here.cluster.ticking = True
        pair.metadata.change_shard(DOCS, 0, isr=("id-1", "id-3"))
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_in_sync")


def test_readyz_needs_copies_that_can_be_read(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        pair.here.copy.readable = False  # metadata has not noticed yet
        answer = pair.here.client.get("/readyz")
        assert (answer.status_code, answer.json()["copies"]) == (503, 1)
        assert pair.there.client.get("/readyz").status_code == 200


def test_readyz_of_a_process_that_was_declared_dead(make_pair: MakePair) -> None:
    with make_pair(2) as pair:
        state = pair.metadata.state
        fenced = replace(state.nodes["id-2"], fenced=True)
        pair.metadata.state = replace(state, nodes={**state.nodes, "id-2": fenced})
        answer = pair.here.client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "fenced")


def test_a_refusal_that_another_node_raises_keeps_its_retry(make_pair: MakePair) -> None:
    with make_pair(1, primary=2) as pair:

        def refuse(call: Any) -> Any:
            raise Unavailable("Two copies are away.", code="not_enough_replicas")

        pair.there.session.answers[INSERT] = refuse
        answer = sql(pair, INSERT)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_enough_replicas")
        assert answer.headers["Retry-After"] == "1"

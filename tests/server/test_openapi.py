"""The OpenAPI description: complete, consistent, and true of what the server answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from nearql.server.openapi import OPERATIONS, document
from nearql.server.routes.all import ROUTES
from support.http_node import FakeResult, Served, rows_result
from support.json_schema import problems, resolve

DOCUMENT = document(ROUTES)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, operation) of each route."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(part: Any) -> Iterator[str]:
    """Every $ref below a part of the document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_route_is_described_and_nothing_else() -> None:
    assert {(e.method, e.path) for e in ROUTES} == set(OPERATIONS)
    assert sum(1 for _ in operations()) == len(ROUTES)


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    used = set(references(DOCUMENT))
    for reference in used:
        assert resolve(reference, DOCUMENT)
    for kind, components in DOCUMENT["components"].items():
        for name in components if kind != "securitySchemes" else ():
            assert f"#/components/{kind}/{name}" in used, f"{kind}/{name} is used nowhere"


def test_operations_have_unique_names_and_their_path_parameters() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, _, operation in operations():
        declared = [
            resolve(p["$ref"], DOCUMENT)["name"]
            for p in operation.get("parameters", ())
            if resolve(p["$ref"], DOCUMENT)["in"] == "path"
        ]
        assert declared == re.findall(r"{(\w+)}", path)


def test_every_operation_describes_its_answer_and_its_problems() -> None:
    for path, _, operation in operations():
        assert operation["responses"]["200"]["content"], path
        assert "500" in operation["responses"], path
        for status, response in operation["responses"].items():
            if status != "200":
                content = resolve(response["$ref"], DOCUMENT)["content"]
                assert list(content) == ["application/problem+json"]


def test_open_routes_need_no_token() -> None:
    for path, method, operation in operations():
        endpoint = next(e for e in ROUTES if (e.path, e.method.lower()) == (path, method))
        assert (operation.get("security") == []) == (endpoint.rule == "open"), path


def test_the_server_serves_this_document(served: Served) -> None:
    answer = served.client.get("/openapi.json")
    assert answer.json() == DOCUMENT
    assert answer.json()["openapi"] == "3.1.0"


SYSTEM = {
    "tables": pa.table(
        {
            "name": ["docs"], "uuid": ["11111111-2222-3333-4444-555555555555"], "rows": [3],
            "bytes": [100], "shards": [1], "replicas": [1], "segments": [1], "wal_bytes": [9],
            "status": ["ready"],
        }
    ),
    "columns": pa.table(
        {
            "table": ["docs"], "name": ["id"], "position": [1], "type": ["BIGINT"],
            "nullable": [False], "default": pa.nulls(1, pa.string()), "primary_key": [True],
        }
    ),
    "indexes": pa.table(
        {
            "name": ["docs_vec"], "table": ["docs"], "column": ["vec"], "kind": ["hnsw"],
            "metric": ["l2"], "phase": ["ready"], "rows_done": [3], "rows_total": [3],
            "rate": pa.nulls(1, pa.float64()), "eta_ms": [0], "bytes": [64],
            "detail": pa.nulls(1, pa.string()),
        }
    ),
    "segments": pa.table(
        {
            "table": ["docs"], "shard": [0], "first_row": [0], "state": ["growing"], "rows": [3],
            "dead_rows": [0], "bytes": [100],
        }
    ),
    "shards": pa.table(
        {
            "table": ["docs"], "shard": [0], "uuid": ["u"], "epoch": [1], "primary": ["n1"],
            "in_sync": [["n1"]], "commit_lsn": [7], "node": ["n1"], "lsn": [7],
            "lag_records": [0], "lag_ms": [0],
        }
    ),
    "nodes": pa.table(
        {
            "name": ["n1"], "role": ["leader"], "url": ["http://127.0.0.1:1"], "alive": [True],
            "last_seen_ms": [0], "incarnation": [1],
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/tables", "/v1/tables"),
        ("/v1/tables/docs", "/v1/tables/{table}"),
        ("/v1/tables/DOCS", "/v1/tables/{table}"),
        ("/v1/cluster", "/v1/cluster"),
        ("/v1/cluster/nodes", "/v1/cluster/nodes"),
        ("/v1/cluster/shards", "/v1/cluster/shards"),
        ("/livez", "/livez"),
        ("/readyz", "/readyz"),
        ("/leaderz", "/leaderz"),
        ("/v1/tables/nope", "404"),
    ],
)
def test_answers_are_as_described(served: Served, path: str, route: str) -> None:
    served.node.system = SYSTEM
    answer = served.client.get(path)
    if route == "404":
        schema = DOCUMENT["components"]["schemas"]["Problem"]
    else:
        content = DOCUMENT["paths"][route]["get"]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
    assert problems(answer.json(), schema, DOCUMENT) == []


def test_the_cluster_of_a_node_alone_is_the_contract(served: Served) -> None:
    served.node.system = SYSTEM
    assert served.client.get("/v1/cluster").json() == {
        "leader": "n1",
        "term": 0,
        "nodes": [
            {"name": "n1", "role": "leader", "url": "http://127.0.0.1:1", "alive": True,
             "last_seen_ms": 0}
        ],
        "shards": [
            {"table": "docs", "shard": 0, "epoch": 1, "primary": "n1", "in_sync": ["n1"],
             "copies": [{"node": "n1", "lsn": 7, "lag_records": 0, "lag_ms": 0}]}
        ],
    }  # fmt: skip


def test_answers_of_statements_are_as_described(served: Served) -> None:
    write = {"concern": "one", "committed": True, "copies": 1}
    shards = [{"table": "docs", "shard": 0, "epoch": 1, "lsn": 3}]
    table = pa.table({"id": [1]})
    served.session.answers["R"] = lambda call: rows_result(table, "BIGINT", shards=shards)
    served.session.answers["W"] = lambda call: FakeResult(
        row_count=1, stats={"write": write}, notices=("n",)
    )
    schema = DOCUMENT["components"]["schemas"]["SqlAnswer"]
    for text in ("R", "W"):
        assert problems(served.sql(text).json(), schema, DOCUMENT) == []
    body = {"sql": "R", "params": [1], "settings": {}}
    assert problems(body, DOCUMENT["components"]["schemas"]["SqlRequest"], DOCUMENT) == []


def test_the_checker_of_these_tests_finds_differences() -> None:
    schema = DOCUMENT["components"]["schemas"]["SqlRequest"]
    assert problems({"sql": 1}, schema, DOCUMENT) == ["$.sql: 1 is no string"]
    assert problems({}, schema, DOCUMENT) == ["$: 'sql' is missing"]
    assert problems({"sql": "", "x": 1}, schema, DOCUMENT) == ["$: 'x' is unknown"]
    assert problems({"sql": True}, schema, DOCUMENT)

"""`GET /openapi.json`: the HTTP contract as OpenAPI 3.1, an operation per route of `routes.all`."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from nearql.server.access.authenticate import COOKIE
from nearql.server.decoding.formats import ARROW_FILE, ARROW_STREAM, NDJSON, PARQUET
from nearql.server.openapi_backup import BACKUP_SCHEMAS
from nearql.server.openapi_life import LIFE_SCHEMAS
from nearql.server.openapi_schemas import INTEGER, SCHEMAS, STRING, ref
from nearql.server.problem import MEDIA_TYPE as PROBLEM
from nearql.server.routes import Endpoint, Rule
from nearql.server.wire_values import __doc__ as _json_values

JSON = "application/json"
_BINARY: dict[str, Any] = {}  # bytes have no JSON schema

_PARAMETERS: dict[str, Any] = {
    "Table": {
        "name": "table", "in": "path", "required": True, "schema": STRING,
        "description": "The table's name.",
    },
    "Key": {
        "name": "key", "in": "path", "required": True, "schema": STRING,
        "description": "A key's id, as GET /v1/keys lists it.",
    },
    "Node": {
        "name": "node", "in": "path", "required": True, "schema": STRING,
        "description": "A node's name.",
    },
    "Job": {
        "name": "job", "in": "path", "required": True, "schema": STRING,
        "description": "A job's id.",
    },
    "Asset": {"name": "asset", "in": "path", "required": True, "schema": STRING},
    "Mode": {
        "name": "mode", "in": "query",
        "schema": {"enum": ["insert", "upsert"], "default": "insert"},
        "description": "insert: a row whose key exists fails. upsert: it replaces the row.",
    },
    "WriteConcern": {
        "name": "write_concern", "in": "query", "schema": STRING,
        "description": "one, majority, all or a number of copies.",
    },
    "VectorColumn": {
        "name": "column", "in": "query", "schema": STRING,
        "description": "The vector column; the first one where it is left out.",
    },
    "Color": {
        "name": "color", "in": "query", "schema": STRING,
        "description": "A column whose values the points carry, to color them by.",
    },
    "MapRows": {
        "name": "rows", "in": "query",
        "schema": {"type": "integer", "minimum": 1, "default": 1000},
        "description": "How many rows at most, up to limits.map_rows.",
    },
    "RequestId": {
        "name": "NearQL-Request-Id", "in": "header", "schema": STRING,
        "description": "`<uuid>:<number>`: makes the retry of a write safe.",
    },
    "Session": {
        "name": "NearQL-Session", "in": "header", "schema": STRING,
        "description": "`stats.session` of an earlier answer: reads show at least what that saw.",
    },
    "Trace": {
        "name": "X-Request-Id", "in": "header", "schema": STRING,
        "description": "Echoed in the answer, the problem document and the log.",
    },
    "Encoding": {
        "name": "Content-Encoding", "in": "header", "schema": {"enum": ["gzip", "zstd"]},
    },
}  # fmt: skip

_MEANING = {
    400: "Wrong SQL, value or body; the detail and, for SQL, the position say where.",
    401: "A token is needed.",
    403: "Not permitted.",
    404: "No such table or route.",
    409: "A key or object exists already, or the session was rolled back.",
    413: "Larger than a limit, which the detail names.",
    415: "A format or encoding that the route does not take.",
    429: "The queue is full.",
    500: "A fault of the server; report the request id.",
    503: "Not now: starting, stopping, out of memory.",
    504: "Out of time; `definite` says whether a write may have happened.",
    507: "The disk is full; nothing was written.",
}


def document(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        operation = {
            **OPERATIONS[endpoint.method, endpoint.path],
            "x-nearql-kind": endpoint.kind,
            "x-nearql-rule": endpoint.rule,
        }
        if endpoint.rule is Rule.OPEN:
            operation["security"] = []
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "NearQL",
            "version": version("nearql"),
            "description": "Vector search in SQL.\n\n" + (_json_values or ""),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, **LIFE_SCHEMAS, **BACKUP_SCHEMAS},
            "parameters": _PARAMETERS,
            "responses": {f"Problem{status}": _problem(status) for status in _MEANING},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key, a session's token or a signed token (JWT).",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "Of POST /v1/login. Other methods than GET also need Origin.",
                },
            },
        },
    }


def _problem(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}. {_MEANING[status]}",
        "content": {PROBLEM: {"schema": ref("Problem")}},
    }
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": INTEGER}}
    return found


def _operation(
    name: str, summary: str, answer: dict[str, Any], *problems: int, **more: Any
) -> dict[str, Any]:
    """An operation. answer: media type -> schema of its 200."""
    content = {kind: {"schema": schema} if schema else {} for kind, schema in answer.items()}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status in (*problems, 500):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


def _parameters(*names: str) -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _body(content: dict[str, Any]) -> dict[str, Any]:
    kinds = {kind: {"schema": schema} if schema else {} for kind, schema in content.items()}
    return {"required": True, "content": kinds}


OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/sql"): _operation(
        "runSql",
        "Run SQL",
        {JSON: ref("SqlAnswer"), ARROW_STREAM: _BINARY},
        400, 401, 403, 404, 409, 413, 415, 429, 503, 504, 507,
        description="With `Accept: application/vnd.apache.arrow.stream` the rows come as Arrow; "
        "`row_count`, `stats` and `notices` are then JSON in the schema's metadata under `nearql`, "
        "a column's SQL type in its field's under `nearql.type`.",
        parameters=_parameters("RequestId", "Session", "Trace", "Encoding"),
        requestBody=_body({JSON: ref("SqlRequest")}),
    ),
    ("POST", "/v1/tables/{table}/rows"): _operation(
        "loadRows",
        "Store many rows",
        {JSON: ref("RowsAnswer")},
        400, 401, 403, 404, 409, 413, 415, 429, 503, 504, 507,
        description="The body is checked wholly before the first row is stored; an Arrow stream "
        "must have its end-of-stream marker. Rows that do not fit are left out and listed; every "
        "other row is durable when this answers. In NDJSON a member that is left out has its "
        "DEFAULT, vectors are lists, BLOBs base64. The answer's header NearQL-Session is the "
        "session's token after it.",
        parameters=_parameters(
            "Table", "Mode", "WriteConcern", "RequestId", "Session", "Trace", "Encoding"
        ),
        requestBody=_body(
            {ARROW_STREAM: _BINARY, ARROW_FILE: _BINARY, PARQUET: _BINARY, NDJSON: _BINARY}
        ),
    ),
    ("GET", "/v1/tables"): _operation(
        "listTables", "Every table", {JSON: ref("TableList")}, 401, 429, 503
    ),
    ("GET", "/v1/tables/{table}"): _operation(
        "getTable",
        "One table: schema, rows, bytes, indexes, segments, shards",
        {JSON: ref("Table")},
        401, 403, 404, 429, 503,
        parameters=_parameters("Table"),
    ),
    ("GET", "/v1/tables/{table}/map"): _operation(
        "mapTable",
        "A sample of a vector column on a plane",
        {JSON: ref("TableMap")},
        400, 401, 403, 404, 429, 503,
        description="Principal component analysis of rows from all over the table; for the "
        "dashboard, and for whoever wants to look at vectors.",
        parameters=_parameters("Table", "VectorColumn", "Color", "MapRows"),
    ),
    ("GET", "/v1/cluster"): _operation(
        "getCluster", "Leader, nodes and shards", {JSON: ref("Cluster")}, 401, 429, 503
    ),
    ("GET", "/v1/cluster/nodes"): _operation(
        "listNodes", "The nodes", {JSON: ref("NodeList")}, 401, 429, 503
    ),
    ("GET", "/v1/cluster/shards"): _operation(
        "listShards", "The shards and their copies", {JSON: ref("ShardList")}, 401, 429, 503
    ),
    ("POST", "/v1/cluster/tokens"): _operation(
        "createJoinToken",
        "A one-time token for a new disk",
        {JSON: ref("JoinToken")},
        400, 401, 403, 409, 413, 415, 503, 504, 507,
        description="Lets a disk in that the cluster does not know, also in the place of a lost "
        "one of the same node name. `token` is shown in this answer and nowhere else.",
        requestBody={**_body({JSON: ref("JoinTokenRequest")}), "required": False},
    ),
    ("DELETE", "/v1/cluster/nodes/{node}"): _operation(
        "removeNode",
        "Forget a node that holds no copies",
        {JSON: ref("RemovedNode")},
        401, 403, 404, 409, 503, 504, 507,
        parameters=_parameters("Node"),
    ),
    ("POST", "/v1/cluster/move"): _operation(
        "moveCopies",
        "Copies of a table go from one node to another",
        {JSON: ref("Job")},
        400, 401, 403, 404, 409, 413, 415, 503, 504, 507,
        description="The new copy is compared with the primary's, rows and hashes at one LSN, "
        "before the old one goes.",
        requestBody=_body({JSON: ref("MoveRequest")}),
    ),
    ("POST", "/v1/cluster/drain"): _operation(
        "drainNode",
        "A node gives its primaries and copies away",
        {JSON: ref("Job")},
        400, 401, 403, 404, 409, 413, 415, 503, 504, 507,
        requestBody=_body({JSON: ref("DrainRequest")}),
    ),
    ("POST", "/v1/cluster/rebalance"): _operation(
        "rebalance",
        "Spread copies and primaries over the nodes",
        {JSON: {"oneOf": [ref("Job"), ref("Plan")]}},
        400, 401, 403, 409, 413, 415, 503, 504, 507,
        requestBody={**_body({JSON: ref("RebalanceRequest")}), "required": False},
    ),
    ("POST", "/v1/cluster/failover"): _operation(
        "failOver",
        "Another copy orders a table's writes",
        {JSON: ref("Job")},
        400, 401, 403, 404, 409, 413, 415, 503, 504, 507,
        description="Nothing is lost, but with `unclean`, which is refused while a copy in sync "
        "lives.",
        requestBody=_body({JSON: ref("FailoverRequest")}),
    ),
    ("GET", "/v1/jobs"): _operation(
        "listJobs", "Jobs, the newest first", {JSON: ref("JobList")}, 401, 403, 429, 503
    ),
    ("GET", "/v1/jobs/{job}"): _operation(
        "getJob",
        "One job and how far it is",
        {JSON: ref("Job")},
        401, 403, 404, 429, 503,
        parameters=_parameters("Job"),
    ),
    ("DELETE", "/v1/jobs/{job}"): _operation(
        "cancelJob",
        "End a job before it is done",
        {JSON: ref("CancelledJob")},
        400, 401, 403, 404, 409, 503, 504, 507,
        description="What it has moved stays moved; copies that are not complete yet are dropped.",
        parameters=_parameters("Job"),
    ),
    ("POST", "/v1/backup"): _operation(
        "takeBackup",
        "Copy all tables, at one instant",
        {JSON: ref("Job")},
        400, 401, 403, 404, 413, 415, 503, 507,
        description="The node that is asked does it; its job's `result` names the backup.",
        requestBody={**_body({JSON: ref("BackupRequest")}), "required": False},
    ),
    ("POST", "/v1/restore"): _operation(
        "restoreBackup",
        "Bring tables of a backup back",
        {JSON: ref("Job")},
        400, 401, 403, 404, 413, 415, 503, 507,
        description="Into new tables, which appear together when all are complete; a name that is "
        "taken is refused. The job's `result` counts rows.",
        requestBody={**_body({JSON: ref("RestoreRequest")}), "required": False},
    ),
    ("GET", "/v1/keys"): _operation(
        "listKeys", "Users, their rights and keys", {JSON: ref("KeyList")}, 401, 403, 409
    ),
    ("POST", "/v1/keys"): _operation(
        "createKey",
        "Make a key",
        {JSON: ref("NewKey")},
        400, 401, 403, 404, 409, 413, 415, 507,
        description="For a user that is there, or for a new one with `role` and `tables`. `key` is "
        "shown in this answer and nowhere else.",
        requestBody=_body({JSON: ref("KeyRequest")}),
    ),
    ("DELETE", "/v1/keys/{key}"): _operation(
        "revokeKey",
        "Void a key and its sessions",
        {JSON: ref("Revoked")},
        401, 403, 404, 409, 507,
        parameters=_parameters("Key"),
    ),
    ("POST", "/v1/keys/{key}/rotate"): _operation(
        "rotateKey",
        "A new text for a key",
        {JSON: ref("RotatedKey")},
        400, 401, 403, 404, 409, 413, 415, 507,
        description="The old text stays valid for `grace_s` seconds. For administrators, and for "
        "the key of the request itself.",
        parameters=_parameters("Key"),
        requestBody={**_body({JSON: ref("RotateRequest")}), "required": False},
    ),
    ("POST", "/v1/revocations"): _operation(
        "revokeToken",
        "Void signed tokens",
        {JSON: ref("Revoked")},
        400, 401, 403, 409, 413, 415, 507,
        description="One by its `jti`, or all of a subject that were issued until now.",
        requestBody=_body({JSON: ref("RevokeRequest")}),
    ),
    ("POST", "/v1/login"): _operation(
        "login",
        "Open a session with a key",
        {JSON: ref("Session")},
        400, 401, 403, 409, 413, 415, 507,
        description="The key is in the body or in Authorization. The answer sets a cookie, too.",
        requestBody={**_body({JSON: ref("LoginRequest")}), "required": False},
    ),
    ("DELETE", "/v1/login"): _operation(
        "logout", "End the session of the request", {JSON: ref("Ended")}, 401, 403, 409, 507
    ),
    ("GET", "/v1/whoami"): _operation(
        "whoami", "Who the node takes one for", {JSON: ref("Whoami")}, 401
    ),
    ("GET", "/livez"): _operation("live", "The process answers", {JSON: ref("Health")}),
    ("GET", "/readyz"): _operation("ready", "Reads are welcome", {JSON: ref("Health")}, 503),
    ("GET", "/leaderz"): _operation("leads", "This node leads", {JSON: ref("Health")}, 503),
    ("GET", "/metrics"): _operation(
        "metrics", "Prometheus' text format", {"text/plain": STRING}, 401, 403, 429, 503
    ),
    ("GET", "/openapi.json"): _operation("openapi", "This description", {JSON: {"type": "object"}}),
    ("GET", "/docs"): _operation("docs", "This description, for people", {"text/html": STRING}),
    ("GET", "/"): _operation("dashboard", "The dashboard", {"text/html": STRING}),
    ("GET", "/assets/{asset}"): _operation(
        "asset",
        "Scripts and styles of the two pages",
        {"text/css": STRING, "text/javascript": STRING, "image/svg+xml": STRING},
        404,
        parameters=_parameters("Asset"),
    ),
}  # fmt: skip

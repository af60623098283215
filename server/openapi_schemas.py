"""The schemas of `/openapi.json`: every body that the routes take or answer."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(
    required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any
) -> Schema:
    """An object's schema."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), **more}


def array(items: Schema) -> Schema:
    """A list's schema."""
    return {"type": "array", "items": items}


def ref(name: str) -> Schema:
    """A schema by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(kind: str) -> Schema:
    """A value that may be null."""
    return {"type": [kind, "null"]}


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}

_PROBLEM = obj(
    {
        "title": STRING,
        "status": INTEGER,
        "detail": {**STRING, "description": "Names the thing, its place and the remedy."},
        "code": {**STRING, "description": "A stable word for programs: undefined_table, ..."},
        "sqlstate": {**STRING, "description": "PostgreSQL's five characters."},
        "position": {
            **nullable("integer"),
            "description": "Character of the mistake in the SQL text, from 1.",
        },
        "request_id": {**STRING, "description": "In the server's log too; X-Request-Id."},
        "definite": {**BOOLEAN, "description": "false: the operation may have happened."},
        "retryable": {**BOOLEAN, "description": "The same request may succeed later."},
    },
    description="RFC 9457; further members depend on the code.",
)

_SQL_REQUEST = obj(
    {
        "sql": {
            **STRING,
            "description": "One statement, or several separated by `;`: the last one's result is "
            "answered.",
            "examples": ["SELECT id, title, vec <-> :q AS d FROM docs ORDER BY d LIMIT 5"],
        }
    },
    {
        "params": {
            "type": ["object", "array", "null"],
            "description": "An object for :name, a list for $1. A vector is a list, text such as "
            "`[1,2]`, or base64 of little-endian float32.",
        },
        "settings": {
            "type": ["object", "null"],
            "description": "As by SET, for this request: statement_timeout_ms, write_concern, ...",
        },
    },
    additionalProperties=False,
)

_STATS = obj(
    {
        "elapsed_ms": NUMBER,
        "node": STRING,
        "session": {**STRING, "description": "Send it back as NearQL-Session."},
    },
    {
        "strategy": {**STRING, "description": "How a search was answered: `exact/faiss_cpu`."},
        "search_ms": {**NUMBER, "description": "The time of vector searches alone."},
        "shards": array(obj({"table": STRING, "shard": INTEGER, "epoch": INTEGER, "lsn": INTEGER})),
        "write": obj({"concern": STRING, "committed": BOOLEAN, "copies": INTEGER}),
    },
)

_SQL_ANSWER = obj(
    {
        "columns": array(obj({"name": STRING, "type": STRING})),
        "rows": array({"type": "array", "description": "One value per column."}),
        "row_count": {**INTEGER, "description": "Rows returned; rows affected by DML."},
        "stats": _STATS,
    },
    {"notices": array(STRING)},
)

_ROWS_ANSWER = obj(
    {
        "rows": {**INTEGER, "description": "Rows in the body."},
        "inserted": INTEGER,
        "updated": INTEGER,
        "failed": array(
            obj(
                {
                    "row": {**INTEGER, "description": "Position in the body, from 0."},
                    "code": STRING,
                    "detail": STRING,
                }
            )
        ),
    },
    {"failed_count": {**INTEGER, "description": "Where `failed` lists only the first of them."}},
)

_COPY = obj(
    {
        "node": STRING,
        "lsn": nullable("integer"),
        "lag_records": {
            **nullable("integer"),
            "description": "Behind the end of the primary's log; null where no primary tells.",
        },
        "lag_ms": nullable("integer"),
    }
)
_SHARD_MEMBERS = {
    "shard": INTEGER,
    "epoch": INTEGER,
    "primary": nullable("string"),
    "in_sync": array(STRING),
    "copies": array(_COPY),
}
_NODE = obj(
    {
        "name": STRING,
        "role": {"enum": ["leader", "follower", "candidate", "member"]},
        "url": STRING,
        "alive": BOOLEAN,
        "last_seen_ms": {
            **nullable("integer"),
            "description": "Since the asked node heard of it; null where it never did.",
        },
    }
)
_COLUMN = obj(
    {
        "name": STRING,
        "type": STRING,
        "nullable": BOOLEAN,
        "default": nullable("string"),
        "primary_key": BOOLEAN,
    }
)
_TABLE = obj(
    {
        "name": STRING,
        "uuid": STRING,
        "status": {**STRING, "description": "`ready`, or why the data could not be opened."},
        "rows": nullable("integer"),
        "bytes": nullable("integer"),
        "wal_bytes": nullable("integer"),
        "replicas": INTEGER,
        "schema": obj({"columns": array(_COLUMN)}),
        "indexes": array(
            obj(
                {
                    "name": STRING,
                    "column": STRING,
                    "kind": STRING,
                    "metric": STRING,
                    "phase": STRING,
                    "rows_done": INTEGER,
                    "rows_total": INTEGER,
                    "rate": nullable("number"),
                    "eta_ms": nullable("integer"),
                    "bytes": INTEGER,
                    "detail": nullable("string"),
                }
            )
        ),
        "segments": array(
            obj(
                {
                    "shard": INTEGER,
                    "first_row": INTEGER,
                    "state": {"enum": ["growing", "sealed", "damaged"]},
                    "rows": INTEGER,
                    "dead_rows": INTEGER,
                    "bytes": INTEGER,
                }
            )
        ),
        "shards": array(obj(_SHARD_MEMBERS)),
    }
)
_TABLE_MAP = obj(
    {
        "table": STRING,
        "column": STRING,
        "key": {**nullable("string"), "description": "The primary key; null where there is none."},
        "color": nullable("string"),
        "rows": {**INTEGER, "description": "Of the whole table."},
        "method": {"enum": ["pca"]},
        "explained": {
            **array(NUMBER),
            "description": "Share of the sample's variance that x and y hold.",
        },
        "points": {
            **array({"type": "array"}),
            "description": "Each [key, x, y, value of `color`]; rows whose vector is NULL are "
            "left out.",
        },
    }
)
_CLUSTER = obj(
    {
        "leader": nullable("string"),
        "term": {**INTEGER, "description": "0 on a node alone: no election was held."},
        "nodes": array(ref("Node")),
        "shards": array(ref("Shard")),
    },
    {
        "moves": {
            **array(
                obj(
                    {
                        "table": STRING,
                        "shard": INTEGER,
                        "adding": STRING,
                        "removing": nullable("string"),
                    }
                )
            ),
            "description": "Of copies, under way; in a cluster only.",
        },
    },
)

_ROLE: Schema = {"enum": ["none", "reader", "writer", "admin"]}
_NAME: Schema = {"type": "string", "minLength": 1}
_SECONDS: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 315_360_000}
_LIMIT: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000}
_TIME: Schema = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Schema = {"type": ["string", "null"], "format": "date-time"}
_ACTIONS: Schema = array({"enum": ["SELECT", "INSERT", "UPDATE", "DELETE", "ADMIN"]})
_KEY_MEMBERS: dict[str, Schema] = {
    "id": STRING,
    "user": STRING,
    "created_at": _TIME,
    "expires_at": _TIME_OR_NULL,
    "rotated_at": _TIME_OR_NULL,
    "rate": {**nullable("integer"), "description": "Requests per second; null: the node's."},
    "concurrency": {**nullable("integer"), "description": "Requests at a time."},
}
_KEY_TEXT: Schema = {**STRING, "description": "Shown here once; only a digest is kept."}
_ACCESS: dict[str, Schema] = {
    "KeyRequest": obj(
        {"user": {**STRING, "pattern": "^[A-Za-z_][A-Za-z0-9_.@-]{0,126}$"}},
        {
            "role": {"enum": [*_ROLE["enum"], None], "description": "Of a new user."},
            "tables": {
                "type": ["array", "null"],
                "items": STRING,
                "description": "The only tables that a new user's role holds for; null: all.",
            },
            "expires_in_s": _SECONDS,
            "rate": _LIMIT,
            "concurrency": _LIMIT,
        },
        additionalProperties=False,
    ),
    "JoinTokenRequest": obj(
        {},
        {
            "expires_in_s": {
                "type": ["integer", "null"], "minimum": 1, "maximum": 604_800, "default": 3600,
            }
        },
    ),
    "JoinToken": obj({"token": STRING, "expires_at": _TIME}),
    "RemovedNode": obj({"removed": STRING}),
    "Key": obj(_KEY_MEMBERS),
    "NewKey": obj({**_KEY_MEMBERS, "key": _KEY_TEXT}),
    "RotateRequest": obj(
        {},
        {
            "grace_s": {"type": ["integer", "null"], "minimum": 0, "maximum": 315_360_000},
            "expires_in_s": _SECONDS,
        },
        additionalProperties=False,
    ),
    "RotatedKey": obj({**_KEY_MEMBERS, "key": _KEY_TEXT, "old_key_until": _TIME}),
    "User": obj(
        {
            "name": STRING,
            "role": _ROLE,
            "tables": {"type": ["array", "null"], "items": STRING},
            "grants": array(obj({"table": STRING, "actions": _ACTIONS})),
        }
    ),
    "KeyList": obj({"users": array(ref("User")), "keys": array(ref("Key"))}),
    "RevokeRequest": obj(
        {}, {"jti": _NAME, "subject": _NAME}, additionalProperties=False,
        minProperties=1, maxProperties=1,
    ),
    "Revoked": obj({"revoked": STRING}),
    "LoginRequest": obj({}, {"key": STRING}, additionalProperties=False),
    "Session": obj({"token": STRING, "expires_at": _TIME, "user": STRING}),
    "Ended": obj({"ended": STRING}),
    "Whoami": obj(
        {
            "user": STRING,
            "via": {"enum": ["local", "bootstrap", "key", "session", "token"]},
            "key": nullable("string"),
            "admin": BOOLEAN,
            "all_tables": {**_ACTIONS, "description": "What is permitted on every table."},
            "tables": {
                "type": "object",
                "additionalProperties": _ACTIONS,
                "description": "What is permitted on each visible table.",
            },
        }
    ),
}  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    **_ACCESS,
    "Problem": _PROBLEM,
    "SqlRequest": _SQL_REQUEST,
    "SqlAnswer": _SQL_ANSWER,
    "RowsAnswer": _ROWS_ANSWER,
    "Table": _TABLE,
    "TableList": obj({"tables": array(ref("Table"))}),
    "TableMap": _TABLE_MAP,
    "Node": _NODE,
    "NodeList": obj({"nodes": array(ref("Node"))}),
    "Shard": obj({"table": STRING, **_SHARD_MEMBERS}),
    "ShardList": obj({"shards": array(ref("Shard"))}),
    "Cluster": _CLUSTER,
    "Health": obj({"status": STRING}, {"failed_tables": INTEGER}),
}

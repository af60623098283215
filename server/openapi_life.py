"""Schemas of `/openapi.json` for jobs, and for what starts them."""

from __future__ import annotations

from nearql.server.openapi_schemas import (
    INTEGER,
    STRING,
    Schema,
    array,
    nullable,
    obj,
    ref,
)

_MAYBE_STRING = nullable("string")
_MAYBE_INTEGER = nullable("integer")
_STEP = {
    "what": {"enum": ["copy", "primary"]},
    "table": STRING,
    "from": _MAYBE_STRING,
    "to": STRING,
}

LIFE_SCHEMAS: dict[str, Schema] = {
    "MoveRequest": obj({"table": STRING, "from": STRING, "to": STRING}, additionalProperties=False),
    "DrainRequest": obj(
        {"node": STRING},
        {"cancel": {**nullable("boolean"), "description": "Let it have copies again."}},
        additionalProperties=False,
    ),
    "RebalanceRequest": obj(
        {},
        {"dry_run": {**nullable("boolean"), "description": "Answer the plan and do nothing."}},
        additionalProperties=False,
    ),
    "FailoverRequest": obj(
        {"table": STRING},
        {
            "to": {**_MAYBE_STRING, "description": "A node; by default the best other one."},
            "unclean": {
                **nullable("boolean"),
                "description": "Where no copy in sync lives: take this one as it is. What it lacks "
                "is lost.",
            },
        },
        additionalProperties=False,
    ),
    "Plan": obj({"job": _MAYBE_STRING, "plan": array(obj(_STEP))}),
    "Job": obj(
        {
            "job": {**STRING, "description": "Its id."},
            "kind": STRING,
            "state": {"enum": ["running", "waiting", "done", "failed", "cancelled"]},
            "detail": {**STRING, "description": "What it waits for, or why it ended so."},
            "started_at": {**STRING, "format": "date-time"},
            "ended_at": {**_MAYBE_STRING, "format": "date-time"},
            "done": INTEGER,
            "total": _MAYBE_INTEGER,
            "unit": STRING,
            "steps": array({"type": "object"}),
        }
    ),
    "JobList": obj({"jobs": array(ref("Job"))}),
    "CancelledJob": obj({"cancelled": STRING}),
}

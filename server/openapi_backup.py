"""Schemas of `/openapi.json` for backups and restores."""

from __future__ import annotations

from nearql.server.openapi_schemas import STRING, Schema, nullable, obj

_PLACE: dict[str, Schema] = {
    "repository": {
        **nullable("string"),
        "description": "An absolute path on the node's machine, or s3://bucket/prefix; left out: "
        "backup.repository of its configuration.",
    },
    "repository_id": {
        **nullable("string"),
        "description": "Refuse another repository than this one.",
    },
}

BACKUP_SCHEMAS: dict[str, Schema] = {
    "BackupRequest": obj({}, _PLACE, additionalProperties=False),
    "RestoreRequest": obj(
        {},
        {
            **_PLACE,
            "backup": {**nullable("string"), "description": "Its id; left out: the newest."},
            "tables": {
                "type": ["array", "null"],
                "items": STRING,
                "description": "These alone; left out: all, with views and users.",
            },
            "as": {
                "type": ["array", "null"],
                "items": STRING,
                "description": "A new name for each of `tables`.",
            },
            "to_time": {
                **nullable("string"),
                "description": "Until this time, in ISO 8601, or `latest`, from the archived log.",
            },
            "to_lsn": {
                **nullable("string"),
                "description": "Until this LSN of the one table; of several shards one each, with "
                "commas between.",
            },
            "cluster": {
                **nullable("string"),
                "description": "Whose log, where the repository has those of several clusters.",
            },
        },
        additionalProperties=False,
    ),
}

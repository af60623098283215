"""How schemathesis writes bodies that are neither JSON nor text; loaded by SCHEMATHESIS_HOOKS."""

from __future__ import annotations

from typing import Any

import orjson
import schemathesis


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else orjson.dumps(value, default=repr)


@schemathesis.serializer(
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
    "application/vnd.apache.parquet",
    "application/x-ndjson",
)
def rows(context: Any, value: Any) -> bytes:
    """Whatever was made, as bytes: only what the server does with it counts."""
    return _as_bytes(value)

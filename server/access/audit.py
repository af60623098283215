"""The audit log: a line of JSON for each administrative act, in `audit.log` of the data directory.

    {"at": "2026-11-23T09:00:00.000+00:00", "user": "ann", "via": "key", "key": "9f...",
     "act": "create_key", "target": "ci", "outcome": "done", "request_id": "...", ...}

A line is on the disk before the act is answered. Refused attempts are there too. Lines hold names
and ids, never keys, statements or rows. At `auth.audit_file` bytes the file becomes `audit.log.1`
and replaces the one before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from nearql.engine.errors import InternalError, NearQLError
from nearql.server.access.principal import acting

if TYPE_CHECKING:
    from nearql.server.access.layer import AccessLayer

log = structlog.get_logger("nearql.audit")
FILE = "audit.log"
_UNEXPECTED = InternalError.code  # as the answer says it


def audited(access: AccessLayer | None, act: str, target: str) -> AbstractContextManager[None]:
    """A block whose act is recorded, where anybody is asked for a key."""
    return nullcontext() if access is None else access.audit.act(act, target)


class AuditLog:
    """Appends to the file; thread-safe. size: bytes at which a new file is begun."""

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / FILE
        self._size = size
        self._lock = threading.Lock()

    @contextmanager
    def act(self, act: str, target: str, **more: Any) -> Iterator[None]:
        """Record what the block does, or that it was refused or failed, whatever it failed with."""
        try:
            yield
        except BaseException as error:
            code = error.code if isinstance(error, NearQLError) else _UNEXPECTED
            self.record(act, target, code, **more)
            raise
        self.record(act, target, "done", **more)

    def record(self, act: str, target: str, outcome: str, **more: Any) -> None:
        """Write one line; it is durable when this returns."""
        principal = acting()
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        line = {
            **more,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user": principal.name,
            "via": principal.kind,
            "key": principal.key_id or None,
            "act": act,
            "target": target[:200],
            "outcome": outcome,
            "request_id": request_id,
        }
        self._append(orjson.dumps(line, default=str) + b"\n")
        log.info("audit", act=act, target=target[:200], outcome=outcome, user=principal.name)

    def _append(self, line: bytes) -> None:
        with self._lock:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._size:
                self._path.replace(self._path.with_name(f"{FILE}.1"))
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line)
                os.fdatasync(handle)
            finally:
                os.close(handle)

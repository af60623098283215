"""Metadata of a node alone: the same commands and state machine, applied directly and journalled.

There is nobody to agree with, so a command is committed once its journal entry is durable.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nearql.cluster.metadata import journal as journals
from nearql.cluster.metadata.codec import (
    MAX_BYTES,
    decode_command,
    encode_command,
    from_plain,
    to_plain,
)
from nearql.cluster.metadata.commands import Command, Initialise
from nearql.cluster.metadata.journal import Journal
from nearql.cluster.metadata.state import Metadata, Result, apply
from nearql.engine.errors import TooLarge, Unavailable
from nearql.engine.storage.files import FileSystem, write_atomic


class LocalMetadata:
    """Implements `log.MetadataLog` for one node. Thread-safe."""

    def __init__(self, node_id: str, journal: Journal, state: Metadata) -> None:
        self._node_id = node_id
        self._journal = journal
        self._state = state
        self._listeners: list[Callable[[Metadata], None]] = []
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, directory: Path, fs: FileSystem, on_fatal: Callable[[str], NoReturn]
    ) -> LocalMetadata:
        """Recover from `directory`, or give an empty one its identity.

        Raises:
            Corruption: damaged files, or files of a newer version (code `newer_format`).
            StorageFull: no room for the journal.
        """
        journal = Journal(directory, fs, on_fatal)
        state = Metadata()
        if journal.snapshot is not None:
            state = from_plain(Metadata, journal.snapshot)
        for payload in journal.entries:
            state, _ = apply(state, decode_command(payload))
        journal.entries.clear()
        metadata = cls(node_identity(directory, fs), journal, state)
        if not state.cluster_id:
            metadata.propose(Initialise(request_id=_new_uuid(), cluster_id=_new_uuid()))
        return metadata

    @property
    def node_id(self) -> str:
        """See `log.MetadataLog.node_id`."""
        return self._node_id

    @property
    def state(self) -> Metadata:
        """The newest applied state."""
        return self._state

    def propose(self, command: Command, *, timeout_ms: int = 5000) -> Result:
        """Commit and apply; see `log.MetadataLog.propose`. Alone, nothing can time out."""
        payload = encode_command(command)
        if len(payload) > MAX_BYTES:
            raise TooLarge(
                f"This change of metadata has {len(payload)} bytes; at most {MAX_BYTES} are "
                "possible. Use fewer columns, or shorter defaults and checks."
            )
        with self._lock:
            if self._closed:
                raise Unavailable("The node is shutting down.", code="shutting_down")
            self._journal.append(payload)
            self._state, result = apply(self._state, command)
            for listener in self._listeners:
                listener(self._state)
            if self._journal.size_bytes > journals.COMPACT_BYTES:
                self._journal.compact(to_plain(self._state))
        return result

    def barrier(self, *, timeout_ms: int = 5000) -> None:
        """Everything proposed before is applied once the lock is free."""
        with self._lock:
            return

    def watch(self, listener: Callable[[Metadata], None]) -> None:
        """Call `listener` with each new state, from the proposing thread."""
        with self._lock:
            self._listeners.append(listener)

    def close(self) -> None:
        """Close the journal; further proposals are refused."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._journal.close()


def node_identity(directory: Path, fs: FileSystem) -> str:
    """The node id of this disk, made at its first start (never from a host name or an address)."""
    path = directory / "node_id"
    if not fs.exists(path):
        write_atomic(fs, path, _new_uuid().encode())
    return bytes(fs.map(path)).decode()


def _new_uuid() -> str:
    return str(uuid.uuid4())

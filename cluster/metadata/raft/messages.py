"""What voters say to each other, as bytes: msgpack maps, checked field by field before anything
else sees them.

The names and fields are PySyncObj's, so that the library can be handed them as they are; two are
ours: `term` in `next_node_idx`, and the whole `term_notice` (see `guard`). A `request_vote` of a
candidate that its leader called for has `called: true`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from nearql.cluster.metadata.codec import MAX_BYTES

Message = dict[str, Any]

REGULAR, NO_OP = 0, 1  # first byte of an entry's command; the library's other kinds are refused
BATCH_BYTES = 1 << 20  # of entries in one message, to which the last entry may add its size
CHUNK_BYTES = 256 << 10  # of a snapshot in one message
MAX_MESSAGE_BYTES = 4 << 20
_MAX_INTEGER = 1 << 62
_MAX_ENTRIES = 200_000


class Malformed(ValueError):
    """Bytes that no voter of this version sends."""


def encode(message: Message) -> bytes:
    """One message as bytes."""
    return msgpack.packb(message, use_bin_type=True)  # type: ignore[no-any-return]


def decode(data: bytes) -> Message:
    """The message in `data`; raises Malformed where it is none."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise Malformed(f"a message of {len(data)} bytes")
    try:
        message = msgpack.unpackb(data, use_list=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed("not msgpack") from error
    if not isinstance(message, dict):
        raise Malformed("not a map")
    kind = message.get("type")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise Malformed(f"unknown type {kind!r}")
    _require(check(message), f"a wrong {kind}")
    return message


def _require(condition: object, complaint: str) -> None:
    if not condition:
        raise Malformed(complaint)


def _number(message: Message, *names: str) -> bool:
    return all(
        type(message.get(name)) is int and 0 <= message[name] <= _MAX_INTEGER for name in names
    )


def _fields(message: Message, *names: str) -> bool:
    return message.keys() == {"type", *names}


def _request_vote(message: Message) -> bool:
    names = ("term", "last_log_index", "last_log_term")
    known = _fields(message, *names) or (
        _fields(message, *names, "called") and message["called"] is True
    )
    return known and _number(message, *names)


def _term_only(message: Message) -> bool:
    return _fields(message, "term") and _number(message, "term")


def _append_entries(message: Message) -> bool:
    if not _number(message, "term", "commit_index"):
        return False
    if "serialized" in message:
        names = ("term", "commit_index", "serialized")
        return _fields(message, *names) and _chunk(message["serialized"])
    return (
        _fields(message, "term", "commit_index", "entries", "prevLogIdx", "prevLogTerm")
        and _number(message, "prevLogIdx", "prevLogTerm")
        and _entries(message)
    )


def _chunk(value: Any) -> bool:
    """None (the sender has no snapshot to send just now), or (bytes, is first, is last)."""
    if value is None:
        return True
    if not isinstance(value, tuple) or len(value) != 3:
        return False
    data, first, last = value
    return type(data) is bytes and isinstance(first, bool) and isinstance(last, bool)


def _entries(message: Message) -> bool:
    """Commands of a known kind and size, their indexes without a gap, terms that never fall."""
    entries, index, term = message["entries"], message["prevLogIdx"], message["prevLogTerm"]
    if not isinstance(entries, tuple) or len(entries) > _MAX_ENTRIES:
        return False
    for entry in entries:
        if not isinstance(entry, tuple) or len(entry) != 3:
            return False
        command, found, of_term = entry
        if type(found) is not int or type(of_term) is not int or not is_command(command):
            return False
        if found != index + 1 or not term <= of_term <= message["term"]:
            return False
        index, term = found, of_term
    return True


def is_command(command: Any) -> bool:
    """Whether these bytes may become an entry of the log."""
    return (
        type(command) is bytes
        and 1 <= len(command) <= MAX_BYTES + 1
        and command[0] in (REGULAR, NO_OP)
    )


def _next_node_idx(message: Message) -> bool:
    return (
        _fields(message, "next_node_idx", "reset", "success", "term")
        and _number(message, "next_node_idx", "term")
        and isinstance(message["reset"], bool)
        and isinstance(message["success"], bool)
    )


def _apply_command(message: Message) -> bool:
    named = _fields(message, "command", "request_id") and _number(message, "request_id")
    return (named or _fields(message, "command")) and is_command(message["command"])


def _apply_command_response(message: Message) -> bool:
    if "error" in message:
        return _fields(message, "request_id", "error") and _number(message, "request_id", "error")
    names = ("request_id", "log_idx", "log_term")
    return _fields(message, *names) and _number(message, *names)


_CHECKS: dict[str, Callable[[Message], bool]] = {
    "request_vote": _request_vote,
    "response_vote": _term_only,
    "append_entries": _append_entries,
    "next_node_idx": _next_node_idx,
    "apply_command": _apply_command,
    "apply_command_response": _apply_command_response,
    "timeout_now": _term_only,
    "term_notice": _term_only,
}

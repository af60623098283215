"""The core's messages as bytes.

    length 4 | msgpack [shard's uuid, kind, its fields in order] | records, as the log has them

Fields are checked one by one against their annotations before anything else sees them; records
carry checksums of their own. Only `Append` has records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgpack

from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.link.frames import Malformed
from nearql.engine.errors import Corruption, Unavailable
from nearql.engine.storage.wal_raw import RawRecord, pack_records, unpack_records

_LENGTH = struct.Struct(">I")
_LIMIT = 1 << 63
_MAX_HEAD = 1 << 20  # a log with tens of thousands of epochs fits

# Numbers are on the wire and never change meaning.
_KINDS: tuple[type[Any], ...] = (
    msg.Sync, msg.SyncOk, msg.SyncFull, msg.Append, msg.Ack, msg.Fenced, msg.LeaseRelease,
    msg.ReadIndex, msg.Index,
)  # fmt: skip
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def encode(shard_uuid: str, message: msg.Message) -> list[bytes | memoryview]:
    """The buffers of one message; payloads of records aren't copied."""
    values = [getattr(message, f.name) for f in fields(message) if f.name != "records"]
    head = msgpack.packb([shard_uuid, _NUMBERS[type(message)], values])
    raw = [record.data for record in getattr(message, "records", ())]
    return [_LENGTH.pack(len(head)), head, *(memoryview(p).cast("B") for p in pack_records(raw))]


def decode(payload: memoryview) -> tuple[str, msg.Message]:
    """The shard's uuid and the message.

    Raises:
        Malformed: bytes that no node of this version sends.
    """
    head, rest = _split(payload)
    try:
        shard_uuid, number, values = msgpack.unpackb(head, use_list=False)
        kind = _KINDS[number]
    except (ValueError, TypeError, IndexError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed("malformed") from error
    wanted = [f for f in fields(kind) if f.name != "records"]
    _require(type(shard_uuid) is str and isinstance(values, tuple) and number >= 0)
    _require(len(values) == len(wanted))
    members = {f.name: _READ[f.type](v) for f, v in zip(wanted, values, strict=True)}
    if kind is msg.Append:
        members["records"] = _records(rest)
    else:
        _require(not rest)
    return shard_uuid, kind(**members)


def _split(payload: memoryview) -> tuple[memoryview, memoryview]:
    _require(len(payload) >= _LENGTH.size)
    (size,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + size
    _require(size <= _MAX_HEAD and end <= len(payload))
    return payload[_LENGTH.size : end], payload[end:]


def _records(data: memoryview) -> tuple[msg.Record, ...]:
    try:
        found = unpack_records(data)
    except (Corruption, Unavailable) as error:
        raise Malformed("malformed") from error
    return tuple(record(raw) for raw in found)


def record(raw: RawRecord) -> msg.Record:
    """A record as the core sees it."""
    return msg.Record(raw.lsn, raw.epoch, raw.nbytes, raw)


def _require(condition: object) -> None:
    if not condition:
        raise Malformed("malformed")


def _number(value: Any) -> int:
    _require(type(value) is int and 0 <= value < _LIMIT)
    return int(value)


def _text(value: Any) -> str:
    _require(type(value) is str)
    return str(value)


def _flag(value: Any) -> bool:
    _require(type(value) is bool)
    return bool(value)


def _optional_number(value: Any) -> int | None:
    return None if value is None else _number(value)


def _pair(value: Any) -> tuple[int, int]:
    _require(isinstance(value, tuple) and len(value) == 2)
    return _number(value[0]), _number(value[1])


def _session(value: Any) -> msg.Session:
    return msg.Session(*_pair(value))


def _vector(value: Any) -> msg.Vector:
    """Pairs (epoch, LSN of its first record), both rising."""
    _require(isinstance(value, tuple))
    vector = tuple(_pair(entry) for entry in value)
    for (epoch, start), (next_epoch, next_start) in zip(vector, vector[1:], strict=False):
        _require(epoch < next_epoch and start < next_start)
    return vector


_READ: dict[Any, Callable[[Any], Any]] = {
    "int": _number,
    "str": _text,
    "bool": _flag,
    "int | None": _optional_number,
    "Session": _session,
    "Vector": _vector,
}

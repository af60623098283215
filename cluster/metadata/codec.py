"""Commands and states as msgpack, with a schema version and no pickle.

Dataclasses become maps of their fields, and are rebuilt from their annotations. A field that is
missing in old bytes takes its default, so adding a field with a default needs no new version.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgpack

from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.state import COMMANDS
from nearql.engine.errors import Corruption

_T = typing.TypeVar("_T")

SCHEMA_VERSION = 1
MAX_BYTES = 256 << 10  # of one command; 5-raft 2f: larger ones take a path that Raft can't guard


class NewerFormat(Corruption):
    """Bytes written by a newer NearQL."""

    code = "newer_format"
    title = "Newer format"


def encode_command(command: Command) -> bytes:
    """One command as bytes."""
    return pack({"op": type(command).__name__, "args": to_plain(command)})


def decode_command(data: bytes | memoryview) -> Command:
    """The command in `data`; raises Corruption where it is none."""
    plain = unpack(data)
    kind = COMMANDS.get(plain.get("op", ""))
    if kind is None:
        raise Corruption(f"The metadata journal holds an unknown command {plain.get('op')!r}.")
    return from_plain(kind, plain["args"])


def pack(plain: Any) -> bytes:
    """Plain values with the schema version in front."""
    return msgpack.packb([SCHEMA_VERSION, plain])  # type: ignore[no-any-return]


def unpack(data: bytes | memoryview) -> Any:
    """What `pack` was given; raises NewerFormat or Corruption."""
    try:
        version, plain = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corruption(f"Metadata bytes can't be read: {error}.") from error
    if version > SCHEMA_VERSION:
        raise NewerFormat(
            f"Metadata has format {version}, this version reads up to {SCHEMA_VERSION}: "
            "upgrade NearQL."
        )
    return plain


def to_plain(value: Any) -> Any:
    """A dataclass tree as maps, lists and scalars."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[_T], plain: Any) -> _T:
    """The value of type `kind` that `to_plain` made `plain` of."""
    return typing.cast("_T", _build(kind, plain))


def _build(kind: Any, plain: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if plain is None else _build(inner, plain)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return tuple(_build(args[0], item) for item in plain)
        return tuple(_build(arg, item) for arg, item in zip(args, plain, strict=True))
    if origin in (dict, Mapping):
        return {key: _build(args[1], item) for key, item in plain.items()}
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, plain)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    return plain


def _build_dataclass(kind: Any, plain: dict[str, Any]) -> Any:
    known = _types_of_fields(kind)
    return kind(
        **{name: _build(known[name], item) for name, item in plain.items() if name in known}
    )


@functools.cache
def _types_of_fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}

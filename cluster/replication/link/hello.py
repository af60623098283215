"""The first frame each way: who connects, whom he wants, in which cluster, for what.

A name counts only as far as the certificate proves it; an address never does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgpack

from nearql.cluster.replication.link.frames import Malformed

HELLO_BYTES = 4096  # all that is read from somebody who has not proved his name
PROTOCOL_MIN = PROTOCOL_MAX = 1
FEATURES = 0  # bits; none is defined yet

_T = TypeVar("_T", bound="Hello | Welcome")


class Channel(StrEnum):
    """What a connection is for; each has its own, so that none waits behind another."""

    LOG = "log"  # records
    BEAT = "beat"  # heartbeats, acknowledgements, notices
    CALL = "call"  # requests and their answers
    BULK = "bulk"  # snapshots, at a limited rate


@dataclass(frozen=True, slots=True)
class Hello:
    """Of who connects. session: random, new for each connection. boot_ms: uptime of his machine."""

    protocol_min: int
    protocol_max: int
    features: int
    cluster: str
    node_id: str
    name: str
    incarnation: int
    wanted: str  # the node id it expects here
    channel: str
    session: int
    boot_ms: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer. refused: a word, or empty."""

    refused: str
    protocol: int = 0
    features: int = 0
    node_id: str = ""
    incarnation: int = 0


class Refused(Exception):
    """A connection that is none of ours; the text is the reason's word."""


def pack(message: Hello | Welcome) -> bytes:
    """As bytes."""
    return msgpack.packb(asdict(message))  # type: ignore[no-any-return]


def unpack(kind: type[_T], payload: memoryview) -> _T:
    """What `pack` was given; fields that a later version added are left out.

    Raises:
        Malformed: not such a message.
    """
    try:
        found = msgpack.unpackb(payload)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed("malformed") from error
    if not isinstance(found, dict):
        raise Malformed("malformed")
    members: dict[str, Any] = {}
    for name, of_type in kind.__annotations__.items():
        value: Any = found.get(name)
        if type(value).__name__ != of_type or (of_type == "int" and not 0 <= value < 1 << 63):
            raise Malformed("malformed")
        members[name] = value
    return kind(**members)


def refusal(hello: Hello, *, proved: Collection[str], cluster: str, node_id: str) -> str:
    """Why this hello is none of ours, as a word; "" = nothing is wrong with it.

    proved: names in the certificate. cluster, node_id: ours.
    """
    if hello.name not in proved:
        return "name"
    if not cluster or hello.cluster != cluster:
        return "cluster"
    if hello.wanted != node_id:
        return "not_me"
    if hello.channel not in list(Channel):
        return "channel"
    if hello.protocol_min > PROTOCOL_MAX or hello.protocol_max < PROTOCOL_MIN:
        return "protocol"
    return ""

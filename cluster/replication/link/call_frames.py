"""What calls say on the wire. Each payload begins with the call's number, chosen by the caller.

caller                                    callee
CALL         number, method, time, size
CALL_PART    number, bytes                (until `size` bytes were sent)
CALL_CANCEL  number                       the answer is not wanted any more
CALL_CREDIT  number, bytes                the caller has taken so much of the answer
             ANSWER_PART   number, bytes  at most `WINDOW_BYTES` beyond what was taken
             ANSWER_END    number
             ANSWER_ERROR  number, error
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack

from nearql.cluster.replication.link.frames import Malformed

PART_BYTES = 256 << 10
WINDOW_BYTES = 4 << 20
MAX_REQUEST_BYTES = 1 << 30
NUMBER = struct.Struct(">Q")
CREDIT = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Head:
    """Begins a call. timeout_ms: what is left of the caller's time."""

    number: int
    method: str
    timeout_ms: int
    size: int

    def pack(self) -> bytes:
        """As the payload of CALL."""
        rest = msgpack.packb([self.method, self.timeout_ms, self.size])
        return NUMBER.pack(self.number) + bytes(rest)


def unpack_head(payload: memoryview) -> Head:
    """What `Head.pack` made; raises Malformed."""
    number, rest = split(payload)
    try:
        method, timeout_ms, size = msgpack.unpackb(rest)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Malformed("malformed") from error
    if type(method) is not str or type(timeout_ms) is not int or type(size) is not int:
        raise Malformed("malformed")
    if timeout_ms < 0 or size < 0:
        raise Malformed("malformed")
    return Head(number, method, timeout_ms, size)


def split(payload: memoryview) -> tuple[int, memoryview]:
    """The number, and what follows; raises Malformed."""
    if len(payload) < NUMBER.size:
        raise Malformed("malformed")
    (number,) = NUMBER.unpack_from(payload)
    return number, payload[NUMBER.size :]


def unpack_credit(payload: memoryview) -> tuple[int, int]:
    """Number and bytes; raises Malformed."""
    if len(payload) != CREDIT.size:
        raise Malformed("malformed")
    number, count = CREDIT.unpack(payload)
    return number, count

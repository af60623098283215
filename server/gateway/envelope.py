"""What one node asks of another, as bytes: msgpack in front, large parts behind it as they are.

    length of the head (4 bytes, little-endian) · head (msgpack map) · body

Both ends are nodes of one cluster whose versions may differ by one: members that are not known are
left alone, and new ones must have a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from nearql.engine.errors import InvalidRequest

SQL, ROWS, WAIT, SHARDS = "sql", "rows", "wait", "shards"  # the methods that a gateway answers
_HEAD_BYTES = 16 << 20  # rights on ten thousand tables fit


def pack(head: Mapping[str, Any], *body: Any) -> bytes:
    """A head and the parts of a body, joined."""
    packed = msgpack.packb(dict(head))
    return b"".join((len(packed).to_bytes(4, "little"), packed, *body))


def unpack(message: bytes | bytearray) -> tuple[dict[str, Any], memoryview]:
    """What `pack` was given.

    Raises:
        InvalidRequest: it is not such a message.
    """
    view = memoryview(message)
    length = int.from_bytes(view[:4], "little")
    if len(view) < 4 or length > min(_HEAD_BYTES, len(view) - 4):
        raise InvalidRequest("A message between nodes is cut short.", code="invalid_message")
    try:
        head = msgpack.unpackb(view[4 : 4 + length])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidRequest(
            f"A message between nodes can't be read: {error}.", code="invalid_message"
        ) from None
    if not isinstance(head, dict):
        raise InvalidRequest("A message between nodes has no head.", code="invalid_message")
    return head, view[4 + length :]

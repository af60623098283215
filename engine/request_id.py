"""Request ids: 16 bytes by which a shard knows a repeated write.

    what was asked (8 bytes) · who asks, and for the how-manieth time something new (8 bytes)

A shard remembers writes by the second half. If that comes again with another first half, the
request is no repetition: answering it with the old outcome would lose the new write silently.
"""

from __future__ import annotations

from hashlib import blake2b

from nearql.engine.errors import Conflict

NO_REQUEST = bytes(16)
_HALF = 8


def make_request_id(name: bytes, content: bytes | memoryview) -> bytes:
    """The id of a request that its sender calls `name`, asking for `content`."""
    return _digest(content) + _digest(name)


def part_of(request_id: bytes, number: int, content: bytes = b"") -> bytes:
    """The id of one part (a statement, a batch) of a request; content: beyond the request's."""
    what = request_id[:_HALF]
    return (_digest(what + content) if content else what) + _digest(
        request_id[_HALF:] + number.to_bytes(8, "little")
    )


def asker(request_id: bytes) -> bytes:
    """The half by which a write is remembered."""
    return request_id[_HALF:]


def check_same(known: bytes, again: bytes) -> None:
    """Refuse an id that comes again with other content.

    Raises:
        Conflict: code `request_id_reused`.
    """
    if known != again:
        raise Conflict(
            "This request id was sent before with another request; nothing was done now. "
            "Count NearQL-Request-Id up for each new request.",
            code="request_id_reused", sqlstate="08P01",
        )  # fmt: skip


def _digest(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=_HALF).digest()

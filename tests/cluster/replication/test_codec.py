"""The core's messages as bytes: the same after the wire, and nothing else is taken."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import msgpack
import pytest
from crc32c import crc32c

from nearql.cluster.replication.codec import _KINDS, decode, encode, record
from nearql.cluster.replication.core import messages as msg
from nearql.cluster.replication.link.frames import Malformed
from nearql.engine.storage.wal_format import PAYLOAD_SCHEMA, RecordHeader, RecordKind
from nearql.engine.storage.wal_raw import RawRecord

SESSION = msg.Session(3, 17)
SHARD = "0d9f6a7e-0000-4000-8000-000000000001"


def raw(lsn: int, payload: bytes = b"payload") -> RawRecord:
    header = RecordHeader(
        payload_size=len(payload), payload_crc=crc32c(payload), kind=int(RecordKind.BATCH),
        flags=0, schema=PAYLOAD_SCHEMA, epoch=2, lsn=lsn, link=bytes(8), request_id=bytes(16),
        timestamp_ms=1, tag=bytes(8), group_back=0,
    )  # fmt: skip
    return RawRecord.of(header, payload)


RECORDS = tuple(record(raw(n, b"x" * n)) for n in range(5, 9))
MESSAGES: list[msg.Message] = [
    msg.Sync(2, SESSION, "alloc", ((1, 1), (2, 9)), 12, 4, 7),
    msg.SyncOk(2, SESSION, 9),
    msg.SyncFull(2, SESSION),
    msg.Append(2, SESSION, 4, 1, RECORDS, 3, 99, True),
    msg.Append(2, SESSION, 4, 1, (), 3, 99, False),
    msg.Ack(2, SESSION, 8, 7, 6, 1 << 23, 99),
    msg.Fenced(3),
    msg.LeaseRelease(2, 98),
    msg.ReadIndex(2, 5),
    msg.Index(2, 5, None),
    msg.Index(2, 5, 8),
]


def packed(message: msg.Message) -> bytes:
    return b"".join(encode(SHARD, message))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_is_the_same_after_the_wire(message: msg.Message) -> None:
    shard, again = decode(memoryview(packed(message)))
    assert shard == SHARD
    assert again == message


def test_every_kind_of_message_has_a_number_and_a_case_here() -> None:
    assert {type(message) for message in MESSAGES} == set(_KINDS)
    assert set(_KINDS) == set(msg.Message.__args__)


def with_head(plain: object, rest: bytes = b"") -> bytes:
    head: bytes = msgpack.packb(plain)
    return struct.pack(">I", len(head)) + head + rest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        struct.pack(">I", 100) + b"x",
        struct.pack(">I", 2**32 - 1),
        with_head("text"),
        with_head([SHARD, 5]),
        with_head([SHARD, 99, []]),
        with_head([SHARD, -1, [2, 5, None]]),
        with_head([SHARD, "5", [3]]),
        with_head([7, 5, [3]]),
        with_head([SHARD, 5, [3, 4]]),
        with_head([SHARD, 5, ["3"]]),
        with_head([SHARD, 5, [-3]]),
        with_head([SHARD, 5, [True]]),
        with_head([SHARD, 5, [1 << 63]]),
        with_head([SHARD, 5, [3]], b"more"),
        with_head([SHARD, 1, [2, [3], 9]]),
        with_head([SHARD, 0, [2, [3, 17], "alloc", [[2, 9], [1, 1]], 12, 4, 7]]),
        with_head([SHARD, 0, [2, [3, 17], "alloc", [[1, 9], [2, 9]], 12, 4, 7]]),
        with_head([SHARD, 0, [2, [3, 17], "alloc", 5, 12, 4, 7]]),
        packed(MESSAGES[3])[:-1],
        packed(MESSAGES[3]) + b"x",
        packed(MESSAGES[3])[:-1] + b"y",
    ],
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(memoryview(data))


def test_any_damage_is_malformed_or_another_whole_message() -> None:
    """Nothing but Malformed is ever raised, whatever a peer sends."""
    chance = random.Random(8472)
    damages: list[Callable[[bytearray], None]] = [
        lambda data: data.__setitem__(chance.randrange(len(data)), chance.randrange(256)),
        lambda data: data.__delitem__(slice(chance.randrange(len(data)), None)),
        lambda data: data.insert(chance.randrange(len(data)), chance.randrange(256)),
    ]
    taken = 0
    for _ in range(4000):
        data = bytearray(packed(chance.choice(MESSAGES)))
        for _ in range(chance.randrange(1, 4)):
            if data:
                chance.choice(damages)(data)
        try:
            _, message = decode(memoryview(bytes(data)))
        except Malformed:
            continue
        taken += 1
        assert isinstance(message, tuple(_KINDS))
    assert taken, "damage to a number gives another message"

"""Statements as log payloads: whatever the size of a record, the same statement comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearql.engine.errors import TooLarge
from nearql.engine.keys import keys_of
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.segment.rows import Rows
from nearql.engine.shard.records import (
    Counts,
    Payload,
    SchemaChange,
    Statement,
    StatementReader,
    encode,
)
from nearql.engine.storage.wal import RecordKind, WalRecord
from support.tables import SCHEMA, row, rows_of, table_of

REQUEST = b"0123456789abcdef"


def records(payloads: list[Payload], first_lsn: int = 1) -> list[WalRecord]:
    """As the log would give them back."""
    last = len(payloads) - 1
    return [
        WalRecord(
            lsn=first_lsn + part,
            epoch=3,
            kind=payload.kind,
            payload=memoryview(b"".join(bytes(memoryview(p)) for p in payload.parts)),
            request_id=REQUEST,
            more=part < last,
            timestamp_ms=0,
        )
        for part, payload in enumerate(payloads)
    ]


def read(found: list[WalRecord]) -> list[Statement]:
    reader = StatementReader()
    return [done for record in found if (done := reader.feed(record)) is not None]


def rows_in(statement: Statement) -> list[dict[str, Any]]:
    return [
        {"id": key, "title": title, "vec": vec}
        for rows in statement.puts
        for key, title, vec in zip(
            rows.key(1).to_pylist(),
            rows.scalars.column("2").to_pylist(),
            rows.vectors[3].data.tolist(),
            strict=True,
        )
    ]


@given(
    deletes=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=300),
    puts=st.lists(st.integers(0, 1000), unique=True, max_size=120),
    title=st.text(max_size=30),
    limit=st.integers(900, 6000),
)
def test_a_statement_survives_any_size_of_record(
    deletes: list[int], puts: list[int], title: str, limit: int
) -> None:
    statement = Statement(RecordKind.BATCH, Counts(1, 2, 3, b"skipped"), REQUEST)
    if deletes:
        statement.deletes.append(list(deletes))
    if puts:
        statement.puts.append(Rows.of(SCHEMA, rows_of(puts, title)))
    payloads = encode(statement, pa.int64(), limit)
    found = records(payloads)
    assert all(len(record.payload) <= limit for record in found)
    (again,) = read(found)
    assert [key for keys in again.deletes for key in keys] == deletes
    assert rows_in(again) == [row(key, title) for key in puts]
    assert rows_in(statement) == rows_in(again), "what is applied is what is logged"
    assert (again.lsn, again.epoch, again.request_id) == (len(found), 3, REQUEST)
    assert again.counts == Counts(1, 2, 3, b"skipped")


def test_kinds_tell_what_a_record_holds() -> None:
    statement = Statement(RecordKind.BATCH, Counts())
    statement.deletes.append([1, 2])
    statement.puts.append(Rows.of(SCHEMA, rows_of([1])))
    kinds = [payload.kind for payload in encode(statement, pa.int64(), 10_000)]
    assert kinds == [RecordKind.DELETE, RecordKind.BATCH]


@pytest.mark.parametrize("kind", [RecordKind.TRUNCATE, RecordKind.BATCH])
def test_a_statement_without_rows_is_one_record(kind: RecordKind) -> None:
    (payload,) = encode(Statement(kind, Counts(deleted=4)), pa.int64(), 1000)
    (again,) = read(records([payload]))
    assert (again.kind, again.counts, again.puts) == (kind, Counts(deleted=4), [])


def test_schema_changes_carry_their_fills() -> None:
    fills = {1: None, 4: pa.scalar(5, pa.int32()), 5: pa.scalar("ä"), 6: pa.scalar(True)}
    statement = Statement(RecordKind.SCHEMA, Counts(), schema=SchemaChange(7, fills))
    (again,) = read(records(encode(statement, pa.int64(), 10_000)))
    assert again.schema == SchemaChange(7, fills)


def test_half_vectors_and_nulls_come_back() -> None:
    schema = TableSchema(
        (Column(1, "id", ColumnType("BIGINT")), Column(2, "vec", ColumnType("HALFVEC(2)"))), 1
    )
    given_rows = table_of([{"id": 1, "vec": [0.5, 1]}, {"id": 2, "vec": None}], schema)
    statement = Statement(RecordKind.BATCH, Counts(), puts=[Rows.of(schema, given_rows)])
    (again,) = read(records(encode(statement, pa.int64(), 10_000)))
    block = again.puts[0].vectors[2]
    assert block.data.dtype == np.float16
    assert block.data.tolist() == [[0.5, 1], [0, 0]]
    assert block.valid is not None
    assert block.valid.tolist() == [True, False]
    assert block.norms.tolist() == [np.float32(1.25**0.5), 0]


def test_text_keys_are_split_too() -> None:
    deleted: list[int | str] = [f"{n:0100}" for n in range(100)]
    statement = Statement(RecordKind.BATCH, Counts(), deletes=[deleted])
    found = records(encode(statement, pa.string(), 4000))
    assert len(found) > 2
    (again,) = read(found)
    assert [key for keys in again.deletes for key in keys] == deleted


def test_a_row_above_the_limit_is_too_large_before_anything_is_made() -> None:
    rows = Rows.of(SCHEMA, table_of([row(1), row(2, "x" * 5000)]))
    with pytest.raises(TooLarge, match="engine.wal_record_bytes"):
        encode(Statement(RecordKind.BATCH, Counts(), puts=[rows]), pa.int64(), 4000)


def test_a_statement_broken_off_is_dropped_by_the_next() -> None:
    def statement(keys: range) -> list[Payload]:
        rows = Rows.of(SCHEMA, rows_of(keys))
        return encode(Statement(RecordKind.BATCH, Counts(), puts=[rows]), pa.int64(), 1500)

    broken = records(statement(range(100)))[:-1]
    assert len(broken) > 1
    whole = records(statement(range(200, 300)), first_lsn=len(broken) + 1)
    (again,) = read([*broken, *whole])
    assert [key for rows in again.puts for key in keys_of(rows.key(1))] == list(range(200, 300))


def test_a_record_that_continues_nothing_is_an_error() -> None:
    rows = Rows.of(SCHEMA, rows_of(range(100)))
    found = records(encode(Statement(RecordKind.BATCH, Counts(), puts=[rows]), pa.int64(), 1500))
    with pytest.raises(ValueError, match="part 1, not 0"):
        read(found[1:])
    with pytest.raises(ValueError, match="part 2, not 1"):
        read([found[0], found[2]])

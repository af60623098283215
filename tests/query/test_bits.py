"""Bit strings: packed into storage, the same to SQL again, whatever their length."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearql.engine.errors import InvalidValue, NearQLError
from nearql.engine.schema import MAX_BITS, Column, ColumnType
from nearql.query.casting import cast_column
from support.sql import Sql


def column(bits: int) -> Column:
    """A BIT column."""
    return Column(1, "b", ColumnType.parse(f"BIT({bits})"))


def unpacked(array: pa.Array, bits: int) -> list[str | None]:
    """What is stored, as text."""
    texts: list[str | None] = []
    for value in array.to_pylist():
        digits = None if value is None else np.unpackbits(np.frombuffer(value, np.uint8))
        if digits is not None:
            assert not digits[bits:].any()
        texts.append(None if digits is None else "".join(map(str, digits[:bits].tolist())))
    return texts


@settings(deadline=None)
@given(st.integers(1, 40), st.data())
def test_every_form_packs_to_the_same(bits: int, data: st.DataObject) -> None:
    """Text, lists of numbers and of booleans, bytes in the stored form; NULLs stay."""
    one = st.one_of(st.none(), st.text("01", min_size=bits, max_size=bits))
    texts = data.draw(st.lists(one, max_size=6))
    packed = cast_column(pa.array(texts, pa.string()), column(bits))
    assert not packed.failures
    assert unpacked(packed.array, bits) == texts
    numbers = [None if text is None else [int(digit) for digit in text] for text in texts]
    forms = [
        pa.array(numbers, pa.list_(pa.int64())),
        pa.array(numbers, pa.list_(pa.uint8(), bits)),
        pa.array([n if n is None else [bool(d) for d in n] for n in numbers], pa.list_(pa.bool_())),
        pa.array(packed.array.to_pylist(), pa.binary()),
    ]
    for form in forms:
        assert cast_column(form, column(bits)).array.equals(packed.array)


def test_what_does_not_fit_is_told_by_row() -> None:
    """Length, characters, numbers, bits behind the last."""
    found = cast_column(pa.array(["101", "10", "1x1", None, "é1"]), column(3))
    assert [failure.row for failure in found.failures] == [1, 2, 4]
    assert unpacked(found.array, 3) == ["101", None, None, None, None]
    lists = pa.array([[1, 0, 1], [1, 2, 0], [None, 1, 1], [1]], pa.list_(pa.int64()))
    assert [f.row for f in cast_column(lists, column(3)).failures] == [1, 2, 3]
    raw = pa.array([b"\xa0", b"\xb0", b"\xa0\x00"], pa.binary())
    assert [f.row for f in cast_column(raw, column(3)).failures] == [1, 2]
    with pytest.raises(InvalidValue, match=r"BIT\(3\)"):
        cast_column(pa.array([1.5]), column(3))


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 1000, 16_384])
def test_bits_come_back_as_they_went(sql: Sql, bits: int) -> None:
    """By text and by parameters, sealed or not."""
    text = "".join("01"[(i * i) % 3 == 1] for i in range(bits))
    sql.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, b BIT({bits}))")
    sql.run(f"INSERT INTO t VALUES (1, '{text}'), (2, NULL)")
    sql.run("INSERT INTO t VALUES (3, :b)", {"b": [int(digit) for digit in text]})
    found = sql.run("SELECT b FROM t ORDER BY id")
    assert found.columns[0].type == f"BIT({bits})"
    assert found.table.column(0).to_pylist() == [text, None, text]
    near = "SELECT id, b <~> :q AS d FROM t ORDER BY d LIMIT 5"
    flipped = ("1" if text[0] == "0" else "0") + text[1:]
    assert sql.run(near, {"q": flipped}).table.to_pylist() == [
        {"id": 1, "d": 1.0},
        {"id": 3, "d": 1.0},
    ]


def test_the_longest_bits_pack() -> None:
    """One more is no column type."""
    text = "10" * (MAX_BITS // 2)
    assert unpacked(cast_column(pa.array([text]), column(MAX_BITS)).array, MAX_BITS) == [text]
    with pytest.raises(InvalidValue, match="64000"):
        column(MAX_BITS + 1)


def brute(rows: dict[int, str | None], query: str, jaccard: bool) -> list[tuple[int, Any]]:
    """Every row with bits, by distance, then key."""
    found = []
    for key, bits in rows.items():
        if bits is None:
            continue
        both = sum(a == b == "1" for a, b in zip(bits, query, strict=True))
        either = sum("1" in pair for pair in zip(bits, query, strict=True))
        differ = sum(a != b for a, b in zip(bits, query, strict=True))
        distance = (1.0 if not both else 1 - both / either) if jaccard else float(differ)
        found.append((float(np.float32(distance)), key))
    return [(key, distance) for distance, key in sorted(found)]


@pytest.mark.parametrize(("operator", "jaccard"), [("<~>", False), ("<%>", True)])
@pytest.mark.parametrize("bits", [5, 16])
def test_searches_are_exact_and_ties_go_by_key(
    sql: Sql, bits: int, operator: str, jaccard: bool
) -> None:
    """Filtered, joined, in a sub-query, per row of another table."""
    rng = np.random.default_rng(bits)
    rows: dict[int, str | None] = {
        key: None if key == 7 else "".join(map(str, rng.integers(0, 2, bits))) for key in range(60)
    }
    sql.run(f"CREATE TABLE t (id INTEGER PRIMARY KEY, b BIT({bits}))")
    for key, value in rows.items():
        sql.run("INSERT INTO t VALUES ($1, $2)", [key, value])
    query = "10110" * 4
    query = query[:bits]
    expected = brute(rows, query, jaccard)

    def pairs(text: str) -> list[tuple[Any, ...]]:
        table = sql.run(text, {"q": query}).table
        return [tuple(row.values()) for row in table.to_pylist()]

    select = f"SELECT id, b {operator} :q AS d FROM t"
    assert pairs(f"{select} ORDER BY d LIMIT 100") == expected
    assert pairs(f"{select} ORDER BY b {operator} :q LIMIT 9 OFFSET 3") == expected[3:12]
    odd = [pair for pair in expected if pair[0] % 2]
    assert pairs(f"{select} WHERE id % 2 = 1 ORDER BY d LIMIT 4") == odd[:4]
    assert pairs(f"SELECT * FROM ({select} ORDER BY d LIMIT 3) AS s ORDER BY d, id") == expected[:3]
    near = f"SELECT u.id FROM t u ORDER BY u.b {operator} l.b LIMIT 1"
    joined = f"SELECT l.id, r.id AS near FROM t l CROSS JOIN LATERAL ({near}) r WHERE l.id < 6"
    nearest = [(key, brute(rows, rows[key] or "", jaccard)[0][0]) for key in range(6)]
    assert sorted(pairs(joined)) == nearest


def test_explain_says_that_bits_are_searched_exactly(sql: Sql) -> None:
    """Where no index is over them."""
    sql.run("CREATE TABLE t (id INTEGER PRIMARY KEY, b BIT(3))")
    plan = sql.run("EXPLAIN SELECT id FROM t ORDER BY b <~> '101' LIMIT 1").table
    assert "exactly for every row" in " ".join(plan.column(0).to_pylist())
    notice = sql.run("CREATE INDEX ON t USING hnsw (b bit_hamming_ops)").notices[0]
    built = find_spec("faiss") is not None
    assert ("built in the background" if built else "FAISS is not installed") in notice
    with pytest.raises(NearQLError, match="bit_hamming_ops"):
        sql.run("CREATE INDEX ON t USING hnsw (b vector_l2_ops)")


def test_added_columns_have_defaults_of_bits(sql: Sql) -> None:
    """As text or as a bit literal, for the rows that are there already."""
    sql.run("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    sql.run("ALTER TABLE t ADD COLUMN a BIT(4) DEFAULT B'1010'")
    sql.run("ALTER TABLE t ADD COLUMN b BIT(10) DEFAULT '1010101011'")
    sql.run("INSERT INTO t (id) VALUES (2)")
    rows = sql.run("SELECT a, b FROM t ORDER BY id").table.to_pylist()
    assert rows == [{"a": "1010", "b": "1010101011"}] * 2
    with pytest.raises(NearQLError, match="4 bits"):
        sql.run("ALTER TABLE t ADD COLUMN c BIT(4) DEFAULT '10'")
    sql.run("CREATE TABLE u (id INTEGER PRIMARY KEY, b BIT(4) CHECK (b <~> '1111' < 3))")
    with pytest.raises(NearQLError, match="CHECK"):
        sql.run("INSERT INTO u VALUES (1, '0000')")


def test_query_created_tables_need_one_length(sql: Sql) -> None:
    """Bits of several lengths have no column type."""
    with pytest.raises(NearQLError, match=r"::bit\(8\)"):
        sql.run("CREATE TABLE t AS SELECT b FROM (VALUES (B'1'), (B'11')) AS v(b)")
    sql.run("CREATE TABLE t AS SELECT b FROM (VALUES (B'10'), (B'11')) AS v(b)")
    assert sql.run("DESCRIBE t").table.column("type").to_pylist() == ["BIT(2)"]

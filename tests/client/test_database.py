"""The same behaviour over HTTP and in this process, blocking and asyncio: one suite, four ways."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nearql.client import Connection, errors
from support.clients import connector
from support.server_process import ServerProcess

WAYS = [(place, form) for place in ("http", "embedded") for form in ("blocking", "asyncio")]
_names = (f"t{i}" for i in itertools.count(1))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server in a process of its own."""
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as server:
        yield server.url


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def db(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A connection of each kind."""
    place, form = request.param
    target = (
        request.getfixturevalue("url")
        if place == "http"
        else tmp_path_factory.mktemp("embedded") / "data"
    )
    with connector(form)(target) as connection:
        yield connection


@pytest.fixture
def table(db: Connection) -> Iterator[str]:
    """A table `(id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3))` of its own."""
    name = next(_names)
    db.sql(f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, title TEXT, vec VECTOR(3))")
    yield name
    db.sql(f"DROP TABLE {name}")


def vectors(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Row i is (i, 0, 0): distances to the origin are the row numbers."""
    found = np.zeros((count, 3), np.float32)
    found[:, 0] = np.arange(count)
    return found


def fill(db: Connection, table: str, count: int = 10) -> None:
    titles = [f"title {i}" for i in range(count)]
    db.insert(table, {"id": np.arange(count), "title": titles, "vec": vectors(count)})


# ---- statements -----------------------------------------------------------------------------


def test_the_first_example(db: Connection, table: str) -> None:
    fill(db, table)
    hits = db.sql(
        f"SELECT id, title, vec <-> :q AS d FROM {table} ORDER BY d LIMIT 3",
        q=np.array([2.2, 0, 0], np.float32),
    )
    assert [(i, t) for i, t, _ in hits] == [(2, "title 2"), (3, "title 3"), (1, "title 1")]
    assert hits.columns == ["id", "title", "d"]
    assert [column.type for column in hits.columns] == ["BIGINT", "TEXT", "FLOAT"]
    assert hits.arrow()["d"].to_pylist() == pytest.approx([0.2, 0.8, 1.2], rel=1e-6)
    assert hits.stats["strategy"].startswith("exact")
    assert hits.stats["elapsed_ms"] > 0


@pytest.mark.parametrize(
    "query",
    [
        np.array([5, 0, 0], np.float32),
        np.array([5, 0, 0], np.float64),
        [5.0, 0, 0],
        "[5,0,0]",
        np.array([5, 0, 0], "<f4").tobytes(),
    ],
)
def test_a_vector_in_every_form(db: Connection, table: str, query: Any) -> None:
    fill(db, table)
    text = f"SELECT id FROM {table} ORDER BY vec <-> $1 LIMIT 1"
    assert db.sql(text, query).fetchall() == [(5,)]
    assert db.execute(text, [query]).fetchall() == [(5,)]


def test_bytes_are_a_blob(db: Connection, table: str) -> None:
    db.sql(f"ALTER TABLE {table} ADD COLUMN raw BLOB")
    db.sql(f"INSERT INTO {table} (id, raw) VALUES (1, :raw)", raw=bytes(range(256)))
    assert db.sql(f"SELECT raw FROM {table}").fetchall() == [(bytes(range(256)),)]
    assert db.sql(f"SELECT id FROM {table} WHERE raw = $1", bytearray(range(256))).fetchone()
    assert db.sql("SELECT :empty::BLOB", empty=b"").fetchone() == (b"",)


def test_named_parameters(db: Connection, table: str) -> None:
    fill(db, table)
    found = db.execute(
        f"SELECT id FROM {table} WHERE id > :low AND title LIKE :like ORDER BY vec <-> :q LIMIT 2",
        {"low": 3, "like": "title %", "q": [0, 0, 0]},
    )
    assert found.fetchall() == [(4,), (5,)]


def test_a_list_is_a_list_where_no_vector_is_expected(db: Connection, table: str) -> None:
    fill(db, table)
    text = f"SELECT id FROM {table} WHERE id IN (SELECT unnest(:ids::BIGINT[])) ORDER BY id"
    assert db.sql(text, ids=np.array([7, 1])).fetchall() == [(1,), (7,)]


def test_values_keep_their_types(db: Connection) -> None:
    row = db.sql(
        "SELECT DATE '2026-01-02' AS a, TIMESTAMP '2026-01-02 03:04:05.678' AS b,"
        " 1.50::DECIMAL(9,2) AS c, 'x'::BLOB AS d, [1, 2] AS e, TRUE AS f, NULL::INTEGER AS g,"
        " 'nan'::DOUBLE AS h,"
        " 9007199254740993::BIGINT AS i"
    ).fetchone()
    assert row is not None
    assert row[:7] == (
        dt.date(2026, 1, 2),
        dt.datetime.fromisoformat("2026-01-02T03:04:05.678"),
        Decimal("1.50"),
        b"x",
        [1, 2],
        True,
        None,
    )
    assert math.isnan(row[7])
    assert row[8] == 9007199254740993


def test_parameters_of_other_types(db: Connection) -> None:
    day, key = dt.date(2026, 1, 2), uuid.UUID(int=7)
    row = db.sql(
        "SELECT $1::DATE, $2::UUID::TEXT, $3::DECIMAL(9,2), $4::BOOLEAN, $5::TEXT",
        *(day, key, Decimal("1.50"), False, None),
    ).fetchone()
    assert row == (day, str(key), Decimal("1.50"), False, None)


def test_writes_say_what_they_did(db: Connection, table: str) -> None:
    written = db.sql(f"INSERT INTO {table} VALUES (1, 'a', '[1,2,3]'), (2, 'b', NULL)")
    assert (written.row_count, len(written)) == (2, 0)
    assert written.stats["write"]["committed"] is True
    assert repr(written) == "OK, 2 rows affected"
    assert db.sql(f"UPDATE {table} SET title = 'z' WHERE id = 1").row_count == 1
    assert db.sql(f"DELETE FROM {table} WHERE id = 5").row_count == 0
    assert db.sql(f"SELECT * FROM {table} ORDER BY id").fetchall() == [
        (1, "z", [1.0, 2.0, 3.0]),
        (2, "b", None),
    ]


def test_several_statements_answer_the_last(db: Connection, table: str) -> None:
    assert db.sql(f"INSERT INTO {table} VALUES (1, 'a;', NULL); SELECT 5;").fetchall() == [(5,)]
    assert db.sql(f"SELECT title FROM {table}").fetchall() == [("a;",)]


def test_vectors_come_as_matrices(db: Connection, table: str) -> None:
    fill(db, table)
    columns = db.sql(f"SELECT vec FROM {table} ORDER BY id").numpy()
    assert columns["vec"].dtype == np.float32
    assert (columns["vec"] == vectors(10)).all()


# ---- errors ---------------------------------------------------------------------------------


def test_wrong_sql_has_its_position(db: Connection) -> None:
    with pytest.raises(errors.SqlError) as caught:
        db.sql("SELECT 1 FRM x WHERE")
    error = caught.value
    assert error.status == 400
    assert error.position is not None
    assert error.definite
    assert not error.retryable
    assert error.request_id


@pytest.mark.parametrize(
    ("text", "values", "kind", "said"),
    [
        ("SELECT * FROM {t}x", (), errors.NotFound, "{t}"),
        ("SELECT titel FROM {t}", (), errors.Error, "title"),
        ("SELECT id FROM {t} ORDER BY vec <-> $1 LIMIT 1", ([1.0, 2.0],), errors.InvalidValue, "3"),
        ("INSERT INTO {t} VALUES (1, 'a', '[1,2]')", (), errors.InvalidValue, "3"),
        ("INSERT INTO {t} VALUES (1, 'a', '[1,2,nan]')", (), errors.InvalidValue, ""),
        ("INSERT INTO {t} VALUES ('x', 'a', NULL)", (), errors.InvalidRequest, "x"),
        ("CREATE TABLE {t} (id BIGINT PRIMARY KEY)", (), errors.Conflict, "{t}"),
        ("SELECT $2", (1,), errors.InvalidRequest, ""),
    ],
)
def test_errors_have_their_class_and_name_the_thing(
    db: Connection, table: str, text: str, values: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        db.sql(text.format(t=table), *values)
    assert said.format(t=table) in str(caught.value)
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


def test_a_duplicate_key(db: Connection, table: str) -> None:
    fill(db, table, 1)
    with pytest.raises(errors.Conflict) as caught:
        db.sql(f"INSERT INTO {table} VALUES (1, 'new', NULL), (0, 'again', NULL)")
    assert (caught.value.code, caught.value.sqlstate) == ("duplicate_key", "23505")
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(1,)]


def test_an_unknown_setting(db: Connection) -> None:
    with pytest.raises(errors.InvalidRequest, match="target_recall"):
        db.execute("SELECT 1", None, {"target_recal": 0.9})


# ---- many rows ------------------------------------------------------------------------------


def test_insert_counts(db: Connection, table: str) -> None:
    report = db.insert(table, {"id": np.arange(1000), "vec": vectors(1000)}, batch_bytes=4096)
    assert (report.rows, report.inserted, report.updated, report.failed) == (1000, 1000, 0, [])
    assert report.batches > 3
    assert report.rows_per_s > 0
    assert db.sql(f"SELECT count(*), count(vec), count(title) FROM {table}").fetchall() == [
        (1000, 1000, 0)
    ]


def test_rows_that_exist_are_reported_one_by_one(db: Connection, table: str) -> None:
    fill(db, table, 3)
    rows = [{"id": i, "title": "new"} for i in (10, 1, 11, 2)]
    report = db.insert(table, rows, errors="report", batch_bytes=1)
    assert report.inserted == 2
    assert [(f.row, f.code) for f in report.failed] == [(1, "duplicate_key"), (3, "duplicate_key")]
    with pytest.raises(errors.RowsFailed, match=f"2 of 2 rows were refused by {table}"):
        db.insert(table, rows[:2])
    assert db.sql(f"SELECT title FROM {table} WHERE id = 1").fetchall() == [("title 1",)]


def test_upsert_replaces(db: Connection, table: str) -> None:
    fill(db, table, 3)
    report = db.insert(table, [{"id": 1, "title": "new"}, {"id": 9, "title": "nine"}], "upsert")
    assert (report.inserted, report.updated) == (1, 1)
    assert db.sql(f"SELECT title FROM {table} WHERE id IN (1, 9) ORDER BY id").fetchall() == [
        ("new",),
        ("nine",),
    ]


def test_wrong_rows_do_not_stop_right_ones(db: Connection, table: str) -> None:
    rows = [
        {"id": 1, "vec": [1.0, 2.0, 3.0]},
        {"id": 2, "vec": [1.0, 2.0]},
        {"id": 3, "vec": [1.0, math.nan, 3.0]},
        {"id": None, "vec": None},
        {"id": 5, "vec": None},
    ]
    report = db.insert(table, rows, errors="report")
    assert [f.row for f in report.failed] == [1, 2, 3]
    assert report.inserted == 2
    assert db.sql(f"SELECT id FROM {table} ORDER BY id").fetchall() == [(1,), (5,)]


def test_values_of_several_kinds_fail_row_by_row(db: Connection, table: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "title": "a", "vec": [1, 2, 3]},
        {"id": "x", "title": 5, "vec": np.zeros(3)},
        {"id": 2.5, "title": True},
        {"id": 2**70},
        {"id": "6", "title": dt.date(2026, 1, 2), "vec": "[1,2,3]"},
        {"id": 7, "title": uuid.UUID(int=7), "vec": [1.5, "a", 3]},
        {"id": 8, "title": Decimal("1.50"), "vec": None},
    ]
    report = db.insert(table, iter(rows), errors="report")
    assert [f.row for f in report.failed] == [1, 2, 3, 5]
    assert db.sql(f"SELECT * FROM {table} ORDER BY id").fetchall() == [
        (1, "a", [1.0, 2.0, 3.0]),
        (6, "2026-01-02", [1.0, 2.0, 3.0]),
        (8, "1.50", None),
    ]


def test_dicts_are_stored_as_they_are(db: Connection, table: str) -> None:
    """Arrow's structs would give each the keys of all."""
    db.sql(f"ALTER TABLE {table} ADD COLUMN j JSON")
    values = [{"a": 1}, {"b": [None, "é"]}, None, {"c": {"d": dt.date(2026, 1, 2)}}]
    rows = [{"id": i, "j": value} for i, value in enumerate(values)]
    rows.append({"id": 4, "j": [{"a": 1}, {"b": 2}]})
    assert db.insert(table, rows).inserted == 5
    found = [text and json.loads(text) for (text,) in db.sql(f"SELECT j FROM {table} ORDER BY id")]
    assert found == [*values[:3], {"c": {"d": "2026-01-02"}}, [{"a": 1}, {"b": 2}]]
    frame = pd.DataFrame({"id": [10, 11], "j": values[:2]})
    assert db.insert(table, frame).inserted == 2
    assert db.sql(f"SELECT j FROM {table} WHERE id = 10").fetchone() == ('{"a": 1}',)


def test_what_has_no_form_is_named_with_its_row(db: Connection, table: str) -> None:
    with pytest.raises(errors.UsageError, match="Row 1: column 'title' holds .* type object"):
        db.insert(table, [{"id": 1, "title": "a"}, {"id": 2, "title": object()}])
    with pytest.raises(errors.UsageError, match="Row 0: column 'title' is no JSON"):
        db.insert(table, [{"id": 1, "title": {"n": math.nan}}])
    with pytest.raises(errors.UsageError, match="has a column's name twice"):
        db.insert(table, pd.DataFrame([[1, 2]], columns=["id", "id"]))
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


@pytest.mark.parametrize("form", ["pandas", "polars", "reader", "generator", "half"])
def test_insert_of_other_forms(db: Connection, table: str, form: str) -> None:
    flat = pa.array(vectors(5).reshape(-1))
    arrow = pa.table({"id": range(5), "vec": pa.FixedSizeListArray.from_arrays(flat, 3)})
    half = vectors(5).astype(np.float16)
    data: Any = {
        "pandas": arrow.to_pandas,
        "polars": lambda: __import__("polars").from_arrow(arrow),
        "reader": lambda: arrow.to_reader(2),
        "generator": lambda: ({"id": i, "vec": vectors(5)[i]} for i in range(5)),
        "half": lambda: {"id": np.arange(5), "vec": half},
    }[form]()
    assert db.insert(table, data).inserted == 5
    assert (db.sql(f"SELECT vec FROM {table} ORDER BY id").numpy()["vec"] == vectors(5)).all()


def test_many_refused_rows_are_counted(db: Connection, table: str) -> None:
    data = {"id": np.arange(2500)}
    db.insert(table, data)
    report = db.insert(table, data, errors="report")
    assert (report.inserted, report.failed_count) == (0, 2500)
    assert len(report.failed) >= 1000
    with pytest.raises(errors.RowsFailed, match="2500 of 2500 rows.* and 2497 more"):
        db.insert(table, data)


def test_a_table_that_is_not_there(db: Connection) -> None:
    with pytest.raises(errors.NotFound):
        db.insert("nowhere", {"id": [1]})


def test_a_column_that_is_not_there(db: Connection, table: str) -> None:
    with pytest.raises(errors.Error, match="titel"):
        db.insert(table, {"id": [1], "titel": ["a"]})


# ---- plans ----------------------------------------------------------------------------------


def told(db: Connection, plan: Any) -> str:
    """A plan of a result: text, or on an asyncio connection what is awaited."""
    return plan if isinstance(plan, str) else db._run(plan)  # type: ignore[attr-defined]


def test_a_result_explains_itself(db: Connection, table: str) -> None:
    fill(db, table)
    hits = db.sql(f"SELECT id FROM {table} ORDER BY vec <-> :q LIMIT 2", q=[1, 0, 0])
    assert f"VectorSearch {table}.vec" in told(db, hits.explain())
    assert "strategy = " in told(db, hits.explain(analyze=True))
    assert hits.fetchall() == [(1,), (0,)]


def test_plans_without_running(db: Connection, table: str) -> None:
    assert f"Update {table}" in db.explain(f"UPDATE {table} SET title = $1;", ["x"])
    assert "VectorSearch" not in db.explain(f"SELECT count(*) FROM {table}", analyze=True)


@pytest.mark.parametrize(
    ("text", "said"), [("SELECT 1; SELECT 2", "here are 2"), (" ; ", "here are 0")]
)
def test_a_plan_is_of_one_statement(db: Connection, text: str, said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        db.explain(text)


def test_measuring_a_write_is_refused(db: Connection, table: str) -> None:
    fill(db, table)
    with pytest.raises(errors.UsageError, match="is to do it"):
        db.explain(f"DELETE FROM {table}", analyze=True)
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(10,)]


# ---- wrong calls ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("sql", (None,), "A statement is text, and this is of type NoneType"),
        ("sql", (b"SELECT 1",), "of type bytes; decode it"),
        ("execute", (5,), "A statement is text"),
        ("explain", (5,), "A statement is text"),
        ("stream", (None,), "A statement is text"),
        ("execute", ("SELECT $1", 5), "Parameters are a dict .* not of type int; .* into a list"),
        ("execute", ("SELECT $1", np.zeros(3)), "not of type ndarray; .* into a list"),
        ("execute", ("SELECT 1", None, [1]), "settings is a dict such as"),
        ("execute", ("SELECT 1", None, {"target_recall": {}}), "The setting target_recall"),
        ("insert", (None, {"id": [1]}), "A table's name is text"),
        ("insert", ("", {"id": [1]}), "'' is no name of a table"),
        ("insert", ("../x", {"id": [1]}), "'../x' is no name of a table"),
        ("table", (5,), "A table's name is text"),
        ("table", ("",), "'' is no name of a table"),
        ("insert", ("t", 5), "insert can't read data of type int"),
        ("insert", ("t", [[1, 2]]), "Row 0 is of type list; every row is a dict"),
        ("insert", ("t", {"id": 5}), "Column 'id' is of type int; give a list"),
    ],
)
def test_wrong_calls_say_what_is_right(
    db: Connection, name: str, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(errors.UsageError, match=said):
        getattr(db, name)(*arguments)


@pytest.mark.parametrize(
    "options",
    [{"batch_bytes": 0}, {"batch_bytes": "8"}, {"in_flight": 1.5}, {"in_flight": True},
     {"mode": "replace"}, {"errors": "ignore"}],
)  # fmt: skip
def test_wrong_options_of_insert(db: Connection, table: str, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(errors.UsageError, match=f"^{name} is .*; it must be"):
        db.insert(table, {"id": [1]}, **options)
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


# ---- around it ------------------------------------------------------------------------------


def test_tables_describe_themselves(db: Connection, table: str) -> None:
    fill(db, table)
    (listed,) = [each for each in db.tables() if each["name"] == table]
    assert listed["rows"] == 10
    described = db.table(table)
    assert [(c["name"], c["type"]) for c in described["schema"]["columns"]] == [
        ("id", "BIGINT"),
        ("title", "TEXT"),
        ("vec", "VECTOR(3)"),
    ]
    with pytest.raises(errors.NotFound):
        db.table("nowhere")


def test_health(db: Connection) -> None:
    assert db.health()["ready"] is True


def test_many_threads_share_a_connection(db: Connection, table: str) -> None:
    if type(db).__name__ == "Awaited":
        pytest.skip("an asyncio connection belongs to one event loop")
    fill(db, table)

    def work(i: int) -> int:
        db.sql(f"INSERT INTO {table} VALUES ($1, 'x', NULL)", 100 + i)
        (row,) = db.sql(f"SELECT id FROM {table} ORDER BY vec <-> $1 LIMIT 1", [i % 10, 0, 0])
        return int(row[0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == [i % 10 for i in range(64)]
    assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(74,)]


def test_settings_of_the_connection_are_sent(db: Connection) -> None:
    db.settings["statement_timeout_ms"] = 12_345
    try:
        shown = db.sql("SHOW statement_timeout_ms").fetchall()
    finally:
        db.settings.clear()
    assert "12345" in str(shown)

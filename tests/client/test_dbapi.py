"""PEP 249, over HTTP and in this process; the cases are those of the DB-API compliance suite."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nearql import dbapi
from nearql.client.dbapi.paramstyle import server_text
from support.server_process import ServerProcess

NAMES = ["Cooper's", "Boag's", "Carlton Draft", "Pilsener", "Redback", "Victoria Bitter"]


@pytest.fixture(scope="module", params=("http", "embedded"))
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("node")
    if request.param == "embedded":
        yield str(folder / "data")
        return
    with ServerProcess(folder / "data") as server:
        yield server.url


@pytest.fixture
def db(target: str) -> Iterator[dbapi.Connection]:
    with dbapi.connect(target) as connection:
        connection.execute("DROP TABLE IF EXISTS booze")
        connection.execute("CREATE TABLE booze (name TEXT, vec VECTOR(2))")
        connection.commit()
        yield connection


@pytest.fixture
def filled(db: dbapi.Connection) -> dbapi.Connection:
    db.cursor().executemany("INSERT INTO booze (name) VALUES (?)", [[name] for name in NAMES])
    db.commit()
    return db


# ---- the module -----------------------------------------------------------------------------


def test_what_the_module_says() -> None:
    assert dbapi.apilevel == "2.0"
    assert dbapi.threadsafety == 2
    assert vars(dbapi)["paramstyle"] == "qmark"


def test_exceptions_form_the_tree() -> None:
    assert issubclass(dbapi.Warning, Exception)
    assert not issubclass(dbapi.Warning, dbapi.Error)
    assert issubclass(dbapi.InterfaceError, dbapi.Error)
    assert not issubclass(dbapi.InterfaceError, dbapi.DatabaseError)
    for name in ("Data", "Operational", "Integrity", "Internal", "Programming", "NotSupported"):
        assert issubclass(getattr(dbapi, f"{name}Error"), dbapi.DatabaseError)


def test_exceptions_are_attributes_of_a_connection(db: dbapi.Connection) -> None:
    for name in ("Warning", "Error", "InterfaceError", "DatabaseError", "NotSupportedError"):
        assert getattr(db, name) is getattr(dbapi, name)


def test_constructors_and_type_objects() -> None:
    assert dbapi.Date(2002, 12, 25) == dt.date(2002, 12, 25)
    assert dbapi.Time(13, 45, 30) == dt.time(13, 45, 30)
    moment = dt.datetime.fromisoformat("2002-12-25 13:45:30")
    assert dbapi.Timestamp(2002, 12, 25, 13, 45, 30) == moment
    ticks = time.mktime((2002, 12, 25, 13, 45, 30, 0, 0, 0))
    assert dbapi.DateFromTicks(ticks) == dt.date(2002, 12, 25)
    assert dbapi.TimeFromTicks(ticks) == dt.time(13, 45, 30)
    assert dbapi.TimestampFromTicks(ticks) == moment
    assert dbapi.Binary(b"x") == b"x"
    assert dbapi.NUMBER == "DECIMAL(10,2)"
    assert dbapi.NUMBER != "BIGINT[]"
    assert dbapi.STRING == "TEXT"
    assert dbapi.BINARY == "BLOB"
    assert dbapi.DATETIME == "TIMESTAMP WITH TIME ZONE"
    assert dbapi.ROWID != "BIGINT"
    assert dbapi.STRING != dbapi.NUMBER
    assert len({dbapi.STRING, dbapi.BINARY, dbapi.NUMBER, dbapi.DATETIME, dbapi.ROWID}) == 5


# ---- cursors --------------------------------------------------------------------------------


def test_description(db: dbapi.Connection) -> None:
    cursor = db.cursor()
    assert cursor.description is None
    cursor.execute("INSERT INTO booze (name) VALUES ('x')")
    assert cursor.description is None
    cursor.execute("SELECT name, 1.25::DECIMAL(10,2) AS price, vec FROM booze")
    assert cursor.description is not None
    assert [each[:2] for each in cursor.description] == [
        ("name", "TEXT"), ("price", "DECIMAL(10,2)"), ("vec", "VECTOR(2)"),
    ]  # fmt: skip
    assert cursor.description[1][4:6] == (10, 2)
    assert cursor.description[0][1] == dbapi.STRING
    assert {len(each) for each in cursor.description} == {7}


def test_rowcount(filled: dbapi.Connection) -> None:
    cursor = filled.cursor()
    assert cursor.rowcount == -1
    assert cursor.execute("UPDATE booze SET vec = '[1,2]' WHERE name < 'C'").rowcount == 1
    assert cursor.execute("SELECT name FROM booze").rowcount == len(NAMES)
    cursor.executemany("INSERT INTO booze (name) VALUES (?)", [["a"], ["b"], ["c"]])
    assert cursor.rowcount == 3
    assert cursor.execute("CREATE TABLE IF NOT EXISTS booze (name TEXT)").rowcount == -1


def test_a_closed_cursor_still_tells_how_many_rows_it_wrote(filled: dbapi.Connection) -> None:
    """SQLAlchemy closes a cursor before pandas asks it."""
    cursor = filled.cursor().execute("INSERT INTO booze (name) VALUES ('a'), ('b')")
    cursor.close()
    assert cursor.rowcount == 2


def test_fetching(filled: dbapi.Connection) -> None:
    cursor = filled.cursor()
    with pytest.raises(dbapi.Error):
        cursor.fetchone()
    cursor.execute("SELECT name FROM booze ORDER BY name")
    assert cursor.fetchone() == ("Boag's",)
    assert len(cursor.fetchmany()) == 1  # arraysize
    assert len(cursor.fetchmany(2)) == 2
    assert cursor.rownumber == 4
    cursor.arraysize = 10
    assert len(cursor.fetchmany()) == 2
    assert cursor.fetchmany() == cursor.fetchall() == []
    assert cursor.fetchone() is None
    assert [name for (name,) in cursor.execute("SELECT name FROM booze ORDER BY 1")] == sorted(
        NAMES
    )
    cursor.execute("DELETE FROM booze")
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(dbapi.ProgrammingError, match="returned none"):
            fetch()


def test_cursors_see_each_others_writes(db: dbapi.Connection) -> None:
    db.cursor().execute("INSERT INTO booze (name) VALUES ('x')")
    assert db.cursor().execute("SELECT name FROM booze").fetchall() == [("x",)]


def test_null_and_other_values(db: dbapi.Connection) -> None:
    row: list[Any] = [None, 7, 1.5, "it's", Decimal("1.25"), dt.date(2026, 1, 2)]
    row += [dt.datetime.fromisoformat("2026-01-02 03:00"), True, b"\x00\xff", [1, 2]]
    types = "TEXT", "BIGINT", "DOUBLE", "TEXT", "DECIMAL(10,2)", "DATE", "TIMESTAMP", "BOOLEAN"
    casts = ", ".join(f"?::{kind}" for kind in (*types, "BLOB", "BIGINT[]"))
    assert db.execute(f"SELECT {casts}", row).fetchall() == [tuple(row)]


def test_vectors(db: dbapi.Connection) -> None:
    rows: list[Any] = [["a", np.array([1, 0.5])], ["b", [0.0, 1.0]]]
    db.cursor().executemany("INSERT INTO booze VALUES (?, ?)", rows)
    cursor = db.execute("SELECT name, vec FROM booze ORDER BY vec <-> ? LIMIT 1", [[0.1, 1.0]])
    assert cursor.fetchall() == [("b", [0.0, 1.0])]


def test_closed_things(target: str) -> None:
    connection = dbapi.connect(target)
    cursor, other = connection.cursor(), connection.cursor()
    other.close()
    other.close()
    with pytest.raises(dbapi.InterfaceError, match="cursor is closed"):
        other.execute("SELECT 1")
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, connection.rollback):
        with pytest.raises(dbapi.InterfaceError, match="connection is closed"):
            use()
    with pytest.raises(dbapi.Error):
        cursor.execute("SELECT 1")


def test_a_cursor_is_a_context(db: dbapi.Connection) -> None:
    with db.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    with pytest.raises(dbapi.InterfaceError):
        cursor.fetchall()


def test_what_has_no_effect_or_is_not_there(db: dbapi.Connection) -> None:
    cursor = db.cursor()
    cursor.setinputsizes([25])
    cursor.setoutputsize(1000)
    assert cursor.lastrowid is None
    with pytest.raises(dbapi.NotSupportedError):
        cursor.callproc("lower")
    with pytest.raises(dbapi.NotSupportedError):
        cursor.nextset()
    with pytest.raises(dbapi.ProgrammingError, match="return no rows"):
        cursor.executemany("SELECT ?", [[1]])


# ---- transactions ---------------------------------------------------------------------------


def test_rollback_says_what_it_can_not_do(db: dbapi.Connection) -> None:
    db.rollback()
    db.execute("SELECT 1")
    db.rollback()
    db.execute("INSERT INTO booze (name) VALUES ('x')")
    with pytest.raises(dbapi.NotSupportedError, match="rollback can't take it back"):
        db.rollback()
    db.execute("INSERT INTO booze (name) VALUES ('y')")
    db.commit()
    db.rollback()
    db.autocommit = True
    db.execute("INSERT INTO booze (name) VALUES ('z')")
    db.rollback()
    assert db.execute("SELECT count(*) FROM booze").fetchall() == [(3,)]


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        ("SELEC 1", None, "ProgrammingError"),
        ("SELECT * FROM nowhere", None, "ProgrammingError"),
        ("SELECT nonsense", None, "ProgrammingError"),
        ("INSERT INTO keyed VALUES (1)", None, "IntegrityError"),
        ("INSERT INTO keyed VALUES (NULL)", None, "IntegrityError"),
        ("SELECT 'x'::BIGINT", None, "DataError"),
        ("INSERT INTO booze (vec) VALUES (?)", [[1.0]], "DataError"),
        ("SELECT ?, ?", [1], "ProgrammingError"),
        ("SELECT ?", [1, 2], "ProgrammingError"),
        ("SELECT ?", None, "ProgrammingError"),
        ("SELECT ?", [object()], "InterfaceError"),
        ("SELECT ?", [float("nan")], "InterfaceError"),
        ("SET TRANSACTION READ ONLY", None, "DatabaseError"),
    ],
)
def test_errors_by_sqlstate(
    db: dbapi.Connection, text: str, parameters: list[Any] | None, expected: str
) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS keyed (id BIGINT PRIMARY KEY)")
    db.execute("INSERT INTO keyed VALUES (1) ON CONFLICT DO NOTHING")
    with pytest.raises(getattr(dbapi, expected)) as caught:
        db.execute(text, parameters)
    assert isinstance(caught.value.__cause__, Exception)
    assert caught.value.sqlstate
    assert caught.value.code


def test_nobody_there() -> None:
    with (
        dbapi.connect("http://127.0.0.1:1", retries=0) as db,
        pytest.raises(dbapi.OperationalError, match=r"127\.0\.0\.1:1"),
    ):
        db.execute("SELECT 1")
    with pytest.raises(dbapi.InterfaceError):
        dbapi.connect("ftp://host")


# ---- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "text", "parameters"),
    [
        ("qmark", "SELECT ?, ?, '?'", [1, 2]),
        ("qmark", "SELECT $1, $2, '?'", [1, 2]),
        ("qmark", "SELECT :a, :b, '?'", {"a": 1, "b": 2}),
        ("numeric_dollar", "SELECT $1, $2, '?'", [1, 2]),
        ("named", "SELECT :a, :b, '?'", {"a": 1, "b": 2}),
        ("numeric", "SELECT :1, :2, '?'", [1, 2]),
        ("numeric", "SELECT :2::BIGINT, :1, '?' -- :3", [2, 1]),
        ("format", "SELECT %s, %s, '?'", [1, 2]),
        ("pyformat", "SELECT %(a)s, %(b)s, '?'", {"a": 1, "b": 2}),
    ],
)
def test_paramstyles(target: str, style: str, text: str, parameters: Any) -> None:
    with dbapi.connect(target, paramstyle=style) as db:
        assert db.execute(text, parameters).fetchall() == [(1, 2, "?")]


@pytest.mark.parametrize(
    ("style", "text", "made"),
    [
        ("format", "x LIKE 'a%%' AND y = %s", "x LIKE 'a%' AND y = ?"),
        ("pyformat", "%(a)s %% %(a)s", ":a % :a"),
        ("numeric", "':1' \":2\" $$ :3 $$ /* :4 */ :5", "':1' \":2\" $$ :3 $$ /* :4 */ $5"),
        ("named", "':a' %s", "':a' %s"),
    ],
)
def test_texts_stay_as_they_are(style: str, text: str, made: str) -> None:
    assert server_text(text, style) == made


@pytest.mark.parametrize(
    ("style", "text"),
    [("format", "5 % 2"), ("format", "%(a)s"), ("pyformat", "%s"), ("pyformat", "100%")],
)
def test_a_percent_that_is_no_parameter(style: str, text: str) -> None:
    with pytest.raises(dbapi.InterfaceError, match="write %% for %"):
        server_text(text, style)


def test_an_unknown_paramstyle(target: str) -> None:
    with pytest.raises(dbapi.InterfaceError, match="it must be one of qmark"):
        dbapi.connect(target, paramstyle="percent")


@pytest.mark.filterwarnings("ignore:pandas only supports SQLAlchemy")
def test_pandas_reads_from_a_connection(filled: dbapi.Connection) -> None:
    frame = pd.read_sql("SELECT name FROM booze ORDER BY name", filled)  # type: ignore[call-overload]
    assert frame["name"].tolist() == sorted(NAMES)

"""COPY FROM and TO: the same rows come back, nothing is half done, and no path leads out."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearql.engine.errors import NearQLError, StorageFull
from nearql.query.dialect import parse
from nearql.query.settings import SessionSettings
from support.sql import Sql

COLUMNS = (
    "id BIGINT PRIMARY KEY, title TEXT, at TIMESTAMP, u UUID, price DECIMAL(8,2), "
    "half HALFVEC(2), vec VECTOR(3)"
)
ROWS = """INSERT INTO docs VALUES
    (1, 'one', '2020-01-01 12:30', '7b0a8d3a-3bd6-4a0b-9f0e-1f6f5c2b7d11', 1.25, '[0.1,2]',
     '[1,2,0.1]'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, '', NULL, NULL, NULL, NULL, '[1,2,3]'),
    (4, 'a "quoted", and\nbroken text', NULL, NULL, -1, NULL, '[1e-7,2,3]')"""


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """The directory of COPY, beside things that it must not reach."""
    (tmp_path / "secret.csv").write_text("1,stolen\n")
    root = tmp_path / "copies"
    root.mkdir()
    return root


@pytest.fixture
def sql(below: Path) -> Sql:
    """A table with rows, and COPY."""
    made = Sql(SessionSettings(copy_dir=str(below)))
    made.run(f"CREATE TABLE docs ({COLUMNS})")
    made.run(ROWS)
    return made


def code_of(sql: Sql, text: str) -> str:
    """The code with which a statement is refused."""
    with pytest.raises(NearQLError) as found:
        sql.run(text)
    return found.value.code


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.arrow", "in/folder/x.parquet"])
@pytest.mark.parametrize("options", ["", "(HEADER)"])
def test_rows_come_back_as_they_were(sql: Sql, below: Path, name: str, options: str) -> None:
    if options and not name.endswith(".csv"):
        assert code_of(sql, f"COPY docs TO '{name}' {options}") == "invalid_option"
        return
    (below / name).parent.mkdir(parents=True, exist_ok=True)
    before = sql.rows("SELECT * FROM docs ORDER BY id")
    assert sql.run(f"COPY docs TO '{name}' {options}").row_count == 4
    sql.run("TRUNCATE docs")
    assert sql.run(f"COPY docs FROM '{name}' {options}").row_count == 4
    assert sql.rows("SELECT * FROM docs ORDER BY id") == before


def test_some_columns_and_some_rows(sql: Sql, below: Path) -> None:
    text = "COPY (SELECT id + 10, title AS t FROM docs WHERE id < 3 ORDER BY id) TO 'some.csv'"
    assert sql.run(f"{text} WITH (FORMAT csv, HEADER true, DELIMITER ';')").row_count == 2
    assert (below / "some.csv").read_text().splitlines()[1:] == ['11;"one"', "12;"]
    copied = "COPY docs (id, title) FROM 'some.csv' WITH DELIMITER ';' CSV HEADER"
    assert sql.run(copied).row_count == 2
    assert sql.rows("SELECT id, title FROM docs WHERE id > 10 ORDER BY id") == [
        (11, "one"), (12, None),
    ]  # fmt: skip


def test_columns_of_parquet_go_by_name(sql: Sql, below: Path) -> None:
    pq.write_table(pa.table({"TITLE": ["x"], "id": [7]}), below / "named.parquet")
    sql.run("COPY docs FROM 'named.parquet'")
    assert sql.rows("SELECT id, title FROM docs WHERE id = 7") == [(7, "x")]
    pq.write_table(pa.table({"id": [8], "nope": [1]}), below / "named.parquet")
    assert code_of(sql, "COPY docs FROM 'named.parquet'") == "undefined_column"


def test_arrow_comes_as_a_stream_too(sql: Sql, below: Path) -> None:
    with pa.ipc.new_stream(str(below / "s.arrow"), pa.schema([("id", pa.int64())])) as writer:
        writer.write_table(pa.table({"id": [70, 71]}))
    assert sql.run("COPY docs FROM 's.arrow'").row_count == 2


def test_a_word_may_stand_for_null(sql: Sql, below: Path) -> None:
    (below / "n.csv").write_text('20,none\n21,"none"\n22,\n')
    sql.run("COPY docs (id, title) FROM 'n.csv' (NULL 'none')")
    rows = sql.rows("SELECT title FROM docs WHERE id >= 20 ORDER BY id")
    assert rows == [(None,), ("none",), ("",)]
    assert code_of(sql, "COPY docs TO 'n.csv' (NULL 'none')") == "unsupported"


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.arrow"])
def test_a_file_of_no_rows(sql: Sql, below: Path, name: str) -> None:
    assert sql.run(f"COPY (SELECT * FROM docs WHERE id > 99) TO '{name}'").row_count == 0
    assert sql.run(f"COPY docs FROM '{name}'").row_count == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("30,a\n1,b\n", "duplicate_key"),
        ("30,a\n30,b\n", "duplicate_key"),
        ("30,a\nx,b\n", "invalid_value"),
        ("30,a\n,b\n", "not_null"),
        ("30,a\n31\n", "invalid_file"),
        ("30\n", "invalid_file"),
        ("30,a,b\n", "invalid_file"),
    ],
)
def test_all_rows_or_none(sql: Sql, below: Path, content: str, code: str) -> None:
    (below / "bad.csv").write_text(content)
    assert code_of(sql, "COPY docs (id, title) FROM 'bad.csv'").startswith(code)
    assert sql.rows("SELECT count(*) FROM docs") == [(4,)]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv"])
def test_what_is_no_such_file_is_told(sql: Sql, below: Path, name: str) -> None:
    (below / name).write_bytes(b"\xff\xfe\x00 neither\nof\xff,these")
    assert code_of(sql, f"COPY docs FROM '{name}'") == "invalid_file"


@pytest.mark.parametrize("name", ["big.csv", "big.parquet", "big.arrow"])
def test_too_large_a_file_is_refused_at_the_edge(tmp_path: Path, name: str) -> None:
    rows = pa.table({"id": pa.array(range(1000)), "title": ["x" * 100] * 1000})
    (tmp_path / "copies").mkdir()
    for limit, fits in ((1 << 20, True), (50_000, False)):
        sql = Sql(SessionSettings(copy_dir=str(tmp_path / "copies"), result_bytes=limit))
        sql.run("CREATE TABLE docs (id BIGINT PRIMARY KEY, title TEXT)")
        if name.endswith("csv"):
            lines = (f"{i},{'x' * 100}\n" for i in range(1000))
            (tmp_path / "copies" / name).write_text("".join(lines))
        elif name.endswith("parquet"):
            pq.write_table(rows, tmp_path / "copies" / name, use_dictionary=False)
        else:
            with pa.ipc.new_file(str(tmp_path / "copies" / name), rows.schema) as writer:
                writer.write_table(rows, max_chunksize=100)
        if fits:
            assert sql.run(f"COPY docs FROM '{name}'").row_count == 1000
        else:
            assert code_of(sql, f"COPY docs FROM '{name}'") == "file_too_large"
            assert sql.rows("SELECT count(*) FROM docs") == [(0,)]


# ---- no way out ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../secret.csv", "a/../../secret.csv", "./x.csv", "", ".", "..", "a//x.csv",
        ".hidden.csv", "a/.git/x.csv", "x.csv/", "~/x.csv/..", "x\ty.csv", "n" * 201 + ".csv",
        "/".join("a" * 17) + "/x.csv",
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["FROM", "TO"])
def test_no_path_leads_out(sql: Sql, below: Path, path: str, way: str) -> None:
    assert code_of(sql, f"COPY docs {way} '{path}' (FORMAT csv)") == "invalid_path"
    assert sorted(os.listdir(below)) == []
    assert (below.parent / "secret.csv").read_text() == "1,stolen\n"


@pytest.mark.parametrize("way", ["FROM", "TO"])
def test_links_are_not_followed(sql: Sql, below: Path, way: str) -> None:
    (below / "link.csv").symlink_to(below.parent / "secret.csv")
    (below / "out").symlink_to(below.parent)
    for path in ("link.csv", "out/secret.csv"):
        assert code_of(sql, f"COPY docs (id, title) {way} '{path}'") == "invalid_path"
    assert (below.parent / "secret.csv").read_text() == "1,stolen\n"
    assert (below / "link.csv").is_symlink()


@pytest.mark.parametrize("way", ["FROM", "TO"])
def test_only_files_are_opened(sql: Sql, below: Path, way: str) -> None:
    """A pipe that nobody writes to would wait for ever."""
    os.mkfifo(below / "pipe.csv")
    (below / "folder.csv").mkdir()
    for path in ("pipe.csv", "folder.csv", "pipe.csv/x.csv"):
        assert code_of(sql, f"COPY docs {way} '{path}'") == "invalid_path"


def test_missing_files_and_folders(sql: Sql) -> None:
    assert code_of(sql, "COPY docs FROM 'nix.csv'") == "undefined_file"
    assert code_of(sql, "COPY docs FROM 'nix/x.csv'") == "undefined_file"
    assert code_of(sql, "COPY docs TO 'nix/x.csv'") == "undefined_file"
    gone = Sql(SessionSettings(copy_dir="/nonexistent/copies"))
    gone.run("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
    assert code_of(gone, "COPY docs FROM 'x.csv'") == "undefined_file"


def test_it_is_off_where_no_directory_is_named() -> None:
    sql = Sql()
    sql.run("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
    for text in ("COPY docs FROM 'x.csv'", "COPY docs TO 'x.csv'"):
        assert code_of(sql, text) == "copy_disabled"


def test_a_file_that_can_not_be_finished_leaves_nothing(
    sql: Sql, below: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (below / "x.csv").write_text("before")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        sql.run("COPY docs TO 'x.csv'")
    assert os.listdir(below) == ["x.csv"]
    assert (below / "x.csv").read_text() == "before"


def test_a_failing_query_leaves_nothing(sql: Sql, below: Path) -> None:
    code_of(sql, "COPY (SELECT title::BIGINT AS n FROM docs) TO 'x.csv'")
    assert code_of(sql, "COPY (SELECT 1 AS a, 2 AS a) TO 'x.csv'") == "duplicate_column"
    assert os.listdir(below) == []


def test_explain_writes_nothing(sql: Sql, below: Path) -> None:
    shown = "".join(sql.explain("COPY (SELECT id FROM docs) TO 'x.csv'"))
    assert "Scan docs (id)" in shown
    assert os.listdir(below) == []


@pytest.mark.parametrize(
    ("text", "code", "position"),
    [
        ("COPY docs FROM STDIN", "unsupported", 16),
        ("COPY docs TO STDOUT", "unsupported", 14),
        ("COPY docs FROM PROGRAM 'ls'", "unsupported", 16),
        ("COPY docs FROM 'x'", "invalid_option", 19),
        ("COPY docs FROM 'x.csv' (FORMAT xml)", "unsupported", 25),
        ("COPY docs FROM 'x.csv' (FORMAT jsonl)", "unsupported", 25),
        ("COPY docs TO 'x.jsonl'", "unsupported", 23),
        ("COPY docs FROM 'x.csv' (FORMAT binary)", "unsupported", 25),
        ("COPY docs FROM 'x.csv' BINARY", "unsupported", 24),
        ("COPY docs FROM 'x.csv' (QUOTE 'x')", "unsupported", 25),
        ("COPY docs FROM 'x.csv' (DELIMITER 'ab')", "invalid_option", 25),
        ("COPY docs FROM 'x.csv' (HEADER maybe)", "invalid_option", 25),
        ("COPY docs FROM 'x.arrow' (NULL 'x')", "invalid_option", 26),
        ("COPY docs FROM 'x.csv' WHERE id > 1", "unsupported", 24),
        ("COPY (SELECT 1) FROM 'x.csv'", "syntax_error", 22),
        ("COPY (DELETE FROM docs) TO 'x.csv'", "syntax_error", 7),
        ("COPY docs", "syntax_error", 10),
        ("COPY docs TO", "syntax_error", 13),
        ("COPY docs (id, id) FROM 'x.csv'", "duplicate_column", 1),
        ("COPY nope FROM 'x.csv'", "undefined_table", None),
        ("COPY nope TO 'x.csv'", "undefined_table", 6),
        ("COPY (SELECT * FROM read_csv('x')) TO 'x.csv'", "undefined_function", 21),
        ("COPY (SELECT content FROM read_text('x')) TO 'x.csv'", "undefined_function", 27),
    ],
)
def test_what_it_cannot_take_is_told(sql: Sql, text: str, code: str, position: int | None) -> None:
    with pytest.raises(NearQLError) as found:
        sql.run(text)
    assert (found.value.code, found.value.position) == (code, position)


@pytest.mark.parametrize(
    "options",
    [
        "CSV HEADER DELIMITER AS ';' NULL AS 'n'",
        "WITH (FORMAT 'csv', HEADER on, DELIMITER ';', NULL 'n')",
    ],
)
def test_older_spellings(options: str) -> None:
    [statement] = parse(f"COPY t FROM 'x' {options}")
    form = statement.form  # type: ignore[attr-defined]
    assert (form.name, form.header, form.delimiter, form.null) == ("csv", True, ";", "n")

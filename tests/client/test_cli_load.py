"""`nearql load`: files into tables, messages, exit codes, and going on after a break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.cutting_proxy import CuttingProxy
from support.datasets import SMALL
from support.server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("node") / "data") as started:
        yield started


@pytest.fixture
def table(server: ServerProcess) -> str:
    server.sql("DROP TABLE IF EXISTS docs")
    return "docs"


@pytest.fixture
def load(server: ServerProcess, tmp_path: Path) -> Load:
    return Load(server.url, tmp_path / "state")


class Load:
    """Runs the command with a state directory of the test's own."""

    def __init__(self, url: str, state: Path) -> None:
        self.url = url
        self.state = state

    def __call__(self, *arguments: object, url: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nearql", "load", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "NEARQL_URL": url or self.url,
                "XDG_STATE_HOME": str(self.state),
            },
            timeout=100,
            check=False,
        )


def test_a_parquet_file_becomes_a_table(server: ServerProcess, table: str, load: Load) -> None:
    done = load(table, SMALL, "--create")
    assert done.returncode == 0, done.stderr
    assert "5,000 rows: 5,000 inserted, 0 updated in" in done.stdout
    assert "CREATE TABLE IF NOT EXISTS docs (id BIGINT PRIMARY KEY, name TEXT" in done.stderr
    assert "embedding HALFVEC(384)" in done.stderr
    assert server.rows("SELECT count(*), count(DISTINCT name) FROM docs") == [[5000, 5000]]
    assert not list(load.state.rglob("*.json"))


def test_the_same_again_is_refused_row_by_row_and_upsert_is_not(table: str, load: Load) -> None:
    assert load(table, SMALL, "--create").returncode == 0
    done = load(table, SMALL)
    assert done.returncode == 1
    assert "5,000 refused" in done.stdout
    assert "row 0: " in done.stderr
    assert "more of this batch" in done.stderr
    done = load(table, SMALL, "--mode", "upsert", "--json")
    counts = json.loads(done.stdout)
    assert (done.returncode, counts["updated"], counts["failed"]) == (0, 5000, 0)


@pytest.mark.parametrize("suffix", ["npy", "csv", "jsonl", "hdf5"])
def test_other_formats(
    server: ServerProcess, table: str, load: Load, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"data.{suffix}"
    vectors = np.arange(12, dtype="f4").reshape(4, 3)
    if suffix == "npy":
        np.save(path, vectors)
    elif suffix == "hdf5":
        with h5py.File(path, "w") as file:
            file["train"] = vectors
    elif suffix == "csv":
        lines = [f'{i},"[{a:g},{b:g},{c:g}]"' for i, (a, b, c) in enumerate(vectors)]
        path.write_text("\n".join(["id,vec", *lines, ""]))
    else:
        rows = [json.dumps({"id": i, "vec": v.tolist()}) for i, v in enumerate(vectors)]
        path.write_text("\n".join(rows))
    done = load(table, path, "--create")
    assert done.returncode == 0, done.stderr
    assert "vec VECTOR(3)" in done.stderr
    found = server.rows("SELECT id, vec FROM docs ORDER BY id")
    assert found == [[i, v.tolist()] for i, v in enumerate(vectors)]


def test_json_vectors_of_whole_numbers(
    server: ServerProcess, table: str, load: Load, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": 1, "vec": [1, 0]}\n{"id": 2, "vec": [0, 1]}\n')
    done = load(table, path, "--create")
    assert "vec VECTOR(2)" in done.stderr
    found = server.rows("SELECT id FROM docs ORDER BY vec <-> '[0,1]' LIMIT 1")
    assert found == [[2]]


def test_a_fraction_for_an_integer_column_is_told(
    server: ServerProcess, table: str, load: Load, tmp_path: Path
) -> None:
    server.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY)")
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": 1}\n{"id": 310.5}\n')
    done = load(table, path)
    assert done.returncode == 1
    assert "row 1: Column 'id': 310.5 is no BIGINT: it has a fraction." in done.stderr
    assert server.rows("SELECT id FROM docs") == [[1]]


def test_csv_fields_are_what_the_columns_are(
    server: ServerProcess, table: str, load: Load, tmp_path: Path
) -> None:
    """Not what they look like: a postcode keeps its zero, a long decimal all its digits."""
    server.sql(
        "CREATE TABLE docs (id BIGINT PRIMARY KEY, zip TEXT, said TEXT, d DECIMAL(20,4), x DOUBLE, "
        "vec VECTOR(2))"
    )
    path = tmp_path / "data.csv"
    path.write_text(
        'id,ZIP,said,d,x,vec\n1,01234,True,1234567890123456.7891,1,"[1,2]"\n2,NA,,NA,,\n'
    )
    done = load(table, path)
    assert done.returncode == 0, done.stderr
    first, second = server.rows("SELECT id, zip, said, d::TEXT, x, vec FROM docs ORDER BY id")
    assert first == [1, "01234", "True", "1234567890123456.7891", 1.0, [1.0, 2.0]]
    assert second == [2, "NA", "", None, None, None]


def test_a_wrong_csv_field_far_behind_is_one_refused_row(
    server: ServerProcess, table: str, load: Load, tmp_path: Path
) -> None:
    """The first block of the file holds whole numbers only, which says nothing of the rest."""
    server.sql("CREATE TABLE docs (id BIGINT PRIMARY KEY, x DOUBLE)")
    path = tmp_path / "data.csv"
    lines = [f"{i},{i}" for i in range(150_000)]
    lines[140_000], lines[140_001] = "140000,0.5", "140001,much"
    path.write_text("\n".join(["id,x", *lines, ""]))
    done = load(table, path)
    assert done.returncode == 1
    assert "row 140001: Column 'x': 'much' is no DOUBLE" in done.stderr
    assert server.rows("SELECT count(*), min(x) FILTER (id = 140000) FROM docs") == [[149_999, 0.5]]


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"n": range(10_000)}), path)
    return path


def test_a_load_that_broke_off_goes_on(
    server: ServerProcess, table: str, load: Load, numbers: Path
) -> None:
    """The connection is cut for good in the middle; the next load stores the rest, once each."""
    server.sql("CREATE TABLE docs (n BIGINT)")  # without a key a second time would show
    with CuttingProxy(server.url) as proxy:
        proxy.cut_always_after(5_000)
        done = load(table, numbers, "--batch-bytes", 4000, url=proxy.url)
    assert done.returncode == 1
    assert "may or may not have happened" in done.stderr
    (stored,) = server.rows("SELECT count(*) FROM docs")[0]
    assert 0 < stored < 10_000
    done = load(table, numbers, "--batch-bytes", 4000)
    assert done.returncode == 0, done.stderr
    assert "An earlier load of this file broke off; going on at row" in done.stderr
    assert server.rows("SELECT count(*), count(DISTINCT n) FROM docs") == [[10_000, 10_000]]
    assert not list(load.state.rglob("*.json"))


def test_restart_begins_again(server: ServerProcess, table: str, load: Load, numbers: Path) -> None:
    server.sql("CREATE TABLE docs (n BIGINT)")
    with CuttingProxy(server.url) as proxy:
        proxy.cut_always_after(3_000)
        assert load(table, numbers, "--batch-bytes", 4000, url=proxy.url).returncode == 1
    server.sql("TRUNCATE docs")
    done = load(table, numbers, "--restart")
    assert "going on" not in done.stderr
    assert server.rows("SELECT count(*) FROM docs") == [[10_000]]


def test_a_load_begins_again_where_the_rows_of_the_one_that_broke_off_are_gone(
    server: ServerProcess, table: str, load: Load, numbers: Path
) -> None:
    """Going on would leave out the rows that were deleted, and report them as inserted."""
    server.sql("CREATE TABLE docs (n BIGINT)")
    with CuttingProxy(server.url) as proxy:
        proxy.cut_always_after(3_000)
        assert load(table, numbers, "--batch-bytes", 4000, url=proxy.url).returncode == 1
    assert server.rows("SELECT count(*) > 0 FROM docs") == [[True]]
    server.sql("TRUNCATE docs")
    done = load(table, numbers, "--batch-bytes", 4000)
    assert done.returncode == 0, done.stderr
    assert "beginning again" in done.stderr
    assert server.rows("SELECT count(*), count(DISTINCT n) FROM docs") == [[10_000, 10_000]]


def test_another_table_of_the_name_is_another_load(
    server: ServerProcess, table: str, load: Load, numbers: Path
) -> None:
    server.sql("CREATE TABLE docs (n BIGINT)")
    with CuttingProxy(server.url) as proxy:
        proxy.cut_always_after(3_000)
        assert load(table, numbers, "--batch-bytes", 4000, url=proxy.url).returncode == 1
    server.sql("DROP TABLE docs")
    server.sql("CREATE TABLE docs (n BIGINT)")
    assert "going on" not in load(table, numbers).stderr
    assert server.rows("SELECT count(*) FROM docs") == [[10_000]]


def test_an_empty_file(table: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    done = load(table, tmp_path / "empty.jsonl")
    assert done.returncode == 0
    assert "has no rows" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["docs"], 2, "usage"),
        (["docs", "missing.parquet"], 2, "There is no file missing.parquet"),
        (["docs", SMALL, "--format", "xml"], 2, "invalid choice"),
        (["docs", SMALL, "--create", "--key", "ident"], 2, "--key ident"),
        (["docs", SMALL, "--create", "--key", "id", "--no-key"], 2, "not both"),
        (["docs", SMALL, "--batch-bytes", "0"], 2, "at least 1"),
        (["nowhere", SMALL], 1, "nowhere"),
    ],
)
def test_what_goes_wrong_is_said(
    table: str, load: Load, arguments: list[object], code: int, said: str
) -> None:
    done = load(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr

"""Files of every format give the same rows, from any row on; bad ones are named."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, feather

from nearql.client.errors import UsageError
from nearql.client.files import OPENERS, open_file

ROWS = 20_000
IDS = np.arange(ROWS)
VECTORS = (IDS[:, None] * 4 + np.arange(4)).astype("<f4")


def table() -> pa.Table:
    flat = pa.array(VECTORS.reshape(-1))
    return pa.table({"id": IDS, "vec": pa.FixedSizeListArray.from_arrays(flat, 4)})


def as_text(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str:
    return "[" + ",".join(f"{x:g}" for x in vector) + "]"


def write(path: Path) -> Path:
    """The same rows in the format that the suffix says."""
    suffix = path.suffix
    if suffix in (".parquet", ".pq"):
        pq.write_table(table(), path, row_group_size=3000)
    elif suffix in (".arrow", ".feather", ".ipc"):
        feather.write_feather(table(), path, "uncompressed", chunksize=700)
    elif suffix == ".arrows":
        with pa.ipc.new_stream(path, table().schema) as writer:
            writer.write_table(table(), 700)
    elif suffix in (".csv", ".tsv"):
        texts = pa.table({"id": IDS, "vec": [as_text(v) for v in VECTORS]})
        csv.write_csv(texts, path, csv.WriteOptions(delimiter="," if suffix == ".csv" else "\t"))
    elif suffix in (".jsonl", ".ndjson"):
        lines = [json.dumps({"id": int(i), "vec": VECTORS[i].tolist()}) for i in IDS]
        path.write_text("\n".join(lines) + "\n\n")
    elif suffix == ".npy":
        np.save(path, VECTORS)
    elif suffix == ".fvecs":
        row = np.dtype([("length", "<i4"), ("vector", "<f4", 4)])
        out = np.zeros(ROWS, row)
        out["length"], out["vector"] = 4, VECTORS
        out.tofile(path)
    elif suffix in (".hdf5", ".h5"):
        write_hdf5(path)
    return path


def write_hdf5(path: Path) -> None:
    """As the files of ann-benchmarks are: vectors to train with and to ask for, and the truth."""
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        file.create_dataset("train", data=VECTORS, chunks=(1000, 4))
        file.create_dataset("test", data=VECTORS[:7])
        file.create_dataset("neighbors", data=np.zeros((7, 10), "i4"))
        file.create_group("more").create_dataset("vectors", data=VECTORS[:3])


def values(rows: pa.Table) -> tuple[list[int], list[list[float]]]:
    vectors = rows["vec"].to_pylist()
    if vectors and isinstance(vectors[0], str):
        vectors = [json.loads(text) for text in vectors]
    return rows["id"].to_pylist(), vectors


FORMATS = sorted(set(OPENERS) - {"bvecs"})


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_row_is_read_in_order(suffix: str, tmp_path: Path) -> None:
    data = open_file(write(tmp_path / f"data.{suffix}"))
    ids, vectors = values(pa.concat_tables(data.tables()))
    assert ids == IDS.tolist()
    assert vectors == VECTORS.tolist()
    assert data.rows in (None, ROWS)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("first", [1, 8192, 8193, ROWS - 1])
def test_reading_can_go_on_from_any_row(suffix: str, first: int, tmp_path: Path) -> None:
    data = open_file(write(tmp_path / f"data.{suffix}"))
    ids, vectors = values(pa.concat_tables(data.from_row(first)))
    assert ids == IDS[first:].tolist()
    assert vectors == VECTORS[first:].tolist()


def test_csv_fields_that_are_null(tmp_path: Path) -> None:
    """By the column: NaN is a number of a DOUBLE, and `null` is JSON."""
    path = tmp_path / "data.csv"
    path.write_text("t,b,x,j\nNA,NA,NA,\nnull,nan,nan,null\n,,,{}\n")
    types = {"t": "TEXT", "b": "BIGINT", "x": "DOUBLE", "j": "JSON"}
    (rows,) = open_file(path).for_columns(types).tables()
    assert rows.to_pydict() == {
        "t": ["NA", "null", ""],
        "b": [None, None, None],
        "x": [None, "nan", None],
        "j": [None, "null", "{}"],
    }


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"id": 1}\n', encoding="utf-8-sig")
    (tmp_path / "data.csv").write_text("id\n1\n", encoding="utf-8-sig")
    for name in ("data.jsonl", "data.csv"):
        (rows,) = open_file(tmp_path / name).tables()
        assert rows.to_pylist() == [{"id": 1}]


def test_from_the_end_there_is_nothing(tmp_path: Path) -> None:
    data = open_file(write(tmp_path / "data.npy"))
    assert not list(data.from_row(ROWS))


def test_bvecs_hold_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data.bvecs"
    path.write_bytes(b"\x02\x00\x00\x00\x01\xff" * 3)
    (rows,) = open_file(path).tables()
    assert rows["vec"].to_pylist() == [[1.0, 255.0]] * 3


def test_half_precision_is_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS[:100].astype(np.float16))
    (first, *_) = open_file(tmp_path / "v.npy").tables()
    assert first["vec"].type.value_type == pa.float16()


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "data.npy").rename(tmp_path / "data.bin")
    with pytest.raises(UsageError, match="--format"):
        open_file(path)
    assert open_file(path, "npy").rows == ROWS


@pytest.mark.parametrize("suffix", sorted(set(OPENERS) - {"csv", "tsv"}))
def test_nonsense_is_named_with_its_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(b"\xff\x00 nonsense \xfe" * 50)
    with pytest.raises(UsageError, match=rf"bad\.{suffix}"):
        list(open_file(path).tables())


def test_a_ragged_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(UsageError, match=r"bad\.csv"):
        list(open_file(path).tables())


def test_a_wrong_line_of_json_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": 1}\n\n{"id": \n')
    with pytest.raises(UsageError, match="line 3 is not JSON"):
        list(open_file(path).tables())
    path.write_text('{"id": 1}\n[2]\n')
    with pytest.raises(UsageError, match="line 2 is no JSON object"):
        list(open_file(path).tables())


@pytest.mark.parametrize("name", ["data.csv", "data.feather"])
def test_a_column_that_is_there_twice_is_named(name: str, tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["id", "id"])
    if name == "data.csv":
        csv.write_csv(twice, tmp_path / name)
    else:
        feather.write_feather(twice, tmp_path / name, "uncompressed")
    data = open_file(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name} has the column 'id' twice"):
        list(data.tables())
    with pytest.raises(UsageError, match=rf"{name} has the column 'id' twice"):
        list(data.for_columns({"id": "BIGINT"}).tables())


def test_vectors_of_different_lengths_are_not_read_as_one_length(tmp_path: Path) -> None:
    """Of 3, 2 and 4 dimensions: as many bytes as three of 3, and nonsense if they were read so."""
    path = tmp_path / "data.fvecs"
    path.write_bytes(
        b"".join(np.int32(n).tobytes() + np.arange(n, dtype="<f4").tobytes() for n in (3, 2, 4))
    )
    with pytest.raises(UsageError, match=r"data\.fvecs, vector 1 .* 2 dimensions.* 3"):
        list(open_file(path).tables())


def test_a_cut_off_fvecs_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "data.fvecs")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match="cut off"):
        open_file(path)


def test_an_array_that_is_no_matrix(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2, 2, 2)))
    with pytest.raises(UsageError, match=r"shape \(2, 2, 2\)"):
        open_file(tmp_path / "v.npy")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"v\.npy holds no array of numbers"):
        open_file(tmp_path / "v.npy")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        open_file(tmp_path / "gone.parquet")


def test_another_dataset_of_an_hdf5_file(tmp_path: Path) -> None:
    path = write(tmp_path / "v.hdf5")
    assert open_file(path, dataset="test").rows == 7
    assert open_file(path, dataset="more/vectors").rows == 3


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("tset", r"no dataset 'tset', but more, neighbors, test, train; give --dataset"),
        ("more", r"'more' in .* is a group \(more/vectors\)"),
    ],
)
def test_a_wrong_dataset_is_named(dataset: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        open_file(write(tmp_path / "v.hdf5"), dataset=dataset)


def test_hdf5_without_h5py_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    (tmp_path / "v.h5").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"pip install 'nearql\[hdf5\]'"):
        open_file(tmp_path / "v.h5")

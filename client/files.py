"""Data files as tables, from any row on: what `nearql load` reads.

| suffix | what | columns |
|---|---|---|
| .parquet, .pq | Parquet | its own |
| .arrow, .arrows, .feather, .ipc | Arrow IPC, file or stream | its own |
| .csv, .tsv | text with a header line; vectors as `[1,2,3]` | its own, read as the table's are |
| .jsonl, .ndjson | one JSON object per line | its own, of the first rows |
| .npy | NumPy array (n, d) | `id`, `vec` |
| .fvecs, .bvecs | vectors with their length before each | `id`, `vec` |
| .hdf5, .h5 | a dataset (n, d), `train` unless named; needs h5py | `id`, `vec` |

`id` is the row's number from 0. A reader gives the same rows in the same groups every time, so that
a load that broke off can go on.
"""

from __future__ import annotations

import codecs
import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearql.client.errors import UsageError
from nearql.client.loader import from_columns, from_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

GROUP_ROWS = 8_192  # rows of a vector file that are turned into Arrow data together
LINES = 4_096  # lines of JSON that are
ID, VECTOR = "id", "vec"


@dataclass(frozen=True)
class DataFile:
    """An opened file. rows: how many it has, None where only reading it through would tell.

    typed: it says which of its numbers are integers; JSON and CSV don't.
    fields: the same rows as the text that they are, where what they look like is a guess (CSV);
    its argument is the SQL types of the table's columns by their names.
    """

    path: Path
    rows: int | None
    tables: Callable[[], Iterator[pa.Table]]
    typed: bool = True
    fields: Callable[[Mapping[str, str]], Iterator[pa.Table]] | None = None

    def for_columns(self, types: Mapping[str, str]) -> DataFile:
        """The file as a table with these columns (SQL types by name) takes it."""
        if self.fields is None:
            return self
        fields = self.fields
        return replace(self, tables=lambda: _guarded(self.path, lambda: fields(types)))

    def from_row(self, first: int) -> Iterator[pa.Table]:
        """Its rows from number `first` on."""
        for table in self.tables():
            if first < table.num_rows:
                yield table.slice(first)
            first = max(0, first - table.num_rows)


Opener = Callable[[Path, str | None], DataFile]


def open_file(path: Path, form: str | None = None, dataset: str | None = None) -> DataFile:
    """Open a data file; its format is `form`, else what the suffix says.

    Raises:
        UsageError: no such file, an unknown suffix, or content that is not of the format.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    suffix = (form or path.suffix.lstrip(".")).lower()
    if suffix not in OPENERS:
        known = ", ".join(sorted(OPENERS))
        raise UsageError(f"The format of {path.name} is not known; give --format, one of {known}.")
    with _reading(path):
        return OPENERS[suffix](path, dataset)


class _reading:
    """Turns what readers raise for bad content into one error that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError) and not isinstance(error, UsageError):
            raise UsageError(f"{self.path} can't be read: {error}") from error


def _guarded(path: Path, tables: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    with _reading(path):
        for table in tables():
            _check_names(path, table.column_names)
            yield table


def _check_names(path: Path, names: list[str]) -> None:
    """Raises UsageError for a name that two columns have."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise UsageError(f"{path} has the column {twice!r} twice; rename one of them.")


def _data_file(
    path: Path, rows: int | None, tables: Callable[[], Iterator[pa.Table]], *, typed: bool = True
) -> DataFile:
    return DataFile(path, rows, lambda: _guarded(path, tables), typed)


def _parquet(path: Path, _: str | None) -> DataFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def tables() -> Iterator[pa.Table]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP_ROWS):
                yield pa.Table.from_batches([batch])

    with pq.ParquetFile(path) as file:
        return _data_file(path, file.metadata.num_rows, tables)


def _arrow(path: Path, _: str | None) -> DataFile:
    import pyarrow as pa

    with path.open("rb") as probe:
        is_file = probe.read(6) == b"ARROW1"

    def tables() -> Iterator[pa.Table]:
        with pa.memory_map(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                batches: Iterable[Any] = map(reader.get_batch, range(reader.num_record_batches))
            else:
                batches = pa.ipc.open_stream(source)
            for batch in batches:
                yield pa.Table.from_batches([batch])

    with pa.memory_map(str(path)) as source:
        rows = pa.ipc.open_file(source).count_rows() if is_file else None
    return _data_file(path, rows, tables)


def _csv(delimiter: str) -> Opener:
    def opener(path: Path, _: str | None) -> DataFile:
        import pyarrow as pa
        from pyarrow import csv

        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

        def tables(convert: csv.ConvertOptions | None = None) -> Iterator[pa.Table]:
            with csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])

        def fields(types: Mapping[str, str]) -> Iterator[pa.Table]:
            with csv.open_csv(path, parse_options=parse) as reader:
                _check_names(path, reader.schema.names)  # before options by name meet two of one
                text = dict.fromkeys(reader.schema.names, pa.string())
            of = {name.casefold(): kind for name, kind in types.items()}
            for table in tables(csv.ConvertOptions(column_types=text)):
                yield _with_nulls(table, of)

        return replace(_data_file(path, None, tables, typed=False), fields=fields)

    return opener


def _with_nulls(table: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Text as it is; elsewhere nothing at all is NULL, and NA and the like where not JSON."""
    import pyarrow.compute as pc
    from pyarrow import csv

    for at, name in enumerate(table.column_names):
        kind = types.get(name.casefold(), "TEXT")
        if kind not in ("TEXT", "VARCHAR"):
            spelt = [""] if kind == "JSON" else csv.ConvertOptions().null_values
            if kind in ("FLOAT", "DOUBLE"):
                spelt = [each for each in spelt if each.strip("-").lower() != "nan"]
            missing = functools.reduce(pc.or_, [pc.equal(table[at], each) for each in spelt])
            table = table.set_column(at, name, pc.if_else(missing, None, table[at]))
    return table


def _jsonl(path: Path, _: str | None) -> DataFile:
    def tables() -> Iterator[pa.Table]:
        with path.open("rb") as lines:
            numbered = ((i, line) for i, line in enumerate(lines, 1) if line.strip())
            first = 0
            while group := [_json_row(path, *each) for each in itertools.islice(numbered, LINES)]:
                yield from_rows(group, first)
                first += len(group)

    return _data_file(path, None, tables, typed=False)


def _json_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    import orjson

    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path}, line {number} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise UsageError(f"{path}, line {number} is no JSON object.")
    return row


def _npy(path: Path, _: str | None) -> DataFile:
    return _vectors(path, load_npy(path, mapped=True))


def load_npy(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """The array of a .npy file; `mapped` reads it from the disk as it is used.

    Raises:
        UsageError: it holds none, or one of Python's objects, which are never read: a file could
            run code that way. OSError: it can't be read.
    """
    import numpy as np

    try:
        found: NDArray[Any] = np.load(path, "r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError) as error:  # its text would advise to allow pickle
        raise UsageError(
            f"{path} holds no array of numbers; write it with numpy.save(...) of a float32 array."
        ) from error
    return found


def _texmex(element: str) -> Opener:
    """The format of the TEXMEX data sets: an int32 length, then as many elements, n times."""

    def opener(path: Path, _: str | None) -> DataFile:
        import numpy as np

        size = path.stat().st_size
        head = np.fromfile(path, "<i4", 1)
        dimensions = int(head[0]) if len(head) else 0
        if not 0 < dimensions <= 1 << 20:
            raise UsageError(f"{path} says that its vectors have {dimensions} dimensions.")
        row = np.dtype([("length", "<i4"), ("vector", element, dimensions)])
        if size % row.itemsize:
            raise UsageError(
                f"{path} is cut off: {size} bytes are no multiple of {row.itemsize}, the size of a "
                f"vector of {dimensions} dimensions."
            )
        rows = np.memmap(path, row, "r")
        return _vectors(path, rows["vector"], rows["length"])

    return opener


def _hdf5(path: Path, dataset: str | None) -> DataFile:
    try:
        h5py = importlib.import_module("h5py")  # optional: most people never need it
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} is HDF5, which needs the package h5py: pip install 'nearql[hdf5]'."
        ) from error
    file = h5py.File(path, "r")
    name = dataset or "train"
    if name not in file:
        raise UsageError(f"{path} has no dataset {name!r}, but {', '.join(file)}; give --dataset.")
    if not isinstance(file[name], h5py.Dataset):
        held = ", ".join(f"{name}/{each}" for each in file[name])
        raise UsageError(f"{name!r} in {path} is a group ({held}); give --dataset.")
    return _vectors(path, file[name])


def _vectors(path: Path, array: Any, lengths: Any = None) -> DataFile:
    """A file of one matrix, read in groups of rows; `lengths` is what it says before each row."""
    if len(array.shape) != 2 or array.dtype.kind not in "fiu":
        raise UsageError(
            f"{path} holds {array.dtype} of the shape {array.shape}; vectors are numbers (n, d)."
        )

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(array), GROUP_ROWS):
            if lengths is not None:
                _check_lengths(path, lengths[start : start + GROUP_ROWS], start, array.shape[1])
            yield _numbered(array[start : start + GROUP_ROWS], start)

    return _data_file(path, len(array), tables)


def _check_lengths(path: Path, lengths: NDArray[Any], first: int, dimensions: int) -> None:
    """Raises UsageError for a vector of another length, behind which all is read out of step."""
    others = (lengths != dimensions).nonzero()[0]
    if len(others):
        raise UsageError(
            f"{path}, vector {first + others[0]} says that it has {lengths[others[0]]} dimensions; "
            f"those before have {dimensions}."
        )


def _numbered(vectors: NDArray[Any], first: int) -> pa.Table:
    import numpy as np

    kept = vectors if vectors.dtype == np.float16 else np.asarray(vectors, np.float32)
    ids = np.arange(first, first + len(kept), dtype=np.int64)
    return from_columns({ID: ids, VECTOR: np.asarray(kept)})


OPENERS: dict[str, Opener] = {
    "parquet": _parquet,
    "pq": _parquet,
    "arrow": _arrow,
    "arrows": _arrow,
    "feather": _arrow,
    "ipc": _arrow,
    "csv": _csv(","),
    "tsv": _csv("\t"),
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "npy": _npy,
    "fvecs": _texmex("<f4"),
    "bvecs": _texmex("u1"),
    "hdf5": _hdf5,
    "h5": _hdf5,
}

"""The data that systems are compared on: vectors, queries, columns to filter by, and exact answers.

`debian:FOLDER` holds debian.parquet and debian_queries.npz; `glove:FOLDER` holds glove_base.npy and
glove_q.npy; `hdf5:FILE` is a file of ann-benchmarks; `clustered:FOLDER:ROWS` draws rows around the
Debian vectors, for larger scales. All are compared by cosine distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
BUCKETS = 10_000  # a random column, for filters that know nothing of the vectors
_TILE = 8192


@dataclass(frozen=True)
class Condition:
    """`column op value`; op is one of = < >= IN. column "" = every row."""

    name: str
    column: str = ""
    op: str = "="
    value: Any = None

    def sql(self) -> str:
        """As pgvector and NearQL both read it."""
        if not self.column:
            return "TRUE"
        return f"{self.column} {self.op} {_literal(self.value)}"

    def mask(self, columns: pa.Table) -> NDArray[np.bool_]:
        """Which rows qualify."""
        if not self.column:
            return np.ones(len(columns), bool)
        values = columns[self.column]
        if self.op == "IN":
            found = pc.is_in(values, pa.array(self.value))
        else:
            compare = {"=": pc.equal, "<": pc.less, ">=": pc.greater_equal}[self.op]
            found = compare(values, self.value)
        return np.asarray(found.to_numpy(), bool)


EVERY = Condition("all")
RANDOM = tuple(
    Condition(f"{share:g} %", "bucket", "<", round(share * BUCKETS / 100))
    for share in (50, 10, 2, 0.5, 0.1)
)
DEBIAN = (  # filters that go with what a text is about
    Condition("amd64", "architecture", "=", "amd64"),
    Condition("large", "installed_size", ">=", 6400),
    Condition("required", "priority", "IN", ["required", "important"]),
)


@dataclass(frozen=True)
class Dataset:
    """vectors: float32 (n, d) of unit length; queries: (m, d); columns: n rows, `id` first."""

    name: str
    vectors: Vectors
    queries: Vectors
    columns: pa.Table
    conditions: tuple[Condition, ...]
    _tenths: dict[tuple[str, int], NDArray[np.float32]] = field(default_factory=dict)

    def least(self, condition: Condition, k: int) -> NDArray[np.float32]:
        """The k-th best similarity of every query among the rows that qualify; computed once."""
        key = condition.name, k
        if key not in self._tenths:
            rows = np.flatnonzero(condition.mask(self.columns))
            self._tenths[key] = _kth(self.vectors, rows, self.queries, k)
        return self._tenths[key]


def load(spec: str, queries: int) -> Dataset:
    """A data set by its description; at most so many queries."""
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS:
        raise SystemExit(f"{spec}: no such data set; there are {', '.join(_KINDS)}.")
    name, vectors, asked, columns, conditions = _KINDS[kind](rest)
    rng = np.random.default_rng(7)
    bucket = pa.array(rng.integers(0, BUCKETS, len(vectors)), pa.int32())
    table = pa.table({"id": pa.array(np.arange(len(vectors)))} | columns | {"bucket": bucket})
    return Dataset(name, _unit(vectors), _unit(asked[:queries]), table, (*RANDOM, *conditions))


def _debian(folder: str) -> tuple[Any, ...]:
    table = pq.read_table(Path(folder) / "debian.parquet")
    half = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    names = ["name", "section", "architecture", "priority", "installed_size"]
    queries = np.load(Path(folder) / "debian_queries.npz")["queries"]
    columns = {name: table[name] for name in names}
    return "debian", half.reshape(len(table), -1), queries, columns, DEBIAN


def _glove(folder: str) -> tuple[Any, ...]:
    vectors = np.load(Path(folder) / "glove_base.npy")
    names = pa.array([f"word {number}" for number in range(len(vectors))])
    return "glove", vectors, np.load(Path(folder) / "glove_q.npy"), {"name": names}, ()


def _hdf5(path: str) -> tuple[Any, ...]:
    import h5py

    with h5py.File(path) as file:
        vectors, queries = file["train"][:], file["test"][:]
    names = pa.array([f"row {number}" for number in range(len(vectors))])
    return Path(path).stem, vectors, queries, {"name": names}, ()


def _clustered(spec: str) -> tuple[Any, ...]:
    folder, _, rows = spec.rpartition(":")
    _, centres, queries, _, _ = _debian(folder)
    centres = centres.astype(np.float32)
    rng = np.random.default_rng(11)
    vectors = np.empty((int(rows), centres.shape[1]), np.float32)
    for low in range(0, len(vectors), 100_000):  # bounded memory
        part = vectors[low : low + 100_000]
        part[:] = centres[rng.integers(0, len(centres), len(part))]
        part += rng.standard_normal(part.shape, np.float32) * (0.35 / centres.shape[1] ** 0.5)
    names = pa.array([f"row {number}" for number in range(len(vectors))])
    return f"clustered-{rows}", vectors, queries, {"name": names}, ()


_KINDS = {"debian": _debian, "glove": _glove, "hdf5": _hdf5, "clustered": _clustered}


def _unit(vectors: NDArray[Any]) -> Vectors:
    wide = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.maximum(lengths, np.float32(1e-30))


def _kth(vectors: Vectors, rows: NDArray[np.int64], queries: Vectors, k: int) -> NDArray[Any]:
    best = np.full((len(queries), k), -2, np.float32)
    for low in range(0, len(rows), _TILE):
        near = queries @ vectors[rows[low : low + _TILE]].T
        best = -np.sort(-np.concatenate([best, near], axis=1), axis=1)[:, :k]
    return np.ascontiguousarray(best[:, min(k, len(rows)) - 1])


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_literal, value))})"
    return str(value) if isinstance(value, int) else f"'{value}'"

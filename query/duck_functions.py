"""Vector functions inside DuckDB: the canonical distances and vector arithmetic over Arrow chunks.

Each function is a macro that casts its arguments to FLOAT[] (so that text, ARRAY[...] and any list
will do) around a raw function over Arrow. A NULL argument gives NULL; vectors of unequal length are
an error that names both lengths. A raw function gets 2,048 rows at a time; a constant argument
comes repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nearql.engine.distance import pairwise_distances
from nearql.engine.types import Metric
from nearql.query.dialect.bounds import WIDE

DISTANCES = {
    Metric.L2: "nq_l2",
    Metric.INNER_PRODUCT: "nq_ip",
    Metric.COSINE: "nq_cos",
    Metric.L1: "nq_l1",
}
Vectors = NDArray[np.float32]
_ELEMENTWISE: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "nq_add": np.add,
    "nq_subtract": np.subtract,
    "nq_multiply": np.multiply,
}
_CAST_BITS = (  # PostgreSQL's explicit cast to bit(n)
    "{name}(v, n) AS CASE WHEN bit_length({cast}(v AS BIT)) = n THEN {cast}(v AS BIT)"
    " ELSE CAST(rpad(left(CAST({cast}(v AS BIT) AS VARCHAR), n), n, '0') AS BIT) END"
)
_MACROS = (
    _CAST_BITS.format(name="nq_bits", cast="CAST"),
    _CAST_BITS.format(name="nq_try_bits", cast="TRY_CAST"),
    "nq_hamming(a, b) AS CAST(bit_count(xor(CAST(a AS BIT), CAST(b AS BIT))) AS FLOAT)",
    (
        "nq_jaccard(a, b) AS CAST(CASE WHEN bit_count(CAST(a AS BIT) & CAST(b AS BIT)) = 0 THEN 1"
        " ELSE 1 - bit_count(CAST(a AS BIT) & CAST(b AS BIT))"
        " / bit_count(CAST(a AS BIT) | CAST(b AS BIT)) END AS FLOAT)"
    ),
    "hamming_distance(a, b) AS nq_hamming(a, b)",
    "jaccard_distance(a, b) AS nq_jaccard(a, b)",
    "binary_quantize(v) AS CAST(nq_signs(v) AS BIT)",
    (
        "nq_concat(a, b) AS CASE WHEN a IS NOT NULL AND b IS NOT NULL"
        " THEN list_concat(CAST(a AS FLOAT[]), CAST(b AS FLOAT[])) END"
    ),
    "l2_norm(v) AS vector_norm(v)",
    "l2_distance(a, b) AS nq_l2(a, b)",
    "inner_product(a, b) AS 0 - nq_ip(a, b)",
    "cosine_distance(a, b) AS nq_cos(a, b)",
    "l1_distance(a, b) AS nq_l1(a, b)",
    "vector_dims(v) AS CAST(len(CAST(v AS FLOAT[])) AS INTEGER)",
    (
        "subvector(v, first, n) AS CASE"
        " WHEN least(first + n - 1, len(CAST(v AS FLOAT[]))) < greatest(first, 1)"
        " THEN error('nearql:invalid_vector:subvector() would leave no dimension.')"
        " ELSE array_slice(CAST(v AS FLOAT[]), greatest(first, 1), first + n - 1) END"
    ),
)
ERROR = "nearql:"  # marks the part of DuckDB's message that is ours


def install(connection: duckdb.DuckDBPyConnection, call_length: int) -> None:
    """Create every vector function in the database behind `connection`, and those of `bounds`."""
    _raw(connection, "nq_fits", _fits(call_length), ["DOUBLE"] * 3, "BOOLEAN")
    for definition in _bounds():
        connection.execute(f"CREATE MACRO {definition}")
    for metric, name in DISTANCES.items():
        _create(connection, name, _distance(metric), 2, "FLOAT")
    for name, function in _ELEMENTWISE.items():
        _create(connection, name, _elementwise(function), 2, "FLOAT[]")
    _create(connection, "vector_norm", _norm, 1, "DOUBLE")
    _create(connection, "l2_normalize", _normalize, 1, "FLOAT[]")
    _create(connection, "nq_half", _halves, 1, "FLOAT[]")
    _create(connection, "nq_signs", _signs, 1, "VARCHAR")
    _raw(connection, "nq_total", _total, ["FLOAT[][]", "BOOLEAN"], "FLOAT[]")
    for name, mean in (("nq_sum", "false"), ("nq_avg", "true")):
        connection.execute(
            f"CREATE MACRO {name}(v) AS nq_total_raw("
            f"list(CAST(v AS FLOAT[])) FILTER (WHERE v IS NOT NULL), {mean})"
        )
    for definition in _MACROS:
        connection.execute(f"CREATE MACRO {definition}")


def _bounds() -> tuple[str, ...]:
    """The macros that `dialect.bounds` calls."""
    return (
        (
            "nq_bounded(v, size, parts, room) AS CASE WHEN nq_fits_raw("
            "CAST(size AS DOUBLE), CAST(parts AS DOUBLE), CAST(room AS DOUBLE)) THEN v END"
        ),
        "nq_size(v) AS length(CAST(v AS VARCHAR))",
        "nq_number(v) AS TRY_CAST(CAST(v AS VARCHAR) AS DOUBLE)",
        "nq_moment(v) AS epoch(TRY_CAST(CAST(v AS VARCHAR) AS TIMESTAMP))",
        (
            "nq_steps(a, b, c) AS coalesce((nq_number(b) - nq_number(a)) / nq_number(c),"
            " (nq_moment(b) - nq_moment(a)) / epoch(TRY_CAST(CAST(c AS VARCHAR) AS INTERVAL)))"
        ),
        f"nq_widths(f) AS if(regexp_matches(f, '{WIDE}'), CAST('inf' AS DOUBLE), 0)",
    )


def _fits(call_length: int) -> Callable[..., pa.Array]:
    """Whether each size, and those of a chunk together, are within the bounds; raises if not."""

    def function(sizes: pa.ChunkedArray, parts: pa.ChunkedArray, room: pa.ChunkedArray) -> pa.Array:
        if len(sizes):
            longest = call_length / parts[0].as_py()
            if (pc.max(sizes).as_py() or 0) > longest:
                raise ValueError(
                    f"nearql:too_large:A call may make at most {call_length} characters or "
                    "elements (limits.call_length), in a lambda a hundredth of them."
                )
            together = longest * room[0].as_py()
            if (pc.sum(sizes).as_py() or 0) > together:
                raise ValueError(
                    f"nearql:too_large:Calls for {len(sizes)} rows may together make at most "
                    f"{together:.0f} characters or elements ({room[0].as_py():.0f} times what one "
                    "of them may, see limits.call_length): make less of each row, or ask for fewer "
                    "rows at once."
                )
        return pa.repeat(pa.scalar(True), len(sizes))

    return function


def _create(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    function: Callable[..., pa.Array],
    arguments: int,
    result: str,
) -> None:
    names = ["a", "b"][:arguments]
    _raw(connection, name, function, ["FLOAT[]"] * arguments, result)
    casts = ", ".join(f"CAST({one} AS FLOAT[])" for one in names)
    connection.execute(f"CREATE MACRO {name}({', '.join(names)}) AS {name}_raw({casts})")


def _raw(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    function: Callable[..., pa.Array],
    arguments: list[str],
    result: str,
) -> None:
    connection.create_function(  # type: ignore[call-overload]  # the stubs know enums only
        f"{name}_raw", function, arguments, result, type="arrow", null_handling="special"
    )


def _distance(metric: Metric) -> Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.Array]:
    def function(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
        pairs = _Pairs(_array(left), _array(right))
        return pairs.spread(pairwise_distances(pairs.left, pairs.right, metric))

    return function


def _elementwise(
    operation: Callable[[Vectors, Vectors], Vectors],
) -> Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.Array]:
    def function(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
        pairs = _Pairs(_array(left), _array(right))
        with np.errstate(over="ignore", invalid="ignore"):
            made = operation(pairs.left, pairs.right)
        return pairs.spread_lists(_finite(made))

    return function


def _finite(vectors: Vectors) -> Vectors:
    """The vectors, whose elements are all numbers."""
    if not np.isfinite(vectors).all():
        raise ValueError(f"{ERROR}invalid_vector:An element is beyond the range of float32.")
    return vectors


def _norm(vectors: pa.ChunkedArray) -> pa.Array:
    return _by_length(_array(vectors), _norms, pa.float64())


def _norms(vectors: Vectors) -> pa.Array:
    return pa.array(np.linalg.norm(vectors.astype(np.float64), axis=1))


def _normalize(vectors: pa.ChunkedArray) -> pa.Array:
    return _by_length(_array(vectors), _unit, pa.list_(pa.float32()))


def _unit(vectors: Vectors) -> pa.Array:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    return _lists(unit.astype(np.float32))


def _halves(vectors: pa.ChunkedArray) -> pa.Array:
    return _by_length(_array(vectors), _rounded, pa.list_(pa.float32()))


def _rounded(vectors: Vectors) -> pa.Array:
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError(f"{ERROR}invalid_vector:An element is beyond the range of float16.")
    return _lists(halves.astype(np.float32))


def _signs(vectors: pa.ChunkedArray) -> pa.Array:
    """1 for each element above zero, else 0, as text."""
    return _by_length(_array(vectors), _sign_texts, pa.string())


def _sign_texts(vectors: Vectors) -> pa.Array:
    count, dimensions = vectors.shape
    digits = np.where(vectors > 0, np.uint8(ord("1")), np.uint8(ord("0")))
    offsets = np.arange(count + 1, dtype=np.int32) * dimensions
    return pa.StringArray.from_buffers(
        count, pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits.tobytes())
    )


def _total(groups: pa.ChunkedArray, mean: pa.ChunkedArray) -> pa.Array:
    """Sum, or mean, of each list of vectors; NULL for an empty list."""
    array = _array(groups)
    average = bool(len(array)) and bool(mean[0].as_py())
    return pa.array(
        [_total_one(array[i], average) for i in range(len(array))], pa.list_(pa.float32())
    )


def _total_one(group: pa.ListScalar, average: bool) -> Vectors | None:
    if not group.is_valid or not len(group.values):
        return None
    vectors = _matrix(group.values.drop_null(), "avg and sum")
    summed = vectors.sum(axis=0, dtype=np.float64)
    with np.errstate(over="ignore"):
        total: Vectors = (summed / len(vectors) if average else summed).astype(np.float32)
    return _finite(total)


class _Pairs:
    """Two columns of vectors brought to two (n, d) arrays of the rows where neither is NULL."""

    def __init__(self, left: pa.ListArray, right: pa.ListArray) -> None:
        valid = pc.and_(left.is_valid(), right.is_valid())
        self.count = len(left)
        self.rows: NDArray[np.bool_] | None = None
        if not pc.all(valid, min_count=0).as_py():
            self.rows = valid.to_numpy(zero_copy_only=False)
            left, right = left.filter(valid), right.filter(valid)
        lengths = pc.list_value_length(left), pc.list_value_length(right)
        unequal = pc.not_equal(*lengths)
        if pc.any(unequal, min_count=0).as_py():
            at = pc.index(unequal, True).as_py()
            raise ValueError(
                f"{ERROR}different_dimensions:The vectors have different dimensions: "
                f"{lengths[0][at]} and {lengths[1][at]}."
            )
        self.left, self.right = _matrix(left, "one column"), _matrix(right, "one column")

    def spread(self, values: NDArray[np.float32]) -> pa.Array:
        """The values at their rows, NULL elsewhere."""
        if self.rows is None:
            return pa.array(values)
        full = np.zeros(self.count, np.float32)
        full[self.rows] = values
        return pa.array(full, mask=~self.rows)

    def spread_lists(self, vectors: Vectors) -> pa.Array:
        """The vectors at their rows, NULL elsewhere."""
        lists = _lists(vectors)
        if self.rows is None:
            return lists
        positions = np.cumsum(self.rows) - 1
        return lists.take(pa.array(positions, mask=~self.rows))


def _by_length(
    vectors: pa.ListArray, function: Callable[[Vectors], pa.Array], result: pa.DataType
) -> pa.Array:
    """`function` over the valid vectors, grouped by their length."""
    lengths = pc.list_value_length(vectors).fill_null(-1).to_numpy(zero_copy_only=False)
    parts, rows = [], []
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        rows.append(chosen)
        if length < 0:
            parts.append(pa.nulls(len(chosen), result))
        else:
            parts.append(function(_matrix(vectors.take(pa.array(chosen)), "one call")).cast(result))
    if not parts:
        return pa.nulls(0, result)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return pa.concat_arrays(parts).take(pa.array(order))


def _matrix(vectors: pa.ListArray, where: str) -> Vectors:
    """Shape (n, d) float32 of lists without NULLs, all of one length."""
    if not len(vectors):
        return np.zeros((0, 1), np.float32)
    lengths = pc.list_value_length(vectors)
    shortest, longest = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if shortest != longest:
        raise ValueError(
            f"{ERROR}different_dimensions:Vectors of different dimensions in {where}: "
            f"{shortest} and {longest}."
        )
    flat = vectors.flatten()
    if flat.null_count:
        raise ValueError(f"{ERROR}invalid_vector:A vector holds a NULL element.")
    values = flat.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values, np.float32).reshape(len(vectors), longest)


def _lists(vectors: Vectors) -> pa.ListArray:
    count, dimensions = vectors.shape
    offsets = np.arange(count + 1, dtype=np.int32) * dimensions
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))


def _array(column: pa.ChunkedArray | pa.Array) -> pa.ListArray:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):  # no chunk at all
        return pa.array([], combined.type)
    return combined

"""Binding: every form of a vector, and what is wrong with the others, by name and place."""

from __future__ import annotations

import base64
import datetime
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nearql.engine.errors import InvalidValue, SqlError
from nearql.engine.schema import MAX_DIMENSIONS
from nearql.query.parameters import Parameters, scalar, vector

THREE = np.array([1, 2.5, -3], np.float32)
BASE64 = base64.b64encode(THREE.astype("<f4").tobytes()).decode()


def bind(value: Any, dimensions: int | None = 3) -> np.ndarray[Any, Any] | None:
    """The value as a vector of parameter :q."""
    return vector(value, dimensions=dimensions, where="parameter :q")


def refusal(value: Any, dimensions: int | None = 3) -> InvalidValue:
    """Why it is none."""
    with pytest.raises(InvalidValue) as caught:
        bind(value, dimensions)
    assert caught.value.detail.startswith("parameter :q: ")
    return caught.value


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, -3],
        (1, 2.5, -3),
        "[1,2.5,-3]",
        "  [ 1 , 2.5e0 , -3 ] ",
        BASE64,
        THREE.astype("<f4").tobytes(),
        "".join(f"\\x{byte:02x}" for byte in THREE.astype("<f4").tobytes()),
        THREE,
        THREE.astype(np.float64),
        THREE.astype(np.float16),
        THREE.astype(">f4"),
        THREE[::-1][::-1],
        list(THREE),
        [decimal.Decimal(1), 2.5, np.int64(-3)],
        pa.array([1, 2.5, -3]),
        pa.chunked_array([[1, 2.5], [-3.0]]),
        pa.scalar([1, 2.5, -3]),
        pa.scalar([1, 2.5, -3], pa.list_(pa.float32(), 3)),
        np.array([1, 2.5, -3], dtype=object),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_a_vector_binds(value: Any) -> None:
    """To the same float32 values, in memory of their own."""
    made = bind(value)
    assert made is not None
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert made.flags.owndata
    np.testing.assert_array_equal(made, THREE)


@pytest.mark.parametrize("value", [None, pa.scalar(None, pa.list_(pa.float32()))])
def test_null_is_no_vector(value: Any) -> None:
    """NULL binds as None."""
    assert bind(value) is None


def test_dimensions_are_checked() -> None:
    """With both numbers in the message."""
    error = refusal([1, 2], 3)
    assert error.code == "wrong_dimensions"
    assert error.detail == "parameter :q: expected 3 dimensions, got 2."
    assert bind([1, 2], None) is not None


def test_dimensions_have_a_limit() -> None:
    """At the limit a vector binds, one more is refused."""
    assert bind(np.zeros(MAX_DIMENSIONS, np.float32), None) is not None
    assert refusal(np.zeros(MAX_DIMENSIONS + 1, np.float32), None).code == "wrong_dimensions"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, float("nan"), 2], "element 2 is nan"),
        ([1, 2, float("-inf")], "element 3 is -inf"),
        ("[1,inf,2]", "element 2 is inf"),
        (np.array([np.nan, 1, 2]), "element 1 is nan"),
        ([1e39, 1, 2], "element 1 is 1e+39, which is too large"),
        ([10**400, 1, 2], "too large"),
        ([1, "x", 2], "element 2 is a str, not a number"),
        ([1, None, 2], "element 2 is NULL, not a number"),
        ([1, True, 2], "element 2 is a boolean, not a number"),
        ([[1, 2, 3]], "element 1 is a list"),
        ([np.bool_(True), 1, 2], "element 1"),
        ("[1,a,2]", "element 2 is 'a', not a number"),
        ("[1,,2]", "element 2 is ''"),
        ("[1_0,2,3]", "element 1 is '1_0'"),
        ("[1,2,3", "must end with ']'"),
        ("[]", "at least one"),
        ([], "at least one"),
        ("not a vector!", "base64"),
        ("YWJj", "3 bytes"),
        ("", "0 bytes"),
        ("\\x00\\x01", "2 bytes"),
        ("\\x0g", "no vector and no BLOB"),
        (b"abc", "3 bytes"),
        (5, "got a number"),
        ({"a": 1}, "got an object"),
        (np.zeros((1, 3)), "shape (1, 3)"),
        (np.array(["a", "b", "c"]), "array of <U1"),
        (pa.array([1.0, None, 3.0]), "element 2 is NULL"),
    ],
    ids=str,
)
def test_what_is_no_vector_says_why(value: Any, says: str) -> None:
    """With the element's place, counted from 1."""
    error = refusal(value)
    assert says in error.detail
    assert error.code == "invalid_vector"


def test_base64_is_little_endian_float32() -> None:
    """As documented, whatever the machine."""
    made = bind(base64.b64encode(b"\x00\x00\x80\x3f").decode(), 1)
    assert made is not None
    assert made.tolist() == [1.0]


def test_wrong_length_of_base64_names_dimensions() -> None:
    """Four bytes too many are one dimension too many."""
    data = base64.b64encode(np.zeros(4, "<f4").tobytes()).decode()
    assert refusal(data).detail == "parameter :q: expected 3 dimensions, got 4."


# ---- Who gave what ----------------------------------------------------------------------


def test_names_may_carry_their_sign() -> None:
    """`q`, `:q` and `$q` name one parameter."""
    for name in ("q", ":q", "$q"):
        assert Parameters.of({name: 5}).value("q") == 5


def test_positions_are_names() -> None:
    """The first value is $1."""
    given = Parameters.of(["a", "b"])
    assert (given.value("1"), given.value("2")) == ("a", "b")


@pytest.mark.parametrize(
    ("params", "name", "says"),
    [
        (None, "q", "Parameter :q has no value; no parameters were given."),
        ({"qq": 1, "k": 2}, "q", "given were :k, :qq. Did you mean :qq?"),
        ([1, 2], "3", "Parameter $3 has no value; 2 positional values were given."),
        ([1], "q", "Parameter :q has no value; 1 positional values were given."),
    ],
)
def test_missing_parameters_are_named(params: Any, name: str, says: str) -> None:
    """With what was given instead."""
    with pytest.raises(SqlError) as caught:
        Parameters.of(params).value(name)
    assert says in caught.value.detail
    assert caught.value.code == "missing_parameter"


def test_surplus_positions_are_refused_and_names_are_not() -> None:
    """A value without a place is a mistake; a named one may serve another statement."""
    Parameters.of([1, 2]).check_used(["1", "2"])
    Parameters.of({"a": 1, "b": 2}).check_used(["a"])
    with pytest.raises(SqlError) as caught:
        Parameters.of([1, 2, 3]).check_used(["1", "2"])
    assert caught.value.code == "surplus_parameter"


@pytest.mark.parametrize("params", ["abc", b"abc", 5, {1: 2}])
def test_parameters_are_a_list_or_an_object(params: Any) -> None:
    """Text is no list of letters."""
    with pytest.raises(InvalidValue):
        Parameters.of(params)


# ---- Scalars ----------------------------------------------------------------------------

NOW = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (None, None),
        (True, True),
        (NOW, NOW),
        (decimal.Decimal("1.5"), decimal.Decimal("1.5")),
        (uuid.UUID(int=5), uuid.UUID(int=5)),
        ([1, [2, None]], [1, [2, None]]),
        ((1, 2), [1, 2]),
        ({"a": [1]}, {"a": [1]}),
        (np.int32(5), 5),
        (np.array([1, 2]), [1, 2]),
        (pa.scalar("x"), "x"),
        (pa.array([1, None]), [1, None]),
        (pa.chunked_array([[1], [2]]), [1, 2]),
    ],
    ids=str,
)
def test_scalars_reach_duckdb_as_python(value: Any, bound: Any) -> None:
    """A list is a DuckDB list, an object a struct."""
    made = scalar(value, ":p")
    assert made == bound
    assert type(made) is type(bound)


def test_other_objects_are_refused_by_name() -> None:
    """The parameter is named."""
    with pytest.raises(InvalidValue, match=":p: a object is no SQL value"):
        scalar(object(), ":p")

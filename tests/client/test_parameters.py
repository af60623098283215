"""Parameters become JSON, or an error that names them."""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from nearql.client.errors import UsageError
from nearql.client.parameters import encode_parameters, encode_value

VECTOR = base64.b64encode(np.array([1.5, -2.0], "<f4").tobytes()).decode()
UUID = uuid.UUID(int=5)
UTC = dt.timezone.utc  # noqa: UP017 - also for people on 3.10 reading this


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("a", "a"),
        ([1, [2.5, None]], [1, [2.5, None]]),
        ((1, 2), [1, 2]),
        ({"a": np.int8(1)}, {"a": 1}),
        (np.array([1.5, -2.0], "f4"), VECTOR),
        (np.array([1.5, -2.0], "f8"), VECTOR),
        (np.array([1.5, -2.0], "f2"), VECTOR),
        (np.array([1.5, -2.0], ">f4"), VECTOR),
        (np.array([0, 1.5, 0, -2.0], "f4")[1::2], VECTOR),
        (np.array([1, 2]), [1, 2]),
        (np.array(["a"]), ["a"]),
        (np.float32(1.5), 1.5),
        (np.array(3), 3),
        (pa.scalar(5), 5),
        (pa.array([1, 2]), [1, 2]),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (dt.time(1, 2), "01:02:00"),
        (dt.timedelta(days=-1, seconds=3600.5), "-1 days 3600.500000 seconds"),
        (pa.scalar(pa.MonthDayNano([1, 2, 0])), "1 month 2 days"),
        (pa.MonthDayNano([0, 0, -1_500_000_000]), "-00:00:01.5"),
        (pd.NaT, None),
        (UUID, str(UUID)),
        (Decimal("1.10"), "1.10"),
        (b"\x00\xff", r"\x00\xff"),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    encoded = encode_value(value, ":x")
    assert encoded == expected
    assert orjson.loads(orjson.dumps(encoded)) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "holds nan"),
        ([1.0, float("inf")], "holds inf"),
        (np.array([1.0, np.nan]), "NaN or infinity"),
        (np.float32("inf"), "holds inf"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (2**64, "beyond 64 bits"),
        ("\ud800", "is no Unicode"),
        ({"a": ["\ud800"]}, "is no Unicode"),
        (object(), "is of type object"),
        ({1, 2}, "is of type set"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"Parameter :x.*{said}"):
        encode_value(value, ":x")


def test_positions_and_names() -> None:
    assert encode_parameters([1, "a"]) == [1, "a"]
    assert encode_parameters({"a": 1}) == {"a": 1}
    assert encode_parameters(None) is None
    assert encode_parameters(()) is None
    with pytest.raises(UsageError, match=r"\$2"):
        encode_parameters([1, object()])


@pytest.mark.parametrize("single", ["a", b"a", 5])
def test_a_single_value_is_no_list(single: Any) -> None:
    with pytest.raises(UsageError, match="goes into a list"):
        encode_parameters(single)

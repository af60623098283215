"""The index of keys behaves as a dict does, whatever the keys and however they are merged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearql.engine import key_index
from nearql.engine.key_index import KeyIndex
from nearql.engine.keys import NOWHERE, Key

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "load", "move"]),
        st.lists(st.integers(0, 30), unique=True, max_size=10),
    ),
    max_size=30,
)
KINDS: list[tuple[Callable[[int], Key], pa.DataType]] = [
    (lambda n: n, pa.int64()),
    (lambda n: n - 15, pa.int16()),
    (lambda n: 2**64 - 1 - n, pa.uint64()),
    (lambda n: 2**63 - 15 + n, pa.uint64()),
    (lambda n: f"key {n}", pa.string()),
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few keys are merged often."""
    monkeypatch.setattr(key_index, "_RECENT_LEAST", 4)


@pytest.mark.parametrize(("of", "kind"), KINDS)
@given(operations=OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_the_index_is_a_dict_that_tells_what_was_before(
    of: Callable[[int], Key], kind: pa.DataType, operations: list[tuple[str, list[int]]]
) -> None:
    index, model, position = KeyIndex(), dict[Key, int](), 0
    asked = [of(number) for number in range(31)]
    for what, numbers in operations:
        keys = [of(number) for number in numbers]
        if what == "load":
            keys = [key for key in keys if key not in model]
        elif what == "move":
            keys = [key for key in keys if key in model]
        held = [model[key] for key in keys if key in model]
        places = {key: position + at for at, key in enumerate(keys)}
        if what == "put":
            assert index.put(keys, position).tolist() == held
        elif what == "remove":
            assert index.remove(keys).tolist() == held
        else:
            getattr(index, what)(pa.array(keys, kind), np.arange(len(keys)) + position)
        if what == "remove":
            model = {key: at for key, at in model.items() if key not in keys}
        else:
            model |= places
        position += len(keys)
        index.check_invariants()
        assert len(index) == len(model)
        assert index.positions(asked).tolist() == [model.get(key, NOWHERE) for key in asked]
        assert index.overlaps(asked) == bool(model)
        assert all((key in index) == (key in model) for key in asked)
    index.clear()
    assert len(index) == 0
    assert not index.overlaps(asked)


def test_settled_keys_take_a_fraction_of_a_dict() -> None:
    index = KeyIndex()
    for start in range(0, 100_000, 1000):
        index.put(list(range(start, start + 1000)), start)
    assert len(index) == 100_000
    assert index.nbytes < 40 * 100_000


def test_keys_of_several_chunks_are_loaded() -> None:
    index = KeyIndex()
    index.load(pa.chunked_array([[5, 1], [3]], pa.int32()), np.array([10, 20, 30]))
    index.load(pa.chunked_array([], pa.int32()), np.empty(0, np.int64))
    assert index.positions([1, 2, 3, 5]).tolist() == [20, NOWHERE, 30, 10]
    assert index.remove([2, 5]).tolist() == [10]
    assert 5 not in index
    assert index.put([5, 7], 40).tolist() == []
    assert len(index) == 4

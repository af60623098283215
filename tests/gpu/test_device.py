"""On a real GPU: the cases of every backend, by CuPy. `python3 dev.py test -m gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from nearql.engine.backends.cupy import CupyBackend, open_device
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.backends.selftest import self_test
from nearql.engine.search import Searcher
from nearql.engine.settings import EngineSettings
from nearql.engine.types import VECTOR_METRICS, Metric
from support.search_cases import Case, cases, code_at_once, make_vectors

pytestmark = pytest.mark.gpu


def reason_to_skip() -> str | None:
    """Why there is nothing to test on."""
    try:
        open_device(NumpyBackend(), 0.5, None)
    except Exception as error:  # noqa: BLE001 - drivers raise classes of their own
        return f"no GPU that CuPy can use ({type(error).__name__}: {error})"
    return None


@pytest.fixture(scope="module")
def backend() -> CupyBackend:
    """The device."""
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    return open_device(NumpyBackend(), 0.5, None)


@pytest.fixture(scope="module")
def searcher(backend: CupyBackend) -> Iterator[Searcher]:
    """Searches on it; a failure of the device is an error here, never the host's answer."""
    with pytest.MonkeyPatch.context() as patch:
        code_at_once(patch)
        made = Searcher(backend, EngineSettings())
        yield made
        made.close()


def test_the_self_test(backend: CupyBackend) -> None:
    assert self_test(backend) is None


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_equals_brute_force(searcher: Searcher, case: Case) -> None:
    case.check(case.search(searcher))


@pytest.mark.parametrize("metric", list(VECTOR_METRICS))
@pytest.mark.parametrize("asked", [1, 64])
@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_many_rows(searcher: Searcher, metric: Metric, asked: int, element: type) -> None:
    random = np.random.default_rng(2)
    vectors: NDArray[Any] = make_vectors(random, "normal", 200_000, 96).astype(element)
    queries = make_vectors(random, "normal", asked, 96)
    case = Case(vectors, queries, metric, 10, np.arange(200_000), mask=random.random(200_000) < 0.4)
    case.check(case.search(searcher))

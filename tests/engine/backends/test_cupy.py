"""The GPU's backend with NumPy in CuPy's place: the same logic, the same answers; `tests/gpu` runs
the same cases on a device where there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine.backends import cupy
from nearql.engine.backends.cupy import CupyBackend
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.backends.selftest import self_test
from nearql.engine.codes import Tiling
from nearql.engine.search import Searcher, VectorSlice
from nearql.engine.settings import EngineSettings
from nearql.engine.types import VECTOR_METRICS, Metric
from support.search_cases import Case, code_at_once, make_vectors, numpy_as_device

METRICS = list(VECTOR_METRICS)


class Arrays:
    """NumPy, until it is told to fail as a driver or for want of memory."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return getattr(np, name)


class Driver(Exception):
    """What a driver raises."""


@pytest.fixture(autouse=True)
def coded() -> Iterator[None]:
    """Small tables go to the device before their first search."""
    with pytest.MonkeyPatch.context() as patch:
        code_at_once(patch)
        yield


@pytest.fixture
def arrays() -> Arrays:
    """The device's array library."""
    return Arrays()


@pytest.fixture
def backend(arrays: Arrays) -> CupyBackend:
    """A backend in use, with tiles of 32 rows."""
    made = CupyBackend(NumpyBackend(), arrays, 1 << 20)
    made.tiling = numpy_as_device().tiling
    made.trust()
    return made


def searcher(backend: CupyBackend) -> Searcher:
    """Searches on it."""
    return Searcher(backend, EngineSettings(search_threads=1))


def case(metric: Metric, asked: int, **options: Any) -> Case:
    """500 rows in two slices, k = 5."""
    random = np.random.default_rng(1)
    vectors = make_vectors(random, "normal", 500, 12)
    queries = make_vectors(random, "normal", asked, 12)
    return Case(vectors, queries, metric, 5, np.arange(500), cuts=(200,), **options)


def keep(wanted: Case, slices: list[VectorSlice] | None = None) -> None:
    """Search the same slices every time, and with them what is on the device."""
    same = slices or wanted.slices()
    wanted.slices = lambda: same  # type: ignore[method-assign]


def test_it_keeps_its_promises(backend: CupyBackend, arrays: Arrays) -> None:
    assert self_test(backend) is None
    assert arrays.calls > 0, "the device was asked"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("asked", [1, 9, 300])
def test_answers_come_from_the_device(
    backend: CupyBackend, arrays: Arrays, metric: Metric, asked: int
) -> None:
    wanted, search = case(metric, asked), searcher(backend)
    hits = wanted.search(search)
    wanted.check(hits)
    assert (hits.stats.backend, hits.stats.device) == ("cupy", "gpu")
    before = arrays.calls
    wanted.search(search)
    assert arrays.calls > before
    search.close()


@pytest.mark.parametrize("metric", [Metric.L2, Metric.INNER_PRODUCT, Metric.COSINE])
def test_thousands_of_ties_at_the_boundary(backend: CupyBackend, metric: Metric) -> None:
    """More rows tie than a batch keeps: its floor says so, and they are asked for one by one."""
    random = np.random.default_rng(4)
    vectors = make_vectors(random, "normal", 3_000, 24)
    vectors[random.permutation(3_000)[:1_500]] = vectors[0]
    queries = np.repeat(vectors[:1] * np.float32(1.5), 8, axis=0)
    wanted = Case(vectors, queries, metric, 20, random.permutation(3_000), cuts=(1_400,))
    search = searcher(backend)
    wanted.check(wanted.search(search))
    search.close()


def test_rows_that_cancel_in_l2(backend: CupyBackend) -> None:
    random = np.random.default_rng(5)
    base = np.full(64, 20_000, np.float32)
    vectors = base + random.integers(-40, 41, (2_000, 64)).astype(np.float32) / 256
    search = searcher(backend)
    for asked in (1, 8):
        queries = np.repeat(base[np.newaxis], asked, axis=0)
        wanted = Case(vectors, queries, Metric.L2, 10, np.arange(2_000))
        wanted.check(wanted.search(search))
    search.close()


def test_float16_rows_stay_float16(backend: CupyBackend) -> None:
    wanted = case(Metric.COSINE, 3)
    wanted.vectors = wanted.vectors.astype(np.float16)
    search = searcher(backend)
    keep(wanted)
    wanted.check(wanted.search(search))
    assert search.coder.bytes == 500 * (12 * 2 + 4)
    search.close()


def test_one_copy_serves_every_metric(backend: CupyBackend) -> None:
    search = searcher(backend)
    slices = case(Metric.L2, 1).slices()
    for metric in METRICS:
        wanted = case(metric, 1)
        keep(wanted, slices)
        wanted.check(wanted.search(search))
    assert search.coder.bytes == 500 * (12 * 4 + 4)
    search.close()


def test_rows_that_do_not_fit_are_the_hosts(arrays: Arrays) -> None:
    """Part on the device, part here; one answer."""
    made = CupyBackend(NumpyBackend(), arrays, 10_000)
    made.tiling = Tiling(32, 9_000, shared=True)
    made.trust()
    search = searcher(made)
    slices = case(Metric.L2, 1).slices()
    for metric in METRICS:
        for asked in (1, 7):
            wanted = case(metric, asked)
            keep(wanted, slices)
            wanted.check(wanted.search(search))
    assert 0 < search.coder.bytes <= 9_000
    search.close()


@pytest.mark.parametrize("asked", [1, 7])
def test_a_device_that_fails_is_replaced_and_comes_back(
    backend: CupyBackend,
    arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: int,
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("nearql.engine.backends.cupy.time.monotonic", lambda: now[0])
    wanted, search = case(Metric.L2, asked), searcher(backend)
    keep(wanted)
    wanted.check(wanted.search(search))
    arrays.error = Driver("device lost")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            hits = wanted.search(search)
            wanted.check(hits)
    assert (hits.stats.backend, hits.stats.device) == ("numpy", "cpu")
    assert caplog.text.count("The GPU failed (Driver: device lost); the CPU answers.") == 1
    arrays.error = None
    now[0] += cupy.RETRY_S - 1
    wanted.check(wanted.search(search))
    assert backend.degraded, "it isn't tried at every search"
    now[0] += 2
    with caplog.at_level(logging.WARNING):
        wanted.check(wanted.search(search))
    assert not backend.degraded
    assert "The GPU works again" in caplog.text
    assert wanted.search(search).stats.device == "gpu"
    search.close()


def test_no_room_for_one_search_is_no_failure(
    backend: CupyBackend, arrays: Arrays, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, search = case(Metric.COSINE, 2), searcher(backend)
    keep(wanted)
    wanted.search(search)
    arrays.error = MemoryError("out of device memory")
    wanted.check(wanted.search(search))
    assert not backend.degraded
    assert "No room on the GPU (out of device memory)" in caplog.text
    search.close()


def test_a_device_that_fails_its_self_test_is_not_hidden_by_the_host(arrays: Arrays) -> None:
    made = CupyBackend(NumpyBackend(), arrays, 1 << 20)
    arrays.error = Driver("no kernel image")
    with pytest.raises(Driver):
        self_test(made)


def test_a_device_that_multiplies_wrongly_is_found(arrays: Arrays) -> None:
    """Ten bits of mantissa, as TF32 has, are not float32."""

    class Tensor(CupyBackend):
        def _scores(self, *arguments: Any) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = super()._scores(*arguments)
            bits = scores.view(np.int32) & np.int32(~0x1FFF)
            return bits.view(np.float32)

    made = Tensor(NumpyBackend(), arrays, 1 << 20)
    assert "codes: " in (self_test(made) or "")

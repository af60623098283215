"""Choosing a backend: self-test, visible fall-back, clear start-up errors."""

from __future__ import annotations

import logging
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nearql.engine.backends import choose_backend, probe, probe_backends
from nearql.engine.backends.base import Block, Candidates
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.backends.selftest import self_test
from nearql.engine.codes import Tile
from nearql.engine.errors import InvalidValue, Unavailable
from nearql.engine.settings import EngineSettings
from nearql.engine.team import Team
from nearql.engine.types import Metric
from support.search_cases import BACKENDS, make_backend

FAISS_MODULE = "nearql.engine.backends.faiss_cpu"


class Forgetful(NumpyBackend):
    """Never names the first row that it should."""

    def contenders(
        self, block: Block, query: NDArray[np.float32], metric: Metric, **limits: Any
    ) -> NDArray[np.int64]:
        return super().contenders(block, query, metric, **limits)[1:]


class Boastful(NumpyBackend):
    """Claims a floor that does not hold."""

    def nearest(
        self, block: Block, queries: NDArray[np.float32], metric: Metric, k: int, *, team: Team
    ) -> Candidates:
        found = super().nearest(block, queries, metric, k, team=team)
        return Candidates(found.positions[:, :3], found.floor)


class Maskless(NumpyBackend):
    """Names rows that the filter excludes."""

    def contenders(
        self, block: Block, query: NDArray[np.float32], metric: Metric, **limits: Any
    ) -> NDArray[np.int64]:
        del query, metric, limits
        return np.arange(len(block.vectors))


def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `import faiss` raise as where it isn't installed."""
    monkeypatch.delitem(sys.modules, FAISS_MODULE, raising=False)
    monkeypatch.setitem(sys.modules, "faiss", None)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_passes_its_self_test(name: str) -> None:
    assert self_test(make_backend(name)) is None


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (Forgetful(), "was not named"),
        (Boastful(), "lies below the floor"),
        (Maskless(), "doesn't match the filter"),
    ],
)
def test_the_self_test_finds_a_broken_promise(backend: NumpyBackend, words: str) -> None:
    assert words in (self_test(backend) or "")


def test_the_self_test_tries_codes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of FAISS whose codes are off by more than it says never answers anyone."""
    backend: Any = make_backend("faiss_cpu")
    right = backend.encode

    def wrong(*arguments: Any) -> Tile:
        tile: Tile = right(*arguments)
        faiss = pytest.importorskip("faiss")
        faiss.copy_array_to_vector(np.array([-1, 0.1], np.float32), tile.index.sq.trained)
        return tile

    monkeypatch.setattr(backend, "encode", wrong)
    assert "codes: row" in (self_test(backend) or "")


def test_auto_takes_faiss_where_it_works() -> None:
    pytest.importorskip("faiss", reason="FAISS isn't installed")
    backend, report = probe_backends(EngineSettings())
    assert backend.name == report.chosen == "faiss_cpu"
    assert [(check.name, check.usable) for check in report.checks] == [
        ("numpy", True),
        ("faiss_cpu", True),
        ("cupy", False),
    ]
    assert "FAISS" in report.reason


def test_numpy_is_taken_when_asked_for() -> None:
    backend, report = probe_backends(EngineSettings(backend="numpy"))
    assert backend.name == "numpy"
    assert report.reason == "as set by engine.backend"
    assert report.device == "cpu"


def test_without_faiss_auto_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_faiss(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert choose_backend(EngineSettings()).name == "numpy"
    assert "fall back to numpy" in caplog.text
    report = probe_backends(EngineSettings())[1]
    assert not report.checks[1].usable
    assert "isn't installed" in report.reason


def test_without_faiss_asking_for_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without_faiss(monkeypatch)
    with pytest.raises(Unavailable, match=r"faiss_cpu, but .*nearql\[server\]") as caught:
        choose_backend(EngineSettings(backend="faiss_cpu"))
    assert caught.value.code == "backend_unavailable"


def test_a_wheel_that_breaks_at_import_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU wheels without their libraries raise RuntimeError at import."""

    def broken() -> NumpyBackend:
        raise RuntimeError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(probe, "_faiss_cpu", broken)
    backend, report = probe_backends(EngineSettings())
    assert backend.name == "numpy"
    assert "failed to load (RuntimeError: libcudart" in report.reason


def test_a_failed_self_test_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_faiss_cpu", Forgetful)
    backend, report = probe_backends(EngineSettings())
    assert type(backend) is NumpyBackend
    assert "failed its self-test" in report.reason
    assert any("fall back" in warning for warning in report.warnings)
    with pytest.raises(Unavailable, match="failed its self-test"):
        choose_backend(EngineSettings(backend="faiss_cpu"))


def test_wrong_numpy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "NumpyBackend", Forgetful)
    with pytest.raises(Unavailable, match="NumPy gives wrong results"):
        choose_backend(EngineSettings())


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """NumPy where CuPy would be, with one device of 1 GiB."""
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, memGetInfo=lambda: (1 << 30, 1 << 30))
    device = SimpleNamespace(
        **{name: getattr(np, name) for name in dir(np) if not name.startswith("__")},
        cuda=SimpleNamespace(runtime=runtime), __version__="14.2.0", __spec__=object(),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", device)
    return device


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_a_gpu_that_works_is_taken(cupy: Any, device: str) -> None:
    del cupy
    backend, report = probe_backends(EngineSettings(device=device, gpu_memory_share=0.5))
    assert (backend.name, backend.device, report.device) == ("cupy", "gpu", "gpu")
    assert report.reason == "a GPU by CuPy 14.2.0"
    assert backend.tiling.limit == int(0.9 * (1 << 29))
    limited = EngineSettings(device=device, gpu_memory_bytes=10_000)
    assert choose_backend(limited).tiling.limit == 9_000


def test_a_gpu_is_left_alone_where_the_cpu_is_asked_for(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = pytest.fail
    assert choose_backend(EngineSettings(device="cpu")).device == "cpu"


def test_a_gpu_that_is_asked_for_is_an_error() -> None:
    with pytest.raises(
        Unavailable, match=r"device is gpu, but cupy isn't installed .* auto or cpu"
    ):
        choose_backend(EngineSettings(device="gpu"))


@pytest.mark.parametrize("device", ["auto", "gpu"])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"getDeviceCount": lambda: 0}, "CuPy finds no GPU"),
        ({"getDeviceCount": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_gpu_that_does_not_work_is_told(
    cupy: Any, caplog: pytest.LogCaptureFixture, device: str, broken: dict[str, Any], words: str
) -> None:
    """`auto` falls back with a warning, `gpu` refuses."""
    vars(cupy.cuda.runtime).update(broken)
    if device == "gpu":
        with pytest.raises(Unavailable, match=words):
            choose_backend(EngineSettings(device="gpu"))
        return
    assert choose_backend(EngineSettings()).device == "cpu"
    assert "Searches fall back to the CPU: " in caplog.text
    assert words in caplog.text


def test_products_of_ten_bits_are_refused(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del cupy
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(Unavailable, match="CUPY_TF32 is set"):
        choose_backend(EngineSettings(device="gpu"))


def test_a_gpu_with_wrong_results_is_refused(cupy: Any) -> None:
    cupy.concatenate = lambda arrays, **axis: np.concatenate(arrays, **axis)[::-1]
    with pytest.raises(Unavailable, match=r"device is gpu, but cupy failed"):
        choose_backend(EngineSettings(device="gpu"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"backend": "faiss"}, "Did you mean faiss_cpu"),
        ({"backend": "x"}, "choose one of auto, numpy, faiss_cpu"),
        ({"device": "gpus"}, "engine.device can't be 'gpus'.*Did you mean gpu"),
    ],
)
def test_unknown_settings_name_the_nearest(changed: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        choose_backend(EngineSettings(**changed))  # type: ignore[arg-type]


def test_two_faiss_distributions_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"faiss-cpu", "faiss-gpu"}

    def distribution(name: str) -> object:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(metadata, "distribution", distribution)
    warnings = probe_backends(EngineSettings())[1].warnings
    assert any("faiss-cpu, faiss-gpu" in warning for warning in warnings)
    installed.remove("faiss-gpu")
    assert probe_backends(EngineSettings(backend="numpy"))[1].warnings == ()

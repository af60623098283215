"""Chooses the backend at start and remembers why, for the log and for `nearql doctor`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec

from nearql.engine.backends.base import Backend
from nearql.engine.backends.cupy import CupyBackend, open_device
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.backends.selftest import self_test
from nearql.engine.errors import InvalidValue, Unavailable
from nearql.engine.settings import EngineSettings

_log = logging.getLogger("nearql.engine.backends")
_DEVICES = ("auto", "cpu", "gpu")
_BACKENDS = ("auto", "numpy", "faiss_cpu")
# Looked up by name: to read every installed package's metadata takes a tenth of a second.
_FAISS_DISTRIBUTIONS = (
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cu11",
    "faiss-gpu-cu12",
    "faiss-gpu-cuvs",
)


@dataclass(frozen=True, slots=True)
class BackendCheck:
    """What was found out about one backend. detail: its version, or why it can't be used."""

    name: str
    usable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The choice and what led to it. warnings: what an operator should put right."""

    chosen: str
    device: str
    reason: str
    checks: tuple[BackendCheck, ...]
    warnings: tuple[str, ...]


def choose_backend(settings: EngineSettings) -> Backend:
    """The backend that the settings and this machine allow; a fall-back is logged with its reason.

    Raises:
        InvalidValue: the setting `device` or `backend` has no such value.
        Unavailable: code `backend_unavailable`; what was asked for by name can't be used here.
    """
    backend, report = probe_backends(settings)
    for warning in report.warnings:
        _log.warning("%s", warning)
    _log.info("Searches run on %s (%s).", report.chosen, report.reason)
    return backend


def probe_backends(settings: EngineSettings) -> tuple[Backend, ProbeReport]:
    """Try every backend, with its self-test, and choose. Raises as `choose_backend`."""
    _check_setting("device", settings.device, _DEVICES)
    _check_setting("backend", settings.backend, _BACKENDS)
    numpy_backend, numpy_check = _try("numpy", NumpyBackend)
    if numpy_backend is None:
        raise Unavailable(
            f"NumPy gives wrong results on this machine ({numpy_check.detail}); reinstall numpy.",
            code="backend_unavailable",
        )
    faiss_backend, faiss_check = _try("faiss_cpu", _faiss_cpu)
    warnings = _distribution_warnings()
    backend: Backend = numpy_backend
    if settings.backend == "numpy":
        reason = "as set by engine.backend"
    elif faiss_backend is not None:
        backend, reason = faiss_backend, f"FAISS {faiss_check.detail}"
    elif settings.backend == "faiss_cpu":
        raise _unavailable(f"engine.backend is faiss_cpu, but {faiss_check.detail}.", "numpy")
    else:
        reason = faiss_check.detail
        warnings.append(f"Searches fall back to numpy: {reason}.")
    device_backend, device_check = _try_device(settings, backend)
    if device_backend is not None:
        backend, reason = device_backend, f"a GPU by CuPy {device_check.detail}"
    elif settings.device == "gpu":
        raise _unavailable(f"engine.device is gpu, but {device_check.detail}.", "cpu", "gpu")
    elif settings.device == "auto" and find_spec("cupy") is not None:
        warnings.append(f"Searches fall back to the CPU: {device_check.detail}.")
    checks = (numpy_check, faiss_check, device_check)
    return backend, ProbeReport(backend.name, backend.device, reason, checks, tuple(warnings))


def _check_setting(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InvalidValue(
            f"engine.{name} can't be {value!r}; choose one of {', '.join(choices)}.{hint}"
        )


def _try_device(settings: EngineSettings, host: Backend) -> tuple[Backend | None, BackendCheck]:
    """The GPU's backend, if one works and may be used."""
    if settings.device == "cpu":
        return None, BackendCheck("cupy", False, "not tried: engine.device is cpu")
    opened = partial(open_device, host, settings.gpu_memory_share, settings.gpu_memory_bytes)
    backend, check = _try("cupy", opened)
    if isinstance(backend, CupyBackend):
        backend.trust()
    return backend, check


def _unavailable(detail: str, instead: str, extra: str = "server") -> Unavailable:
    remedy = (
        f"Set it to auto or {instead}, or install what is missing: pip install 'nearql[{extra}]'."
    )
    return Unavailable(f"{detail} {remedy}", code="backend_unavailable")


def _faiss_cpu() -> Backend:
    from nearql.engine.backends.faiss_cpu import FaissCpuBackend

    return FaissCpuBackend()


def _try(name: str, make: Callable[[], Backend]) -> tuple[Backend | None, BackendCheck]:
    """A backend that passed its self-test, or None, and what was found out."""
    try:
        backend = make()
        problem = self_test(backend)
    except Exception as error:  # noqa: BLE001 - broken GPU wheels raise anything at import
        problem = f"{type(error).__name__}: {error}"
        kind = "isn't installed" if isinstance(error, ModuleNotFoundError) else "failed to load"
        return None, BackendCheck(name, False, f"{name} {kind} ({problem})")
    if problem:
        return None, BackendCheck(name, False, f"{name} failed its self-test ({problem})")
    return backend, BackendCheck(name, True, _version(name))


def _version(name: str) -> str:
    module = __import__(name.partition("_")[0])
    return str(module.__version__)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _distribution_warnings() -> list[str]:
    found = [name for name in _FAISS_DISTRIBUTIONS if _is_installed(name)]
    if len(found) < 2:
        return []
    problem = f"Several FAISS distributions overwrite each other's files: {', '.join(found)}."
    remedy = "Uninstall all of them, then install one of nearql[server], [gpu] and [gpu-cuvs]."
    return [f"{problem} {remedy}"]

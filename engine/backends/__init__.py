"""One file per device path; `numpy` is the specification, the others must agree with it."""

from __future__ import annotations

from nearql.engine.backends.base import Backend
from nearql.engine.backends.numpy import NumpyBackend
from nearql.engine.settings import EngineSettings


def choose_backend(settings: EngineSettings) -> Backend:
    """The backend that the settings and this machine allow."""
    del settings
    return NumpyBackend()

"""One file per device path; `numpy` is the specification, the others must agree with it."""

from nearql.engine.backends.base import Backend
from nearql.engine.backends.probe import (
    BackendCheck,
    ProbeReport,
    choose_backend,
    probe_backends,
)

__all__ = ["Backend", "BackendCheck", "ProbeReport", "choose_backend", "probe_backends"]

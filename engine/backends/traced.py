"""A backend whose calls are spans: one `device` span for each time the device is asked."""

from __future__ import annotations

from typing import Any

from nearql.engine import spans
from nearql.engine.backends.base import Backend

_ASKED = ("nearest", "contenders")


def traced(backend: Backend) -> Backend:
    """The backend itself where nobody looks at spans."""
    return backend if spans.tracer is None else _Traced(backend)


class _Traced:
    """Everything else is the backend's own."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name not in _ASKED:
            return found

        def asked(block: Any, *arguments: Any, **more: Any) -> Any:
            with spans.span(
                "device", device=self._backend.device, backend=self._backend.name,
                call=name, rows=block.count,
            ):  # fmt: skip
                return found(block, *arguments, **more)

        return asked

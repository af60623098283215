"""The threads of NumPy's BLAS.

OpenBLAS cuts every large product over its own threads, which wait for each other and, for tens of
milliseconds afterwards, spin. On a busy machine that costs more than it brings (64 queries over
62,816 x 384, load 4 on 2 cores: 116 ms on its 2 threads, 32 ms on one). A process that is NearQL's
own therefore gives BLAS one thread, and batches are cut over the search team instead; in somebody
else's process BLAS stays as it is, and batches are left to it whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np


def blas_threads() -> int | None:
    """Threads that NumPy's BLAS uses now, or None where it doesn't say."""
    function = _function("get_num_threads")
    return None if function is None else int(function())


def use_one_blas_thread() -> bool:
    """Give NumPy's BLAS one thread in this whole process; whether that was possible."""
    function = _function("set_num_threads")
    if function is not None:
        function(1)
    return blas_threads() == 1


@cache
def _function(name: str) -> Any:
    """A function of the OpenBLAS that NumPy is linked with, whatever its build calls it."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
    found = (getattr(library, symbol, None) for symbol in _symbols(name))
    return next(filter(None, found), None)


def _symbols(name: str) -> Iterator[str]:
    for prefix in ("scipy_", ""):
        for suffix in ("64_", "_64", ""):
            yield f"{prefix}openblas_{name}{suffix}"

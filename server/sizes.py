"""Sizes as people write them, and how much memory this process may use."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*$", re.IGNORECASE)
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1.5g`, `4096`; units are powers of 1024. Raises ValueError."""
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"{text!r} is no size; write it like 64MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def resolve_memory(text: str) -> int:
    """Bytes of `8GiB`, or of `80%` of what `available_memory` says. Raises ValueError."""
    if text.strip().endswith("%"):
        share = float(text.strip()[:-1])
        if not 0 < share <= 100:
            raise ValueError(f"{text!r} must be above 0% and at most 100%")
        return int(available_memory() * share / 100)
    return parse_size(text)


def available_memory() -> int:
    """Bytes: the cgroup's limit where there is one (version 1 or 2), else the machine's."""
    machine = int(psutil.virtual_memory().total)
    for path in _CGROUP_LIMITS:
        if path.is_file():
            text = path.read_text().strip()
            if text.isdigit():
                machine = min(machine, int(text))
    return machine

"""Sizes as people write them, and how much memory this process may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*$", re.IGNORECASE)
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1.5g`, `4096`; units are powers of 1024. Raises ValueError."""
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"{text!r} is no size; write it like 64MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_share(text: str) -> float | None:
    """0.8 of `80%`; None where the text is no percentage. Raises ValueError."""
    if not text.strip().endswith("%"):
        return None
    share = float(text.strip()[:-1])
    if not 0 < share <= 100:
        raise ValueError(f"{text!r} must be above 0% and at most 100%")
    return share / 100


def resolve_memory(text: str) -> int:
    """Bytes of `8GiB`, or of `80%` of what `available_memory` says. Raises ValueError."""
    share = parse_share(text)
    return parse_size(text) if share is None else int(available_memory() * share)


def available_memory() -> int:
    """Bytes: the lowest limit of the process's cgroups (version 1 or 2) and those above them, or
    the machine's memory where that is less.
    """
    limits = [int(psutil.virtual_memory().total)]
    for path in _limit_files():
        try:
            text = path.read_text().strip()
        except OSError:  # a container sees its own group at the top, and others not at all
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _limit_files() -> Iterator[Path]:
    """Where limits of this process may stand.

    `/proc/self/cgroup` has lines `id:controllers:path`; version 2 is `0::path`. In a container the
    path may be the host's, while the files are at the top of what is mounted.
    """
    yield _CGROUPS / "memory.max"
    yield _CGROUPS / "memory" / "memory.limit_in_bytes"
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            for top in (_CGROUPS, _CGROUPS / "unified"):
                yield from _upwards(top, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(_CGROUPS / "memory", group, "memory.limit_in_bytes")


def _upwards(top: Path, group: str, name: str) -> Iterator[Path]:
    inner = Path(group.lstrip("/"))
    for level in (inner, *inner.parents):
        if ".." not in level.parts:  # above what this process is shown
            yield top / level / name

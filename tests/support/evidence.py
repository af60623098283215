"""Clean schedules of a simulator, as a file that adds up: seeds, figures, and hashes of the code.

A run of the very code that ran last goes on behind its last seed and lengthens its entry; a change
of the code begins a new one. So what stands there can be repeated, and nobody counts a seed twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Evidence:
    """file: JSON, a list of entries, the newest last. code: patterns of files by part."""

    file: Path
    code: Mapping[str, tuple[str, ...]]

    def hashes(self) -> dict[str, str]:
        """Of the parts of the code as they are now."""
        return {part: _hash(patterns) for part, patterns in self.code.items()}

    def entries(self) -> list[dict[str, Any]]:
        """What was recorded."""
        found: list[dict[str, Any]] = (
            json.loads(self.file.read_text()) if self.file.exists() else []
        )
        return found

    def next_seed(self) -> int:
        """Behind the last recorded one of this very code."""
        mine = [entry for entry in self.entries() if self._is_of_this_code(entry)]
        return max((entry["first_seed"] + entry["schedules"] for entry in mine), default=0)

    def total(self, *parts: str) -> int:
        """Schedules of the present code, by these parts of it alone or by all."""
        now = {name: value for name, value in self.hashes().items() if name in (parts or self.code)}
        return sum(
            entry["schedules"]
            for entry in self.entries()
            if all(entry[name] == value for name, value in now.items())
        )

    def add(self, first: int, schedules: int, seconds: float, counts: Counter[str]) -> None:
        """Add a clean run, or lengthen the last one of this code."""
        entries = self.entries()
        last = entries[-1] if entries and self._is_of_this_code(entries[-1]) else None
        if last and last["first_seed"] + last["schedules"] == first:
            last["schedules"] += schedules
            last["seconds"] = round(last["seconds"] + seconds, 1)
            last["counts"] = dict(sorted((Counter(last["counts"]) + counts).items()))
        else:
            new = {"first_seed": first, "schedules": schedules, "seconds": seconds}
            entries.append({**self.hashes(), **new, "counts": dict(sorted(counts.items()))})
        self.file.write_text(json.dumps(entries, indent=1) + "\n")

    def _is_of_this_code(self, entry: Mapping[str, Any]) -> bool:
        return all(entry[name] == value for name, value in self.hashes().items())


def _hash(patterns: tuple[str, ...]) -> str:
    """Of the files' names and bytes."""
    found = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]

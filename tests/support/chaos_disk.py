"""What a test does to the disk of a real node: through `faulty_node` while it runs, and by hand on
its files while it does not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

FAULTY_NODE = Path(__file__).with_name("faulty_node.py")
SECTOR = 512


class FaultyDisk:
    """One node's: `folder` is that of its `faulty_node`, `data` its data directory."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        folder.mkdir(parents=True, exist_ok=True)

    def set(self, name: str, value: object) -> None:
        """Let something go wrong, or (None) be well again."""
        path = self.folder / name
        if value is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_suffix(".new")
        new.write_text(str(value))
        new.replace(path)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        for name in ("eio", "slow", "clock", "die"):
            self.set(name, None)

    def lose_power(self, chance: random.Random) -> int:
        """After a kill: of what was written and not synced, each sector is there or not; so a
        record may be torn anywhere. How many writes were taken back, at least in part.
        """
        odds, undone = chance.choice((0.0, 0.3, 0.7)), 0
        for note in sorted((self.folder / "undo").iterdir(), reverse=True):
            head, found, before = note.read_bytes().partition(b"\n")
            if found and Path(json.loads(head)["path"]).exists():
                undone += _take_back(json.loads(head), before, lambda: chance.random() < odds)
            note.unlink()
        return undone

    def damage(self, chance: random.Random) -> str:
        """While it is down: a bit flips in a file of a copy, or the file is shorter, or gone; what
        was done.
        """
        files = [
            path
            for path in sorted((self.data / "tables").rglob("*"))
            if path.is_file() and path.suffix not in (".hint", ".tmp") and path.stat().st_size
        ]
        path = chance.choice(files)
        used = len(path.read_bytes().rstrip(b"\0"))
        what = chance.choice(("flip", "flip", "flip", "cut", "delete"))
        if what == "delete":
            path.unlink()
        else:
            place = chance.randrange(max(used, 1))
            with path.open("r+b") as file:
                if what == "cut":
                    file.truncate(place)
                else:
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        return f"{what} {path.name}"


def _take_back(head: dict[str, int | str], before: bytes, stays: Callable[[], bool]) -> bool:
    """Put back what stood there before a write, sector by sector; whether any was."""
    offset, size, length = int(head["offset"]), int(head["size"]), int(head["file"])
    before = before.ljust(size, b"\0")
    undone = False
    with Path(str(head["path"])).open("r+b") as file:
        start = offset
        while start < offset + size:
            end = min(start - start % SECTOR + SECTOR, offset + size)
            if not stays():
                file.seek(start)
                file.write(before[start - offset : end - offset])
                undone = True
            start = end
        if undone and offset >= length and not stays():
            file.truncate(max(length, offset))
    return undone

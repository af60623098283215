"""Where the command line keeps what it remembers: history, unfinished loads, the demo's data."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """A directory of this user only (XDG_STATE_HOME, else ~/.local/state), made if missing."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    directory = Path(home) / "nearql"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory

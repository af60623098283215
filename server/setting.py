"""How a section of the configuration declares a setting."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def key(default: Any, help_text: str, **metadata: Any) -> Any:
    """A setting: its default and one line of help, which docs/configuration.md repeats.

    metadata: `low` and `high` of a number, `size=True` for bytes like 64MiB, `path=True` for a
    file, which counts from the folder of the configuration file that names it.
    """
    return field(default=default, metadata={"help": help_text, **metadata})

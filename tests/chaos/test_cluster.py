"""A minute of faults on three real processes; `python3 dev.py chaos` runs as many as one likes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos
RUNNER = Path(__file__).with_name("cluster.py")


def test_what_was_acknowledged_survives_kills_and_pauses() -> None:
    command = [sys.executable, str(RUNNER), "--seed", "7", "--seconds", "20", "--no-cuts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["problems"] == []
    assert line["acknowledged"] > 0

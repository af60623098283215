"""Short runs of faults on three real processes; `python3 dev.py chaos` makes as many as wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos
RUNNER = Path(__file__).with_name("cluster.py")
RUNS = {
    "kill,kill_primary,kill_leader,kill_all,kill_sidecar,stop,pause,pause_primary": 15,
    "power_primary,sync_fails,power_all,clock_jump": 8,
    "damage,wipe": 4,
}


@pytest.mark.parametrize("faults", RUNS)
def test_what_was_acknowledged_survives(faults: str) -> None:
    options = ["--seed", "7", "--seconds", str(RUNS[faults]), "--no-cuts", "--faults", faults]
    done = subprocess.run(
        [sys.executable, str(RUNNER), *options],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["problems"] == []
    assert line["acknowledged"] > 0

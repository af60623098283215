"""A soak of a minute and a half; `python3 dev.py soak` makes one of two hours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
RUNNER = Path(__file__).with_name("soak.py")
SHORT = ["--seconds", "90", "--period", "12", "--warm-up", "15", "--life", "20"]
SHORT += ["--slack", "6"]  # threads and caches of processes that have just been started


def test_work_goes_on_through_faults_and_nothing_grows() -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER), "--seed", "5", *SHORT],
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["problems"] == []
    assert len(line["faults"]) >= 4
    assert line["lives"]
    work = line["work"]
    for what in ("docs done", "searches", "searches with a filter", "joins", "backups done"):
        assert work[what] > 0, (what, work)
    assert work["changes of tables done"] > 0
    assert line["acknowledged"] > 100

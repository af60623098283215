"""Writing processes are killed at random; every record that one of them announced is there once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nearql.engine.storage.files import LocalFileSystem
from support.logs import SETTINGS, open_wal

WRITER = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from nearql.engine.settings import EngineSettings
from nearql.engine.storage.wal import LogIdentity, RecordKind, Wal

settings = replace(EngineSettings(), wal_file_bytes=1 << 16, disk_reserve_bytes=0)
wal = Wal.open(Path(sys.argv[1]), LogIdentity(b"c" * 16, b"s" * 16, b"a" * 16), settings)

def write(writer):
    number = 0
    while True:
        number += 1
        text = b"%s/%d/%d" % (sys.argv[2].encode(), writer, number)
        payload = [text, b" ", bytes(number * 997 % 3000)]
        lsn = wal.append(RecordKind.BATCH, payload, epoch=1, timestamp_ms=1)
        wal.wait_durable(lsn)
        sys.stdout.buffer.write(b"%d %s\\n" % (lsn, text))
        sys.stdout.buffer.flush()

for writer in range(4):
    threading.Thread(target=write, args=(writer,)).start()
"""


def run_and_kill(directory: Path, name: int, acks: int) -> dict[int, bytes]:
    """Let a writer announce about so many records; what it announced, by LSN."""
    command = [sys.executable, "-c", WRITER, str(directory), str(name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acks)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    announced = (line.split() for line in lines if line.endswith(b"\n"))
    return {int(lsn): text for lsn, text in announced}


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.chaos)])
@pytest.mark.timeout(900)
def test_what_was_announced_survives_kill_9(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    announced: dict[int, bytes] = {}
    for number in range(rounds):
        fresh = run_and_kill(tmp_path / "wal", number, chance.randint(1, 400))
        assert not fresh.keys() & announced.keys()
        announced |= fresh
        wal = open_wal(LocalFileSystem(), tmp_path / "wal", settings=SETTINGS)
        found = {record.lsn: bytes(record.payload) for record in wal.read(1)}
        assert list(found) == list(range(1, wal.last_lsn + 1))
        assert len({payload.split(b" ")[0] for payload in found.values()}) == len(found)
        for lsn, text in announced.items():
            assert found[lsn].split(b" ")[0] == text
        if chance.random() < 0.5:
            wal.close()

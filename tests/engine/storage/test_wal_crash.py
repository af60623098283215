"""The log on a disk that loses power or a process at any step: what was acknowledged is there."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearql.engine.storage.wal import Wal
from support.disks import PowerLoss, SimulatedDisk
from support.logs import SETTINGS, ManualFlusher, flush, open_wal, put

SMALL = replace(SETTINGS, wal_file_bytes=4096, wal_group_bytes=2000)


@dataclass
class Model:
    """What a log must hold: a prefix of `appended` that includes all up to `acked`."""

    appended: list[bytes] = field(default_factory=list)  # LSN 1 first
    acked: int = 0
    trimmed_below: int = 1

    def note(self, wal: Wal) -> None:
        assert wal.durable_lsn >= self.acked
        self.acked = wal.durable_lsn

    def check(self, wal: Wal) -> None:
        """Compare after a restart, and take its outcome for what was appended."""
        assert wal.last_lsn == wal.durable_lsn
        assert self.acked <= wal.last_lsn <= len(self.appended)
        assert wal.first_lsn <= max(self.trimmed_below, 1)
        del self.appended[wal.last_lsn :]
        self.acked = wal.last_lsn
        self.check_records(wal)

    def check_records(self, wal: Wal) -> None:
        start = wal.first_lsn
        records = list(wal.read(start))
        assert [record.lsn for record in records] == list(range(start, self.acked + 1))
        found = [bytes(record.payload) for record in records]
        assert found == self.appended[start - 1 : self.acked]


def work(wal: Wal, model: Model, chance: random.Random) -> None:
    """Some writing, with everything that a log does beside it."""
    for _ in range(chance.randint(1, 12)):
        for _ in range(chance.randint(1, 5)):
            payload = chance.randbytes(chance.choice((0, 3, 50, 600, 3000)))
            model.appended.append(payload)
            assert put(wal, payload) == len(model.appended)
            model.note(wal)
        action = chance.random()
        if action < 0.7:
            flush(wal)
            model.note(wal)
        if action < 0.2:
            wal.write_hint()
        if action > 0.9:
            below = chance.randint(1, model.acked + 1)
            model.trimmed_below = max(below, model.trimmed_below)
            wal.trim(below)
    if chance.random() < 0.3:
        wal.close()
        model.note(wal)


@pytest.mark.parametrize("power", [True, False], ids=["power loss", "kill"])
@pytest.mark.parametrize("seed", range(150))
def test_a_crash_at_any_step_loses_nothing_acknowledged_and_is_never_taken_for_corruption(
    power: bool, seed: int
) -> None:
    chance = random.Random(seed)
    disk = SimulatedDisk()
    model = Model()
    for _ in range(6):
        disk.crash_at = disk.steps + chance.randint(1, 60)
        disk.torn = None if power else chance
        with suppress(PowerLoss):
            wal = open_wal(disk, settings=SMALL)
            model.check(wal)
            work(wal, model, chance)
        disk = disk.after_power_loss(chance) if power else disk.after_kill()
        wal = open_wal(disk, settings=SMALL)
        model.check(wal)


class LogMachine(RuleBasedStateMachine):
    """A log against a list."""

    @initialize()
    def start(self) -> None:
        self.disk = SimulatedDisk()
        self.model = Model()
        self.wal = open_wal(self.disk, settings=SMALL)

    @rule(payload=st.binary(max_size=3000), count=st.integers(1, 4))
    def append(self, payload: bytes, count: int) -> None:
        for _ in range(count):
            self.model.appended.append(payload)
            put(self.wal, payload[: len(payload) // 2], payload[len(payload) // 2 :])
        self.model.note(self.wal)

    @rule()
    def flush_one_group(self) -> None:
        self.wal.flush_group()
        self.model.note(self.wal)

    @rule()
    def write_hint(self) -> None:
        self.wal.write_hint()

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        below = 1 + int(share * self.model.acked)
        self.model.trimmed_below = max(below, self.model.trimmed_below)
        self.wal.trim(below)

    @rule()
    def close_and_open(self) -> None:
        self.wal.close()
        self.model.note(self.wal)
        assert self.model.acked == len(self.model.appended)
        self.restart()
        assert self.wal.recovery.clean

    @rule()
    def kill_and_open(self) -> None:
        self.disk.after_kill()
        self.restart()

    @rule(seed=st.integers(0, 2**32))
    def lose_power_and_open(self, seed: int) -> None:
        self.disk = self.disk.after_power_loss(random.Random(seed))
        self.restart()

    def restart(self) -> None:
        self.wal = open_wal(self.disk, settings=SMALL)
        self.model.check(self.wal)

    @precondition(lambda self: hasattr(self, "wal"))
    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        self.model.check_records(self.wal)
        assert isinstance(self.wal._flusher, ManualFlusher)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

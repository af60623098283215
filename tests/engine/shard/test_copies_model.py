"""Three copies of a shard under random schedules: writes, cuts, kills, promotions, full syncs.

The protocol between them is a small honest one: an in-sync set that is never smaller than two,
whose members alone are promoted; committed is what all of them have durably; who comes back is
compared with the primary's log, cut where it differs, or given a snapshot. What is under test are
the copies: whatever was committed is in every later log, all of them hold the same in the end, and
that is what the log says. Mutants of the copies' rules show that the schedules would notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from nearql.engine.errors import NotFound, StatementTimeout, Unavailable
from support.copies import HandCopy, fetch
from support.disks import SimulatedDisk
from support.tables import contents

STEPS = 150


class World:
    """See the module. Copies by number; `synced`: those that have joined the primary's log."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.copies = [HandCopy() for _ in range(3)]
        self.isr = {0, 1, 2}
        self.synced: set[int] = set()
        self.primary: int | None = None
        self.epoch = 0
        self.commit = 0
        self.committed: dict[int, int] = {}  # LSN -> epoch
        self.written: dict[tuple[int, int], tuple[list[int], str]] = {}  # (epoch, LSN) -> rows
        self.promote()
        self.heal()
        self.write()  # the schema first
        self.heal()

    # ---- Steps -------------------------------------------------------------------------

    def step(self) -> None:
        """One thing happens."""
        usual: list[Callable[[], None]] = [self.write] * 3 + [self.ship] * 3 + [self.flush] * 3
        usual += [self.agree, self.tell, self.tell, self.apply, self.checkpoint]
        usual += [self.progress] * 2
        rare = [self.kill, self.promote, self.shrink, self.expand, self.expand, self.wipe]
        self.chance.choice(usual if self.chance.random() < 0.9 else rare)()

    def progress(self) -> None:
        """What a healthy cluster does all the time."""
        for _ in range(2):
            for step in (self.ship, self.ship, self.flush, self.flush, self.flush):
                step()
        self.agree()
        for step in (self.tell, self.tell, self.tell, self.apply, self.apply, self.apply):
            step()

    def write(self) -> None:
        """To any copy that takes it: a primary that is none any more may not know."""
        number = self.chance.choice((0, 1, 2, self.primary or 0, self.primary or 0))
        copy = self.copies[number]
        epoch = copy.copy.leads
        size = self.chance.choice((1, 1, 2, 5, 150))
        rows = self.chance.sample(range(200), size)
        title = f"{self.chance.random()}"
        try:
            lsn = copy.log(rows, title).extra["lsn"]
        except (Unavailable, StatementTimeout):
            return
        assert epoch is not None
        self.written[epoch, lsn] = rows, title

    def ship(self) -> None:
        """A replica joins the primary's log, or gets more of it."""
        if self.primary is None:
            return
        source = self.copies[self.primary]
        number = self.chance.choice([n for n in range(3) if n != self.primary])
        target = self.copies[number]
        if number not in self.synced:
            self.join(source, number)
            return
        try:
            records = source.copy.read(target.copy.end.lsn + 1, self.chance.choice((1, 4000)))
        except NotFound:  # trimmed
            self.synced.discard(number)
            return
        appended = target.copy.append(records)
        assert appended.mismatch is None
        assert not appended.gap

    def join(self, source: HandCopy, number: int) -> None:
        target = self.copies[number]
        target.copy.follow()
        target.copy.promise(self.epoch)
        cut = _common(source, target)
        if cut is None or cut + 1 < source.copy.first_lsn:
            fetch(source.copy.export(), target)
        elif cut < target.copy.end.lsn:
            target.copy.truncate(cut)
        self.synced.add(number)

    def flush(self) -> None:
        """A disk has what it was given."""
        self.chance.choice(self.copies).flusher.run()

    def apply(self) -> None:
        """Appliers get to run."""
        self.chance.choice(self.copies).steps.run()

    def agree(self) -> None:
        """The primary finds out what is committed."""
        if self.primary is None or not self.isr <= self.synced | {self.primary}:
            return
        durable = min(self.copies[number].copy.durable_lsn for number in self.isr)
        copy = self.copies[self.primary].copy
        for lsn in range(self.commit + 1, durable + 1):
            place = copy.end_at(lsn)
            assert place is not None
            self.committed[lsn] = place.epoch
        self.commit = max(self.commit, durable)
        copy.advance(durable)

    def tell(self) -> None:
        """A replica hears what is committed."""
        number = self.chance.randrange(3)
        if number in self.synced and self.primary is not None:
            self.copies[number].copy.advance(self.copies[self.primary].copy.commit_lsn)

    def checkpoint(self) -> None:
        """State becomes files, old log goes."""
        copy = self.chance.choice(self.copies)
        copy.steps.run()
        copy.table.checkpoint()

    def kill(self) -> None:
        """A process or a machine dies and comes back."""
        number = self.chance.randrange(3)
        copy = self.copies[number]
        assert isinstance(copy.fs, SimulatedDisk)
        promised = copy.copy.promised_epoch
        dead = self.chance.random() < 0.5
        copy.restart(copy.fs.after_power_loss(self.chance) if dead else None)
        assert copy.copy.promised_epoch == promised
        assert copy.copy.applied_lsn <= self.commit
        self.synced.discard(number)
        if number == self.primary:
            self.primary, self.synced = None, set()

    def promote(self) -> None:
        """A member of the in-sync set leads; the one before may not hear of it yet."""
        number = self.chance.choice(sorted(self.isr))
        self.epoch += 1
        copy = self.copies[number].copy
        copy.follow()
        copy.promise(self.epoch)
        copy.lead(self.epoch)
        self.primary, self.synced = number, set()

    def shrink(self) -> None:
        """A replica is not waited for any more."""
        others = sorted(self.isr - {self.primary})
        if self.primary is not None and len(self.isr) > 2:
            self.isr.discard(self.chance.choice(others))

    def expand(self) -> None:
        """One that has everything is waited for again."""
        for number in sorted(self.synced - self.isr):
            assert self.primary is not None
            start = self.copies[self.primary].copy.epochs[-1][1]
            if self.copies[number].copy.durable_lsn >= max(self.commit, start):
                self.isr.add(number)

    def wipe(self) -> None:
        """A disk outside the in-sync set is replaced."""
        for number in {0, 1, 2} - self.isr:
            self.copies[number] = HandCopy()
            self.synced.discard(number)

    # ---- The end -----------------------------------------------------------------------

    def heal(self) -> None:
        """Everybody gets everything."""
        if self.primary is None:
            self.promote()
        assert self.primary is not None
        primary = self.copies[self.primary]
        primary.flusher.run()
        for number in {0, 1, 2} - {self.primary}:
            self.join(primary, number)
            joined = self.copies[number].copy
            while records := primary.copy.read(joined.end.lsn + 1, 1 << 30):
                assert joined.append(records).mismatch is None
            self.copies[number].flusher.run()
        self.isr = {0, 1, 2}
        self.agree()
        for copy in self.copies:
            copy.copy.advance(self.commit)
            copy.settle()

    def check(self) -> None:
        """Raise AssertionError where a promise was broken."""
        assert self.primary is not None
        primary = self.copies[self.primary]
        end = primary.copy.end.lsn
        assert [copy.copy.applied_lsn for copy in self.copies] == [end] * 3
        epochs = primary.copy.epochs
        assert all(copy.copy.epochs == epochs for copy in self.copies)
        assert primary.hashes() == self.copies[0].hashes() == self.copies[1].hashes()
        assert primary.hashes() == self.copies[2].hashes()
        rows: dict[int, str] = {}
        for lsn in range(1, end + 1):
            epoch = max(epoch for epoch, start in epochs if start <= lsn)
            assert self.committed.get(lsn, epoch) == epoch, "a committed record is gone"
            for key in self.written.get((epoch, lsn), ([], ""))[0]:
                rows[key] = self.written[epoch, lsn][1]
        for copy in self.copies:
            found = contents(copy.table.read_view())
            assert {key: row["title"] for key, row in found.items()} == rows
            copy.table.check_invariants()


def _common(one: HandCopy, two: HandCopy) -> int | None:
    """The last place that both logs know alike."""
    for lsn in range(min(one.copy.end.lsn, two.copy.end.lsn), two.copy.base_lsn - 1, -1):
        place = one.copy.end_at(lsn)
        if place is None:
            return None
        if place == two.copy.end_at(lsn):
            return lsn
    return None


def run(seed: int, steps: int = STEPS) -> None:
    """One schedule."""
    world = World(seed)
    for _ in range(steps):
        world.step()
    world.heal()
    world.check()


@pytest.mark.parametrize("seed", range(24))
def test_copies_agree_and_lose_nothing_committed(seed: int) -> None:
    run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_copies_agree_under_many_schedules(block: int) -> None:
    for seed in range(100 + block * 30, 130 + block * 30):
        run(seed, 400)

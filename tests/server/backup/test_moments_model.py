"""Random lives of a node that archives, against a model of what was there at each moment.

Tables are made, written, altered, renamed, dropped; the repository goes away and comes back; the
node is restarted, and killed. Every moment comes back exactly as the model has it, or is refused by
name; and refused is none that was in the archive while the node lived.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nearql.engine.errors import NotFound
from nearql.server.node import Node
from support.archives import archiving, moment, shipped
from support.backups import backup, repository, restore, run, running, seal

STEPS = 28
REFUSALS = {"archive_gap", "archive_ends"}

Contents = dict[str, list[dict[str, Any]]]


@dataclass
class Told:
    """A moment. reached: the archive had it while the node lived, so that it must come back."""

    at_ms: int
    tables: Contents
    reached: bool = False


@dataclass
class Life:
    """One node's life, by chance. tables: names -> columns besides the key."""

    directory: Path
    chance: random.Random
    node: Node = field(init=False)
    tables: dict[str, list[str]] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    away: bool = False
    number: int = 0
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.place = repository(self.directory / "copies")
        self._begin()

    def _begin(self) -> None:
        made = archiving(self.directory / "a", self.directory / "copies", engine__wal_file="64KiB")
        self.node = self.stack.enter_context(made)

    def next(self) -> int:
        self.number += 1
        return self.number

    def step(self) -> None:
        """Something happens; then it is noted what there is."""
        deeds = [self.insert] * 6 + [self.update, self.delete] * 2
        deeds += [self.create, self.drop, self.alter, self.rename, self.truncate, self.seal]
        deeds += [self.leave, self.come_back, self.restart, self.kill, self.take, self.look]
        self.chance.choice(deeds)()
        self.told.append(Told(moment(), dict(self.contents())))

    def contents(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for name in self.tables:
            yield name, run(self.node, f"SELECT * FROM {name} ORDER BY id")

    # ---- What happens ----------------------------------------------------------------------

    def _one(self) -> str | None:
        return self.chance.choice(sorted(self.tables)) if self.tables else None

    def create(self) -> None:
        name, shards = f"t{self.next()}", self.chance.randint(1, 2)
        run(self.node, f"CREATE TABLE {name} (id BIGINT PRIMARY KEY) WITH (shards = {shards})")
        self.tables[name] = []
        self.insert()

    def insert(self) -> None:
        if (name := self._one()) is None:
            return self.create()
        count, first = self.chance.randint(1, 40), 100 * self.next()
        more = "".join(f", range + {number}" for number in range(len(self.tables[name])))
        run(
            self.node, f"INSERT INTO {name} SELECT range{more} FROM range({first}, {first + count})"
        )

    def update(self) -> None:
        if (name := self._one()) is not None and self.tables[name]:
            column = self.chance.choice(self.tables[name])
            run(self.node, f"UPDATE {name} SET {column} = {self.next()} WHERE id % 3 = 0")

    def delete(self) -> None:
        if (name := self._one()) is not None:
            run(self.node, f"DELETE FROM {name} WHERE id % 5 = {self.chance.randint(0, 4)}")

    def drop(self) -> None:
        if (name := self._one()) is not None:
            run(self.node, f"DROP TABLE {name}")
            del self.tables[name]

    def alter(self) -> None:
        if (name := self._one()) is None:
            return
        columns = self.tables[name]
        if columns and self.chance.random() < 0.3:
            run(self.node, f"ALTER TABLE {name} DROP COLUMN {columns.pop()}")
        else:
            columns.append(f"c{self.next()}")
            run(self.node, f"ALTER TABLE {name} ADD COLUMN {columns[-1]} BIGINT DEFAULT 7")

    def rename(self) -> None:
        if (name := self._one()) is not None:
            new = f"t{self.next()}"
            run(self.node, f"ALTER TABLE {name} RENAME TO {new}")
            self.tables[new] = self.tables.pop(name)

    def truncate(self) -> None:
        if (name := self._one()) is not None:
            run(self.node, f"TRUNCATE {name}")

    def seal(self) -> None:
        if (name := self._one()) is not None:
            seal(self.node, name)

    def leave(self) -> None:
        if not self.away:
            (self.directory / "copies").rename(self.directory / "away")
            self.away = True

    def come_back(self) -> None:
        if self.away:
            (self.directory / "away").rename(self.directory / "copies")
            self.away = False

    def restart(self) -> None:
        self.stack.close()
        self._begin()

    def kill(self) -> None:
        """Nothing is shipped when it ends."""
        self.node.backups.archiver._try = lambda given_up: None  # type: ignore[method-assign]
        self.restart()

    def take(self) -> None:
        if not self.away:
            backup(self.node, self.place)

    def look(self) -> None:
        """What is there by now must come back, whatever happens from now on."""
        if not self.away:
            shipped(self.node)
            for one in self.told[-1:]:
                one.reached = True

    def end(self) -> None:
        """Behind a backup all is known again, whatever was lost before."""
        self.come_back()
        self.take()
        self.insert()
        self.told.append(Told(moment(), dict(self.contents())))
        self.look()
        self.stack.close()


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 8))]
)
def test_every_moment_comes_back_or_is_refused(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, random.Random(seed))
    try:
        for _ in range(STEPS):
            life.step()
        life.end()
    finally:
        life.stack.close()
    with running(tmp_path / "b") as other:
        for number, one in enumerate(life.told):
            compare(other, life, number, one)


def compare(other: Node, life: Life, number: int, told: Told) -> None:
    """A moment comes back as it was; or it is refused, where that may be."""
    rename = {name: f"m{number}_{name}" for name in told.tables}
    refused, done = "", None
    try:
        done = restore(other, life.place, to_ms=told.at_ms, rename=rename)
    except NotFound as error:
        refused = error.code
    if done is None:
        assert refused in REFUSALS
        assert not told.reached, f"moment {number}: {refused}"
        return
    assert set(done.rows) == set(rename.values())
    for name, rows in told.tables.items():
        assert run(other, f"SELECT * FROM {rename[name]} ORDER BY id") == rows

"""Power is lost at every step of a table's life: what was acknowledged is there, nothing half done.

The whole engine runs in one thread here (`one_thread`): the n-th disk operation is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearql.engine.errors import StorageFull
from nearql.engine.keys import shard_of
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from nearql.engine.types import ROW_COLUMN, Change, OnConflict
from nearql.engine.view import TableView
from support.disks import PowerLoss, SimulatedDisk
from support.tables import SCHEMA, contents, definition, one_thread, row, table_of

DIRECTORY = Path("/data/table")
TINY = EngineSettings(
    seal_rows=8, wal_record_bytes=1024, wal_file_bytes=4096, search_threads=1, disk_reserve_bytes=0
)
Model = dict[int, dict[str, Any]]
MORE = TableSchema(
    (*SCHEMA.columns, Column(4, "extra", ColumnType("INTEGER"), default="5")), 1, version=2
)


def delete(keys: set[int]) -> Callable[[TableView], Change]:
    def evaluate(view: TableView) -> Change:
        rows = view.scan(["id"]).to_pylist()
        gone = [row[ROW_COLUMN] for row in rows if row["id"] in keys]
        return Change(np.array(gone, np.int64), None, deleted=len(gone))

    return evaluate


class Story:
    """A fixed series of statements, checkpoints and a schema change; the model runs along.

    `models[i]` is what the table shows after step i; `acknowledged` is how many steps returned.
    """

    def __init__(self, shards: int) -> None:
        self.definition = definition(shards=shards)
        self.models: list[Model] = [{}]
        self.acknowledged = 0
        self.altered = False

    def run(self, disk: SimulatedDisk) -> None:
        table = Table.create(DIRECTORY, self.definition, one_thread(TINY, disk))
        for step, model in self.steps(table):
            self.models.append(model)
            step()
            self.acknowledged += 1

    def steps(self, table: Table) -> Iterator[tuple[Callable[[], Any], Model]]:
        def put(*keys: int, title: str = "t", schema: TableSchema = SCHEMA) -> Any:
            rows = [row(key, title) | {"extra": 9} for key in keys]
            return lambda: table.insert(table_of(rows, schema), OnConflict.REPLACE)

        def with_rows(model: Model, *keys: int, title: str = "t", **more: Any) -> Model:
            return model | {key: row(key, title) | more for key in keys}

        one = with_rows({}, *range(5))
        yield put(*range(5)), one
        two = with_rows(one, *range(3, 30))  # several records, several segments
        yield put(*range(3, 30)), two
        yield table.checkpoint, two
        three = {key: value for key, value in two.items() if key not in (4, 20)}
        yield lambda: table.modify(delete({4, 20})), three
        four = with_rows(three, 1, 2, 29, title="new")
        yield put(1, 2, 29, title="new"), four
        yield table.checkpoint, four
        five = {key: value | {"extra": 5} for key, value in four.items()}
        yield lambda: self.alter(table), five
        six = with_rows(five, 100, 101, extra=9)
        yield put(100, 101, schema=MORE), six
        yield table.checkpoint, six
        yield table.truncate, {}
        seven = with_rows({}, 7, extra=9)
        yield put(7, schema=MORE), seven
        yield table.checkpoint, seven
        yield table.close, seven

    def alter(self, table: Table) -> None:
        with table.altering(MORE):
            self.altered = True  # metadata has it now, whatever happens
            self.definition = replace(self.definition, schema=MORE)
            table.apply_schema(self.definition)

    def allowed(self, shards: int) -> list[Model]:
        """What a table may show after the crash: each shard is before or after the last step."""
        before = self.models[self.acknowledged]
        after = self.models[min(self.acknowledged + 1, len(self.models) - 1)]
        if self.altered:
            before = {key: {"extra": 5} | value for key, value in before.items()}
        return [_mixed(before, after, bits, shards) for bits in range(2**shards)]


def _mixed(before: Model, after: Model, bits: int, shards: int) -> Model:
    return {
        key: value
        for shard in range(shards)
        for key, value in (after if bits >> shard & 1 else before).items()
        if _shard(key, shards) == shard
    }


def _shard(key: int, shards: int) -> int:
    return int(shard_of(table_of([row(key)])["id"].chunk(0), shards)[0])


def steps_of(shards: int) -> int:
    """Disk operations of an undisturbed story."""
    disk = SimulatedDisk()
    Story(shards).run(disk)
    return disk.steps


def crash(shards: int, at: int, chance: random.Random | None) -> None:
    """Lose power (or, without `chance`, only the process) in the middle of operation `at`."""
    disk, story = SimulatedDisk(crash_at=at), Story(shards)
    with pytest.raises(PowerLoss):
        story.run(disk)
    disk = disk.after_power_loss(chance) if chance else disk.after_kill()
    table = Table.create(DIRECTORY, story.definition, one_thread(TINY, disk))
    table.check_invariants()
    found = contents(table.read_view())
    assert found in story.allowed(shards), f"after {story.acknowledged} steps"
    rows = table_of([row(5000, "later") | {"extra": 1}], story.definition.schema)
    table.insert(rows, OnConflict.ERROR)
    table.checkpoint()
    table.close()
    table = Table.open(DIRECTORY, story.definition, one_thread(TINY, disk))
    expected = row(5000, "later") | ({"extra": 1} if story.altered else {})
    assert contents(table.read_view()) == found | {5000: expected}
    table.check_invariants()
    table.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_a_kill_at_any_step_loses_nothing_acknowledged(shards: int) -> None:
    for at in range(1, steps_of(shards) + 1):
        crash(shards, at, None)


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shards", [1, 2])
def test_a_power_loss_at_any_step_loses_nothing_acknowledged(shards: int, seed: int) -> None:
    chance = random.Random(seed)
    for at in range(1, steps_of(shards) + 1):
        crash(shards, at, chance)


def test_a_full_disk_at_any_allocation_leaves_the_table_usable() -> None:
    """Statements and checkpoints fail with StorageFull, everything else stays, later ones work."""
    disk = SimulatedDisk()
    table = Table.create(DIRECTORY, definition(), one_thread(TINY, disk))
    table.insert(table_of([row(key) for key in range(20)]), OnConflict.ERROR)
    disk.free = 0
    settings = replace(TINY, disk_reserve_bytes=1)
    table.close()
    table = Table.open(DIRECTORY, definition(), one_thread(settings, disk))
    with pytest.raises(StorageFull):
        table.insert(table_of([row(50)]), OnConflict.ERROR)
    assert set(contents(table.read_view())) == set(range(20))
    disk.free = 1 << 30
    table.insert(table_of([row(50)]), OnConflict.ERROR)
    assert set(contents(table.read_view())) == {*range(20), 50}
    table.check_invariants()

"""A table against a dict: random statements, schema changes, checkpoints, restarts, all agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nearql.engine.distance import canonical_distances
from nearql.engine.errors import Conflict
from nearql.engine.schema import Column, ColumnType, TableSchema
from nearql.engine.settings import EngineSettings
from nearql.engine.table import Table
from nearql.engine.types import (
    ROW_COLUMN,
    VECTOR_METRICS,
    Change,
    Metric,
    OnConflict,
    SearchRequest,
)
from nearql.engine.view import TableView
from support.disks import SimulatedDisk
from support.tables import (
    DIMENSIONS,
    contents,
    definition,
    one_thread,
    table_of,
)

DIRECTORY = Path("/data/table")
TINY = EngineSettings(
    seal_rows=8, wal_record_bytes=2048, dedup_entries=4, search_threads=1, disk_reserve_bytes=0
)
KEYS = st.lists(st.integers(-20, 40), max_size=12)
ELEMENTS = st.sampled_from([0.0, 1.0, -2.0, 3.5])
VECTORS = st.none() | st.lists(ELEMENTS, min_size=DIMENSIONS, max_size=DIMENSIONS)
TITLES = st.none() | st.text(max_size=5)
Row = dict[str, Any]


class TableMachine(RuleBasedStateMachine):
    """Rows live in `self.model` by key, as `contents` shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk()
        self.model: dict[int, Row] = {}
        self.held: list[tuple[TableView, dict[int, Row]]] = []
        self.last_request: tuple[bytes, pa.Table, tuple[int, int]] | None = None
        self.requests = 0

    @initialize(shards=st.integers(1, 3))
    def make(self, shards: int) -> None:
        self.context = one_thread(TINY, self.disk)
        self.definition = definition(shards=shards)
        self.table = Table.create(DIRECTORY, self.definition, self.context)

    def teardown(self) -> None:
        if hasattr(self, "table"):
            for view, expected in self.held:
                assert contents(view) == expected
            self.table.close()

    # ---- Statements ------------------------------------------------------------------------

    def complete(self, key: int, title: str | None, vec: list[float] | None) -> Row:
        """A row of today's schema."""
        given: Row = {"id": key, "title": title, "vec": vec}
        return {c.name: given.get(c.name, 7) for c in self.definition.schema.columns}

    @rule(data=st.data(), keys=KEYS, conflict=st.sampled_from(OnConflict), with_id=st.booleans())
    def insert(
        self, data: st.DataObject, keys: list[int], conflict: OnConflict, with_id: bool
    ) -> None:
        rows = [self.complete(key, data.draw(TITLES), data.draw(VECTORS)) for key in keys]
        table = table_of(rows, self.definition.schema)
        self.requests += 1
        request_id = self.requests.to_bytes(16, "big") if with_id else None
        expected, inserted, skipped, clash = self.expected_insert(rows, conflict)
        if clash is not None:
            with pytest.raises(Conflict) as caught:
                self.table.insert(table, conflict, request_id=request_id)
            assert caught.value.code == "duplicate_key"
            row = caught.value.extra["row"]
            assert keys[row] == caught.value.extra["key"]
            assert keys[row] in self.model or keys[row] in keys[:row]
            return
        outcome = self.table.insert(table, conflict, request_id=request_id)
        self.model = expected
        assert outcome.inserted == inserted
        assert outcome.updated == len(rows) - inserted - len(skipped)
        assert ([] if outcome.skipped is None else outcome.skipped.tolist()) == skipped
        assert not outcome.repeated
        if request_id is not None:
            self.last_request = request_id, table, (outcome.inserted, outcome.updated)

    def expected_insert(
        self, rows: list[Row], conflict: OnConflict
    ) -> tuple[dict[int, Row], int, list[int], int | None]:
        """The model afterwards, rows inserted, positions skipped, a position that clashes."""
        model, inserted, skipped = dict(self.model), 0, []
        for place, row in enumerate(rows):
            known = row["id"] in model
            if known and conflict is OnConflict.ERROR:
                return self.model, 0, [], place
            if known and conflict is OnConflict.NOTHING:
                skipped.append(place)
                continue
            inserted += not known
            model[row["id"]] = row
        return model, inserted, skipped, None

    @precondition(lambda self: self.last_request is not None)
    @rule()
    def repeat_the_last_request(self) -> None:
        """Nothing is done twice, whatever came between (within the few remembered ids)."""
        assert self.last_request is not None
        request_id, table, counts = self.last_request
        if table.schema.names != self.definition.schema.storage_schema().names:
            return
        outcome = self.table.insert(table, OnConflict.NOTHING, request_id=request_id)
        assert table.num_rows == 0 or outcome.repeated
        assert (outcome.inserted, outcome.updated) == counts

    @rule(key=st.integers(-20, 40), title=TITLES)
    def update_up_to(self, key: int, title: str | None) -> None:
        def evaluate(view: TableView) -> Change:
            rows = contents(view)
            put = [row | {"title": title} for row in rows.values() if row["id"] <= key]
            return Change(
                np.empty(0, np.int64), table_of(put, self.definition.schema), updated=len(put)
            )

        outcome = self.table.modify(evaluate)
        changed = {k: row | {"title": title} for k, row in self.model.items() if k <= key}
        self.model |= changed
        assert outcome.updated == len(changed)

    @rule(key=st.integers(-20, 40), shift=st.integers(1, 3))
    def move_keys(self, key: int, shift: int) -> None:
        """An update of the primary key: rows go to other keys, and to other shards."""

        def evaluate(view: TableView) -> Change:
            scanned = view.scan([c.name for c in view.schema.columns]).to_pylist()
            gone = [row.pop(ROW_COLUMN) for row in scanned if row["id"] == key]
            put = [row | {"id": key + 100 * shift} for row in scanned if ROW_COLUMN not in row]
            table = table_of(put, self.definition.schema) if put else None
            return Change(np.array(gone, np.int64), table, updated=len(put))

        self.table.modify(evaluate)
        if key in self.model:
            self.model[key + 100 * shift] = self.model.pop(key) | {"id": key + 100 * shift}

    @rule(keys=KEYS)
    def delete(self, keys: list[int]) -> None:
        def evaluate(view: TableView) -> Change:
            rows = view.scan(["id"]).to_pylist()
            gone = [row[ROW_COLUMN] for row in rows if row["id"] in keys]
            return Change(np.array(gone, np.int64), None, deleted=len(gone))

        outcome = self.table.modify(evaluate)
        gone = [key for key in self.model if key in keys]
        assert outcome.deleted == len(gone)
        for key in gone:
            del self.model[key]

    @rule()
    def truncate(self) -> None:
        assert self.table.truncate().deleted == len(self.model)
        self.model = {}

    # ---- Schema ----------------------------------------------------------------------------

    def alter(self, columns: tuple[Column, ...]) -> None:
        old = self.definition.schema
        schema = TableSchema(columns, old.key_number, version=old.version + 1)
        with self.table.altering(schema):
            self.definition = replace(self.definition, schema=schema)
            self.table.apply_schema(self.definition)

    @precondition(lambda self: len(self.definition.schema.columns) < 6)
    @rule(default=st.sampled_from([None, "5", "'6'", "CAST(7 AS INTEGER)"]))
    def add_column(self, default: str | None) -> None:
        number = 10 + self.definition.schema.version
        column = Column(number, f"c{number}", ColumnType("INTEGER"), default=default)
        self.alter((*self.definition.schema.columns, column))
        value = {None: None, "5": 5, "'6'": 6, "CAST(7 AS INTEGER)": 7}[default]
        self.model = {key: row | {column.name: value} for key, row in self.model.items()}

    @precondition(lambda self: len(self.definition.schema.columns) > 3)
    @rule()
    def drop_column(self) -> None:
        *kept, last = self.definition.schema.columns
        self.alter(tuple(kept))
        for row in self.model.values():
            del row[last.name]

    # ---- Time passes -----------------------------------------------------------------------

    @rule()
    def checkpoint(self) -> None:
        self.table.checkpoint()

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        if clean:
            self.table.close()
        self.context = one_thread(TINY, self.disk)
        self.table = Table.open(DIRECTORY, self.definition, self.context)

    @rule()
    def hold_a_view(self) -> None:
        """A view taken now shows today's rows for ever."""
        if len(self.held) < 4:
            copy = {key: dict(row) for key, row in self.model.items()}
            self.held.append((self.table.read_view(), copy))

    # ---- What must hold --------------------------------------------------------------------

    @invariant()
    def rows_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        self.table.check_invariants()
        view = self.table.read_view()
        assert view.row_count == len(self.model)
        assert contents(view) == self.model

    @rule(data=st.data(), metric=st.sampled_from(VECTOR_METRICS), k=st.integers(1, 8))
    def search(self, data: st.DataObject, metric: Metric, k: int) -> None:
        view = self.table.read_view()
        query = np.array([data.draw(st.lists(ELEMENTS, min_size=3, max_size=3))], np.float32)
        wanted = set(data.draw(KEYS)) if data.draw(st.booleans()) else None
        rows = None
        if wanted is not None:
            found = view.scan(["id"]).to_pylist()
            numbers = [row[ROW_COLUMN] for row in found if row["id"] in wanted]
            rows = view.row_set(np.array(numbers, np.int64))
            assert rows.count == len(numbers)
            assert sorted(view.scan(["id"], rows=rows)["id"].to_pylist()) == sorted(
                key for key in self.model if key in wanted
            )
        hits = view.search(SearchRequest("vec", metric, query, k, rows))
        nearest = self.nearest(query[0], metric, wanted)[:k]
        mine = hits.rows[0][hits.rows[0] >= 0]
        assert view.take(["id"], mine)["id"].to_pylist() == [key for _, key in nearest]
        assert np.array_equal(
            hits.distances[0][: len(nearest)], [d for d, _ in nearest], equal_nan=True
        )

    def nearest(
        self, query: np.ndarray[Any, Any], metric: Metric, wanted: set[int] | None
    ) -> list[tuple[float, int]]:
        rows = [
            row
            for row in self.model.values()
            if row["vec"] is not None and (wanted is None or row["id"] in wanted)
        ]
        if not rows:
            return []
        vectors = np.array([row["vec"] for row in rows], np.float32)
        distances = canonical_distances(vectors, query, metric).tolist()
        pairs = zip(distances, (row["id"] for row in rows), strict=True)
        return sorted(pairs, key=lambda pair: (np.isnan(pair[0]), np.nan_to_num(pair[0]), pair[1]))


TestTableModel = TableMachine.TestCase
TestTableModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_model_for_longer() -> None:
    """The same with more statements and more histories."""
    longer = settings(max_examples=300, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(TableMachine, settings=longer)

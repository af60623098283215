"""NearQL's engine without SQL: searches of one read view, filters bound beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ann.algorithms import Ask, K
from ann.algorithms.nearql import System as Embedded
from ann.datasets import Condition
from nearql.client.sync import connect
from nearql.engine.types import ROW_COLUMN, Metric, RowSet, SearchRequest, Tuning
from nearql.engine.view import TableView
from nearql.server.config import load_config
from nearql.server.embedded import EmbeddedTransport
from nearql.server.node import Node


class System(Embedded):
    """Loaded and indexed by SQL as `nearql`; `effort` is `ef_search`."""

    def connect(self, folder: Path) -> Any:
        """A node in this process, of which the tables are at hand."""
        self._node = Node.open(load_config(flags={"node.data_dir": str(folder)}))
        self._filters: dict[str, RowSet] = {}
        return connect(transport=EmbeddedTransport(self._node))

    def asker(self, effort: Any, condition: Condition) -> Ask:
        """Ids and names are fetched from the view, too."""
        (table,) = self._node.tables()
        view = table.read_view()
        rows = self._rows_of(view, condition)
        tuning = Tuning(ef_search=effort)

        def ask(query: NDArray[np.float32]) -> list[int]:
            request = SearchRequest("vec", Metric.COSINE, query[np.newaxis], K, rows, tuning=tuning)
            found = view.search(request).rows[0]
            taken = view.take(["id", "name"], found[found >= 0])
            taken.column(1).to_pylist()
            return taken.column(0).to_pylist()  # type: ignore[no-any-return]

        return ask

    def _rows_of(self, view: TableView, condition: Condition) -> RowSet | None:
        """Bound once for the view after loading, as a repeated filter is."""
        if not condition.column:
            return None
        if condition.name not in self._filters:
            scanned = view.scan(["id"])
            ids, numbers = (np.asarray(scanned.column(name)) for name in ("id", ROW_COLUMN))
            mask = condition.mask(self._data.columns)
            self._filters[condition.name] = view.row_set(numbers[mask[ids]])
        return self._filters[condition.name]

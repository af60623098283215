"""Full-text scores as columns of a relation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nearql.engine.types import ROW_COLUMN
from nearql.query.plan import Relation, TextScore

if TYPE_CHECKING:
    from nearql.query.executor import Execution


def with_scores(run: Execution, step: Relation, table: pa.Table) -> pa.Table:
    """The table with the relation's scores; it has ROW_COLUMN and the columns that they are of."""
    for score in step.texts:
        table = table.append_column(score.name, _scores(run, step, score, table))
    return table


def _scores(run: Execution, step: Relation, score: TextScore, table: pa.Table) -> pa.Array:
    words = run.text(score.words)
    if words is None:
        return pa.nulls(table.num_rows, pa.float32())
    found, values = run.view(step.table).text_scores(score.column, words)
    rows = table.column(ROW_COLUMN).to_numpy()
    scores = np.zeros(len(rows), np.float32)
    if len(found):
        places = np.minimum(np.searchsorted(found, rows), len(found) - 1)
        scores = np.where(found[places] == rows, values[places], np.float32(0))
    missing = pc.is_null(table.column(score.column)).to_numpy()
    return pa.array(scores, pa.float32(), mask=missing)

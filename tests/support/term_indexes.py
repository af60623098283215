"""A node whose indexes are really built and asked, over the 5,000 packages that ship with us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nearql.engine.index.builder import Builder
from nearql.engine.types import OnConflict
from nearql.server.config import Config, EngineSection, NodeSection
from nearql.server.node import Node
from support.indexed import READING_IS_DEAR, debian_vectors
from support.tables import Inline

DIMENSIONS = 64
LANGUAGES = ("en", "en", "de", None)
Row = tuple[Any, ...]


def opened(directory: Path) -> Node:
    """A node that builds in the thread that asks for it, and for which reading is dear."""
    section = EngineSection(index_min_rows=64, tune_quiet_ms=0, search_threads=1)
    node = Node.open(Config(node=NodeSection(data_dir=directory), engine=section))
    context = node._context
    context.background.submit(lambda: None).result()  # the machine was measured: now it isn't
    context.background.shutdown()
    context.searcher.machine = READING_IS_DEAR
    context.index_builder = Builder(inline=True)
    context.background = Inline(1)
    return node


@contextmanager
def documents(directory: Path, more: str = "") -> Iterator[Node]:
    """A node with `docs (id, lang, size, vec <, more>)` and all packages' vectors."""
    node = opened(directory)
    try:
        columns = f"id BIGINT PRIMARY KEY, lang TEXT, size INT, vec VECTOR({DIMENSIONS}){more}"
        node.session().execute(f"CREATE TABLE docs ({columns})")
        put(node, 0, debian_vectors())
        yield node
    finally:
        node.close()


def put(node: Node, first: int, vectors: NDArray[np.float32]) -> None:
    """Rows with keys from `first` on, new or not; columns beyond the usual ones are NULL."""
    table = node.table(node.catalog().tables["docs"].uuid)
    ids = np.arange(first, first + len(vectors))
    given = {
        "id": pa.array(ids),
        "lang": pa.array([LANGUAGES[at % 4] for at in ids.tolist()]),
        "size": pa.array(ids % 10, pa.int32()),
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSIONS),
    }
    schema = table.definition.schema
    columns = [given.get(c.name, pa.nulls(len(ids), c.type.storage)) for c in schema.columns]
    table.insert(pa.table(columns, names=[c.name for c in schema.columns]), OnConflict.REPLACE)


def answer(node: Node, text: str, **params: Any) -> tuple[list[Row], str]:
    """A statement's rows and how its searches were answered."""
    found = node.session().execute(text, params or None)
    return [tuple(row.values()) for row in found.table.to_pylist()], found.stats["strategy"]


def shared(found: list[Row], exact: list[Row]) -> float:
    """How much of an exact answer of (id, distance) was found; equal distances stand for it."""
    last = exact[-1][1]
    return sum(bool(row[1] <= last) for row in found) / len(exact)

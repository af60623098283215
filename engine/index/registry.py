"""Index kinds by name. Without FAISS there is none: definitions are kept, searches are exact."""

from __future__ import annotations

import importlib
from functools import cache

from nearql.engine.index.base import IndexKind

_MODULES = ("hnsw", "ivfflat", "ivfpq", "ivfrabitq")


@cache
def bit_kinds() -> dict[str, IndexKind]:
    """The kinds that indexes over bit strings can have; none where FAISS can't be imported."""
    if not index_kinds():
        return {}
    return dict(importlib.import_module("nearql.engine.index.binary").KINDS)


@cache
def index_kinds() -> dict[str, IndexKind]:
    """The kinds that can be built on this machine; none where FAISS can't be imported."""
    try:
        importlib.import_module("faiss")
    except Exception:  # noqa: BLE001 - a GPU wheel without its libraries raises RuntimeError
        return {}
    modules = [importlib.import_module(f"nearql.engine.index.{name}") for name in _MODULES]
    return {module.KIND.name: module.KIND for module in modules}

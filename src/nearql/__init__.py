"""NearQL: a vector search engine that people talk to in SQL.

`nearql.connect("http://localhost:8470")` talks to a server, `nearql.connect("./nearql-data")` runs
the engine in this process. Names load on first use, so that `import nearql` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearql._connect import aconnect, connect
    from nearql.client import AsyncConnection, Connection, Result, errors

    __version__: str

__all__ = [
    "AsyncConnection", "Connection", "Result", "__version__", "aconnect", "connect", "errors",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("nearql")
    if name not in __all__:
        raise AttributeError(f"module 'nearql' has no attribute {name!r}")
    if name == "errors":
        return import_module("nearql.client.errors")
    home = "nearql._connect" if name.endswith("connect") else "nearql.client"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""NearQL: a vector search engine that people talk to in SQL.

`nearql.connect("http://localhost:8470")` talks to a server, `nearql.connect("./nearql-data")` runs
the engine in this process. Names load on first use, so that `import nearql` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearql._connect import aconnect, connect

    __version__: str

__all__ = ["__version__", "aconnect", "connect"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("nearql")
    if name in __all__:
        return getattr(import_module("nearql._connect"), name)
    raise AttributeError(f"module 'nearql' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

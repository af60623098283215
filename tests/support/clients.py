"""The blocking and the asyncio client behind one face, so that every test runs on both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import nearql
from nearql.client import Connection

FORMS = ("blocking", "asyncio")


class Awaited:
    """An AsyncConnection whose methods are run to their end on a loop of its own."""

    def __init__(self, target: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._db = self._run(nearql.aconnect(target, **options))
        except BaseException:
            self._loop.close()
            raise

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._db, name)
        if not inspect.ismethod(found):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            answer = found(*args, **kwargs)
            return self._run(answer) if inspect.isawaitable(answer) else answer

        return called

    def _run(self, coming: Any) -> Any:
        return self._loop.run_until_complete(coming)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.close()


Connect = Callable[..., Connection]


def connector(form: str) -> Connect:
    """`nearql.connect`, or its asyncio twin looking like it."""
    return nearql.connect if form == "blocking" else Awaited  # type: ignore[return-value]

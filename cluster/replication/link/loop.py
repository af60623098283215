"""The thread of replication: one event loop, in which its state lives and is changed without locks.

It has no other work, so that heartbeats and leases do not wait behind statements.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def _last_turns() -> None:
    """What was aborted closes its socket in the turns that follow."""
    for _ in range(5):
        await asyncio.sleep(0)


class LoopThread:
    """A running loop; `close` ends it. Callable from any thread."""

    def __init__(self, name: str = "replication") -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._cancel_all()
            self.loop.close()

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(_last_turns())

    def soon(self, function: Callable[..., Any], *args: Any) -> bool:
        """Call it in the loop; False where the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def run(self, work: Coroutine[Any, Any, _T], timeout_s: float = 60.0) -> _T:
        """Run it in the loop, wait for its result. Never from the loop's own thread."""
        assert threading.current_thread() is not self._thread
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    @property
    def inside(self) -> bool:
        """Whether the caller is the loop's thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the loop; harmless when repeated."""
        self.soon(self.loop.stop)
        if not self.inside:
            self._thread.join()

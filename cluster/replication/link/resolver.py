"""Names to addresses, off the event loop: a slow resolver delays nobody but who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

Lookup = Callable[..., Iterable[Any]]


class Resolver:
    """At most one lookup per name at a time, each in a thread of its own; nothing is remembered.

    Used in the loop. lookup: as `socket.getaddrinfo`.
    """

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._lookup = lookup
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the resolver's order.

        Raises:
            OSError: it has none, or nobody knows.
        """
        found = self._under_way.get((host, port))
        if found is None:
            found = self._start(host, port)
        return await asyncio.shield(found)

    def _start(self, host: str, port: int) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()
        self._under_way[host, port] = found

        def finish(addresses: list[str], error: OSError | None) -> None:
            self._under_way.pop((host, port), None)
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
                found.exception()  # whoever waited may have given up
            else:
                found.set_result(addresses)

        def look_up() -> None:
            addresses, error = self._look_up(host, port)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(finish, addresses, error)

        threading.Thread(target=look_up, name=f"resolve-{host}", daemon=True).start()
        return found

    def _look_up(self, host: str, port: int) -> tuple[list[str], OSError | None]:
        lookup = self._lookup or socket.getaddrinfo
        try:
            entries = lookup(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError as error:
            return [], error
        except UnicodeError as error:
            return [], OSError(f"{host!r} is no host name: {error}")
        return found, None if found else OSError(f"{host} has no address")

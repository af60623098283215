"""Several calls under way at once, their answers taken in the order of the calls.

`overlapped` makes a call while those before it are under way, so that preparing data, sending it
and storing it happen together. Steps that it asks of the world:

    start(call) -> ticket              the call is under way
    finish(ticket) -> Answer           wait for it
    settle(tickets, wait) -> [Answer]  what became of those that nobody will wait for any more
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nearql.client.network import Step, Steps
from nearql.client.transport import Answer, Call

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

IN_FLIGHT = 2  # one is stored while the next arrives


def overlapped(
    calls: Iterable[Call],
    landed: Callable[[Call, Answer], None],
    settled: Callable[[Answer], None],
    limit: int,
) -> Steps[None]:
    """Do calls, at most `limit` at once, and hand each answer to `landed`, in order.

    An error ends it: no further call is started, those under way are waited for, and the answers of
    these go to `settled`. Where we are interrupted or cancelled, nothing is waited for.
    """
    flying: deque[tuple[Call, Any]] = deque()
    try:
        for call in calls:
            if len(flying) == limit:
                yield from _land(flying, landed)
            flying.append((call, (yield Step("start", (call,)))))
        while flying:
            yield from _land(flying, landed)
    except BaseException as error:
        tickets = [ticket for _, ticket in flying]
        for answer in (yield Step("settle", (tickets, isinstance(error, Exception)))):
            settled(answer)
        raise


def _land(flying: deque[tuple[Call, Any]], landed: Callable[[Call, Answer], None]) -> Steps[None]:
    call, ticket = flying.popleft()
    landed(call, (yield Step("finish", (ticket,))))


class Threads:
    """The steps above in threads of their own, for a blocking connection.

    They are daemons: an interrupted program ends without waiting for a node that is silent.
    """

    def __init__(self, call: Callable[[Call], Answer]) -> None:
        self._call = call

    def start(self, call: Call) -> Future[Answer]:
        """Do a call in a new thread: 50 us, where a batch takes tens of milliseconds."""
        from concurrent.futures import Future

        ticket: Future[Answer] = Future()
        threading.Thread(target=self._work, args=(ticket, call), daemon=True).start()
        return ticket

    def _work(self, ticket: Future[Answer], call: Call) -> None:
        try:
            ticket.set_result(self._call(call))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            ticket.set_exception(error)

    def finish(self, ticket: Future[Answer]) -> Answer:
        """Wait for the call's answer."""
        return ticket.result()

    def settle(self, tickets: Sequence[Future[Answer]], wait: bool) -> list[Answer]:
        """The answers of those that have one."""
        if not wait:
            return []
        return [ticket.result() for ticket in tickets if ticket.exception() is None]


class Tasks:
    """The steps above as tasks of the running event loop, for an asyncio connection."""

    def __init__(self, call: Callable[[Call], Any]) -> None:
        self._call = call

    async def start(self, call: Call) -> asyncio.Task[Answer]:
        """Do a call in a new task, which has begun when this returns."""
        import asyncio

        ticket = asyncio.create_task(self._call(call))
        await asyncio.sleep(0)
        return ticket

    async def finish(self, ticket: asyncio.Task[Answer]) -> Answer:
        """Wait for the call's answer; where we are cancelled, so is the call."""
        return await ticket

    async def settle(self, tickets: Sequence[asyncio.Task[Answer]], wait: bool) -> list[Answer]:
        """The answers of those that have one; the others are cancelled unless we wait."""
        import asyncio

        for ticket in tickets:
            if not wait:
                ticket.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tickets, return_exceptions=True)
        return [t.result() for t in tickets if not t.cancelled() and t.exception() is None]

"""The watchdog: calls at deadlines, in order, again until the watch ends, never after."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from nearql.query.watchdog import Watchdog

DOG = Watchdog()


def test_it_calls_at_the_deadline_and_again_until_the_end() -> None:
    calls, enough = [], threading.Event()

    def call() -> None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            enough.set()

    due = time.monotonic() + 0.05
    with DOG.watch(due, call):
        assert enough.wait(10)
    seen = len(calls)
    assert calls[0] >= due
    assert not threading.Event().wait(0.2)
    assert len(calls) == seen


def test_an_earlier_deadline_given_later_comes_first() -> None:
    order: list[str] = []
    called = threading.Event()

    def first() -> None:
        order.append("first")
        called.set()

    now = time.monotonic()
    with (
        DOG.watch(now + 3600, lambda: order.append("never")),
        DOG.watch(now + 0.05, first),
    ):
        assert called.wait(60)
    assert set(order) == {"first"}


def test_an_ended_watch_keeps_nothing_alive() -> None:
    class Request:
        def stop(self) -> None:
            raise AssertionError("the watch has ended")

    request = Request()
    alive = weakref.ref(request)
    with DOG.watch(time.monotonic() + 3600, request.stop):
        pass
    del request
    gc.collect()
    assert alive() is None


def test_watches_that_have_ended_are_forgotten_long_before_their_deadline() -> None:
    dog, late = Watchdog(), time.monotonic() + 365 * 86_400  # as where statements have no timeout
    with dog.watch(late, lambda: None) as lasting:
        for _ in range(5_000):
            with dog.watch(late, lambda: None):
                pass
        assert lasting in [watch for _, _, watch in dog._watches]
        assert len(dog._watches) < 2_500

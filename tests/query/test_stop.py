"""`Stop`: a request that nobody waits for any more ends, now and in its later statements."""

from __future__ import annotations

import threading

from nearql.query.watchdog import Stop


def test_a_stop_calls_until_the_block_ends() -> None:
    stop, calls, enough = Stop(), [], threading.Event()

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            enough.set()

    with stop.watching(call):
        assert not calls
        stop.stop()
        stop.stop()
        assert enough.wait(10)
    after = len(calls)
    assert not threading.Event().wait(0.2)
    assert len(calls) == after


def test_a_stop_before_the_block_ends_it_at_once() -> None:
    stop, called = Stop(), threading.Event()
    stop.stop()
    with stop.watching(called.set):
        assert called.wait(10)


def test_without_a_stop_nothing_is_called() -> None:
    stop, called = Stop(), threading.Event()
    with stop.watching(called.set):
        assert not called.wait(0.1)
    stop.stop()
    assert not called.wait(0.1)

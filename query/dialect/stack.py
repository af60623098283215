"""Room on the stack for sqlglot, whose parser and generator recurse.

Its pure build ends too deep a recursion in RecursionError. Its compiled build, which plans in two
thirds of the time, calls C functions: there it would end the process. `depth.check_depth` refuses
text that nests; that alone would have to know each way in which the grammar can recurse. So two
bounds that know nothing of it:

* A parser takes at least one token before it recurses once more. A few tokens therefore fit on any
  thread's stack; more are parsed on a thread whose stack has room for all of them.
* A generator recurses at most once per layer of a tree, so trees have `LAYERS` at most
  (`trees.nodes_of_shallow`), whatever rules and views made of them.

Figures of sqlglot 30, measured on the compiled build: PARSED_BYTES is above what its costliest
construct takes for one token, `LAYERS` times what its costliest node takes stays below 2 MiB.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from nearql.engine.errors import Overloaded

SHORT = 200  # tokens that are parsed where they are
PARSED_BYTES = 8_192  # stack for each further one
LAYERS = 800

_Made = TypeVar("_Made")
_NO_THREAD = "There is no thread left to parse this statement; nothing was done. Retry later."
_SETTING = threading.Lock()  # the size of new threads' stacks is the process's


def with_room(tokens: int, work: Callable[[], _Made]) -> _Made:
    """What `work` returns or raises, done with room for this many tokens.

    Raises:
        Overloaded: a thread would be needed and there is none to have.
    """
    if tokens <= SHORT:
        return work()
    done: list[_Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run, name="nearql-parser", daemon=True)
    with _SETTING:
        before = threading.stack_size((tokens + SHORT) * PARSED_BYTES)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread, or no memory for its stack
            raise Overloaded(_NO_THREAD, code="queue_full") from error
        finally:
            threading.stack_size(before)
    thread.join()
    if failed:
        raise failed[0]
    return done[0]

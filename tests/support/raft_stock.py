"""Stock PySyncObj, several of them over a virtual clock and a network of the test's: the library as
it comes, to show what it does where ours has a rule of its own.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as syncobj
from pysyncobj.config import SERIALIZER_STATE, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

STEP_S = 0.05
NAMES = ("a", "b", "c")


class StockNode(syncobj.SyncObj):  # type: ignore[misc]
    """A map of numbers. dumping: a dump that was begun is not finished yet, as with a slow fork."""

    def __init__(self, cluster: StockCluster, name: str, **options: Any) -> None:
        self.name, self.dumping = name, False
        files: dict[str, Any] = {}
        if cluster.folder is not None:
            folder = cluster.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            files = {
                "journalFile": str(folder / "journal"), "fullDumpFile": str(folder / "dump"),
                "serializer": self._dump, "deserializer": self._load,
                "serializeChecker": self._check,
            }  # fmt: skip
        conf = SyncObjConf(
            autoTick=False, useFork=False, raftMinTimeout=0.5, raftMaxTimeout=1.2,
            commandsWaitLeader=False, **files, **options,
        )  # fmt: skip
        others = [Node(other) for other in NAMES if other != name]
        super().__init__(
            Node(name), others, conf,
            transportClass=lambda *arguments: _Wire(cluster, *arguments),
        )  # fmt: skip
        if not hasattr(self, "values"):
            self.values: dict[str, int] = {}

    @syncobj.replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: int) -> int:
        self.values[key] = value
        return value

    @property
    def leads(self) -> bool:
        return bool(self._isLeader())

    # Dumps by the library's own public hooks: what a child of a fork does, at a time of our choice.

    def _dump(self, file: str, data: Any) -> None:
        Path(file).write_bytes(pysyncobj.pickle.dumps((self.values, data)))
        self._begun = True

    def _check(self) -> int:
        if not getattr(self, "_begun", False):
            return int(SERIALIZER_STATE.NOT_SERIALIZING)
        self._begun = self.dumping
        return int(SERIALIZER_STATE.SERIALIZING if self.dumping else SERIALIZER_STATE.SUCCESS)

    def _load(self, file: str) -> Any:
        self.values, data = pysyncobj.pickle.loads(Path(file).read_bytes())
        return data


class _Wire(Transport):  # type: ignore[misc]
    """Messages by the cluster's queue."""

    def __init__(self, cluster: StockCluster, node: StockNode, me: Node, others: Any) -> None:
        super().__init__(node, me, others)
        self._cluster, self._me = cluster, me.id
        cluster.wires[me.id] = self

    def send(self, node: Node, message: Any) -> bool:
        return self._cluster.transmit(self._me, node.id, message)


class StockCluster:
    """Three of them. Time passes by `advance` only."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.folder, self.now, self._options = folder, 100.0, options
        self.wires: dict[str, _Wire] = {}
        self.nodes: dict[str, StockNode] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.lost: Callable[[Any], bool] = lambda _message: False
        self._queue: list[tuple[str, str, Any]] = []

    def start(self, *names: str) -> None:
        """Start these, or all."""
        for name in names or NAMES:
            self.nodes[name] = StockNode(self, name, **self._options)
        for name, wire in self.wires.items():
            for other in self.nodes:
                if name in self.nodes and other != name:
                    wire._onNodeConnected(Node(other))

    def kill(self, name: str) -> None:
        """End one without a word."""
        node = self.nodes.pop(name)
        node._SyncObj__raftLog._destroy()
        del self.wires[name]

    def isolate(self, name: str) -> None:
        """Nothing passes to or from it any more."""
        self.cuts |= {(name, other) for other in NAMES} | {(other, name) for other in NAMES}

    def transmit(self, source: str, target: str, message: Any) -> bool:
        if (source, target) not in self.cuts and not self.lost(message):
            self._queue.append((source, target, copy.deepcopy(message)))
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass; messages take a tick."""
        for _ in range(max(1, round(seconds / STEP_S))):
            self.now += STEP_S
            arrived, self._queue = self._queue, []
            for source, target, message in arrived:
                if target in self.nodes:
                    self.wires[target]._onMessageReceived(Node(source), message)
            for node in self.nodes.values():
                node.doTick(0.0)

    def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Let time pass until the condition holds."""
        end = self.now + limit_s
        while not condition():
            assert self.now < end, "the condition never held"
            self.advance(STEP_S)

    def leader(self, *among: str) -> str:
        """The one that leads, once one does."""
        names = among or tuple(self.nodes)
        self.until(lambda: any(self.nodes[name].leads for name in names))
        return next(name for name in names if self.nodes[name].leads)

    def commit(self, at: str, key: str, value: int) -> None:
        """A command that is acknowledged to whoever asked."""
        answers: list[Any] = []
        self.nodes[at].put(key, value, callback=lambda *answer: answers.append(answer))
        self.until(lambda: bool(answers))
        assert answers == [(value, 0)], answers


@contextlib.contextmanager
def stock_cluster(folder: Path | None = None, **options: Any) -> Iterator[StockCluster]:
    """A cluster that has begun, with the library's own pickle: a member of ours takes it away."""
    before = syncobj.monotonicTime, syncobj.random, syncobj.pickle
    cluster = StockCluster(folder, **options)
    syncobj.monotonicTime, syncobj.random = (lambda: cluster.now), random.Random(1)
    syncobj.pickle = pysyncobj.pickle
    try:
        cluster.start()
        yield cluster
    finally:
        for name in list(cluster.nodes):
            cluster.kill(name)
        syncobj.monotonicTime, syncobj.random, syncobj.pickle = before
        gc.collect()  # the library leaves files open, which nobody else should hear of

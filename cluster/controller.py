"""The controller: on the node that leads, look at what was heard, and propose what follows.

The policy is `failover.decide`; here are the clock, the loop, and the way to metadata. A reign
begins with a barrier, so that the first look sees everything that was decided before. Silence that
this process's own sleep may have made does not count: after a pause the reign begins anew.

It also takes the last step of an upgrade: once every node has told that its version knows a higher
feature level, the level is raised, and what that level brought may be used.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

import structlog

from nearql.cluster.cluster import Cluster
from nearql.cluster.failover import Memory, Patience, decide
from nearql.cluster.heartbeats import Ear, Ends, boottime, leaderless, with_own_ends
from nearql.cluster.metadata.commands import Command
from nearql.cluster.metadata.nodes import RaiseFeatureLevel
from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import Unavailable, WriteUnknown

log = structlog.get_logger("nearql.cluster")

LOOK_S = 0.1
PAUSE_S = 1.0  # a look that comes so much later than it should: everything else was late, too
PATIENCE = Patience()
_PROPOSE_MS = 2000


class Controller:
    """One thread. What it decided is counted in `cluster.decided`, by kind."""

    def __init__(
        self,
        cluster: Cluster,
        ear: Ear,
        ends: Ends = dict,
        *,
        patience: Patience = PATIENCE,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """ends: (epoch, LSN) of this node's copies, by shard uuid."""
        self._cluster, self._ear, self._ends = cluster, ear, ends
        self._patience, self._clock = patience, clock
        self._memory = Memory()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def close(self) -> None:
        """Decide nothing more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._ear.end()

    def _run(self) -> None:
        before = self._clock()
        while not self._stopped.wait(LOOK_S):
            now = self._clock()
            if now - before > LOOK_S + PAUSE_S and self._ear.reigns:
                log.warning("controller_paused", seconds=round(now - before, 1))
                self._ear.end()
            try:
                self.look()
            except (Unavailable, WriteUnknown) as error:
                log.warning("controller_waits", reason=error.detail)
            except Exception:  # an error in one look must not end failover for ever
                log.exception("controller_failed")
            before = self._clock()

    def look(self) -> list[Command]:
        """Decide once, if this node leads; the commands that were proposed."""
        if not self._cluster.leading:
            self._ear.end()
            return []
        if not self._ear.reigns:
            self._begin()
        me, now, state = self._cluster.node_id, self._clock(), self._cluster.metadata.state
        seen = self._ear.observations(me)
        if seen is None:
            return []
        wanted = leaderless(state, seen.hears)
        own = {shard: end for shard, end in self._ends().items() if shard in wanted}
        seen = with_own_ends(seen, self._cluster.incarnation, now, own)
        commands, self._memory = decide(now, seen, state, self._memory, self._patience)
        commands += [command for command in [level_to_raise(state)] if command is not None]
        for command in commands:
            self._propose(command)
        return commands

    def _begin(self) -> None:
        self._cluster.metadata.barrier(timeout_ms=_PROPOSE_MS)
        self._memory = Memory()
        self._ear.begin()
        log.info("controller_begins", term=self._cluster.term)

    def _propose(self, command: Command) -> None:
        kind = type(command).__name__
        result = self._cluster.metadata.propose(command, timeout_ms=_PROPOSE_MS)
        self._cluster.decided[kind if result.ok else "refused"] += 1
        told = {key: value for key, value in vars(command).items() if key != "request_id"}
        if "level" in told:  # which a line of the log has already
            told["feature_level"] = told.pop("level")
        log.warning("controller_decides", command=kind, refused=result.code, **told)


def level_to_raise(state: Metadata) -> RaiseFeatureLevel | None:
    """The command that lets all use what every node knows; None where that is no more than now.

    A node that is away counts, too: it could come back as it was.
    """
    common = min((row.level for row in state.nodes.values()), default=0)
    if common <= state.feature_level:
        return None
    return RaiseFeatureLevel(
        request_id=uuid.uuid4().hex, level=common, expected=state.feature_level
    )

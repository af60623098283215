"""Carries out what `migration.decide` answers: a thread on the node that leads Raft.

A look comes a few times a second. Changes of metadata are proposed at once; hand-overs and
comparisons take a while and run beside, one for each shard. What they came to is remembered until
the next leader begins, which finds out anew: nothing here is needed to go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from nearql.cluster.cluster import Cluster
from nearql.cluster.heartbeats import boottime
from nearql.cluster.metadata.jobs import RUNNING
from nearql.cluster.metadata.state import Metadata
from nearql.cluster.migration import (
    Action,
    HandOver,
    Limits,
    Look,
    Propose,
    Verify,
    decide,
)
from nearql.engine.errors import NearQLError, Unavailable, WriteUnknown

log = structlog.get_logger("nearql.cluster")

LOOK_S = 0.25
RETRY_S = 2.0  # before a hand-over or comparison that came to nothing is tried again
SIZES_S = 10.0  # how old the copies' sizes may be
_PROPOSE_MS = 5000
_AT_WORK = 4  # hand-overs and comparisons at a time


class Hands(Protocol):
    """What a step needs beside metadata."""

    def hand_over(self, step: HandOver) -> str:
        """Let the primary give its part away; "" or why it did not."""

    def compare(self, step: Verify) -> bool | None:
        """Whether two copies hold the same at one LSN; None where that could not be seen now."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of one copy of each table, by uuid."""


class Mover:
    """See the module. `look` is what its thread does, for tests."""

    def __init__(
        self,
        cluster: Cluster,
        hands: Hands,
        limits: Limits,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._cluster, self._hands, self._limits = cluster, hands, limits
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)
        self._reigns = False
        self._forget()

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Begin nothing more; what is under way goes on without us, or breaks off."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _forget(self) -> None:
        with self._lock:
            self._gone: dict[tuple[str, int], float] = {}  # (node, incarnation) -> first seen dead
            self._proved: set[tuple[str, str]] = set()
            self._refuted: set[tuple[str, str]] = set()
            self._refused: set[tuple[str, str]] = set()
            self._failed: dict[str, tuple[int, int]] = {}  # shard -> its version, how often
            self._at_work: set[str] = set()  # shards
            # Shard, or request id of what was refused -> when it is tried again.
            self._not_before: dict[str, float] = {}
            self._sizes: tuple[float, Mapping[str, int]] = (float("-inf"), {})

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                self.look()
            except (Unavailable, WriteUnknown) as error:
                log.warning("mover_waits", reason=error.detail)
            except Exception:  # an error in one look must not end moves for ever
                log.exception("mover_failed")

    def look(self) -> list[Action]:
        """Decide once, if this node leads; the actions."""
        if not self._cluster.leading:
            self._reigns = False
            return []
        if not self._reigns:
            self._cluster.metadata.barrier(timeout_ms=_PROPOSE_MS)
            self._forget()
            self._reigns = True
        state = self._cluster.metadata.state
        actions = decide(self._seen(state), state, self._limits)
        for action in actions:
            self._do(action, state)
        return actions

    def _seen(self, state: Metadata) -> Look:
        now = self._clock()
        dead = {(n.node_id, n.incarnation) for n in state.nodes.values() if n.fenced}
        self._gone = {key: self._gone.get(key, now) for key in dead}
        versions = {s.uuid: s.version for row in state.tables.values() for s in row.shards}
        sizes = self._known_sizes(state, now)
        with self._lock:
            failed = {u: n for u, (v, n) in self._failed.items() if versions.get(u) == v}
            return Look(
                now_ms=time.time_ns() // 1_000_000,
                alive=frozenset(self._cluster.alive()),
                gone_s={node: now - since for (node, _), since in self._gone.items()},
                sizes=sizes,
                proved=frozenset(self._proved),
                refuted=frozenset(self._refuted),
                failed=failed,
                refused=frozenset(self._refused),
            )

    def _known_sizes(self, state: Metadata, now: float) -> Mapping[str, int]:
        """Asked for only where they matter: while something is to be placed."""
        wanted = bool(self._gone) or any(job.state == RUNNING for job in state.jobs.values())
        if wanted and now - self._sizes[0] > SIZES_S:
            self._sizes = now, self._hands.sizes()
        return self._sizes[1]

    # ---- doing ----------------------------------------------------------------------------------

    def _do(self, action: Action, state: Metadata) -> None:
        if isinstance(action, Propose):
            self._propose(action)
            return
        uuid = action.shard_uuid
        with self._lock:
            full = uuid in self._at_work or len(self._at_work) >= _AT_WORK
            if full or self._clock() < self._not_before.get(uuid, 0.0):
                return
            self._at_work.add(uuid)
        work = threading.Thread(
            target=self._work, args=(action, _version(state, uuid)), name="mover-step", daemon=True
        )
        work.start()

    def _propose(self, action: Propose) -> None:
        command = action.command
        if self._clock() < self._not_before.get(command.request_id, 0.0):
            return  # refused a moment ago, and each time is an entry of Raft's log
        result = self._cluster.metadata.propose(command, timeout_ms=_PROPOSE_MS)
        if not result.ok:
            with self._lock:
                self._not_before[command.request_id] = self._clock() + RETRY_S
        told = {key: value for key, value in vars(command).items() if key != "request_id"}
        log.info("move_decided", command=type(command).__name__, refused=result.code, **told)

    def _work(self, action: HandOver | Verify, version: int) -> None:
        again = True
        try:
            if isinstance(action, HandOver):
                again = not self._hand_over(action, version)
            else:
                again = not self._compare(action)
        except NearQLError as error:
            log.warning("move_waits", shard=action.shard_uuid, reason=error.detail)
        except Exception:
            log.exception("move_failed", shard=action.shard_uuid)
        finally:
            with self._lock:
                self._at_work.discard(action.shard_uuid)
                if again:
                    self._not_before[action.shard_uuid] = self._clock() + RETRY_S

    def _hand_over(self, step: HandOver, version: int) -> bool:
        reason = self._hands.hand_over(step)
        log.info("handed_over", shard=step.shard_uuid, target=step.target, refused=reason)
        if reason:
            with self._lock:
                before, count = self._failed.get(step.shard_uuid, (version, 0))
                count = count if before == version else 0
                self._failed[step.shard_uuid] = version, count + 1
        return not reason

    def _compare(self, step: Verify) -> bool:
        same = self._hands.compare(step)
        if same is None:
            return False
        if same:
            log.info("copy_proved", shard=step.shard_uuid, node=step.target)
        else:
            log.error("copy_refuted", shard=step.shard_uuid, node=step.target)
        with self._lock:
            (self._proved if same else self._refuted).add((step.shard_uuid, step.alloc_id))
            if not same:
                self._refused.add((step.shard_uuid, step.target))
        return True


def _version(state: Metadata, shard_uuid: str) -> int:
    shards = (shard for row in state.tables.values() for shard in row.shards)
    return next((shard.version for shard in shards if shard.uuid == shard_uuid), 0)

"""A shard's copy as writers and readers see it. For any thread but the loop's.

What is asked before anything is logged is answered from what the loop published last, together with
the clock: a lease that has run out meanwhile counts as lost, and so does a loop that has not turned
for half a lease. What has to be waited for is asked of the core, and answered by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nearql.cluster.replication.clock import Clock
from nearql.cluster.replication.core import effects as ef
from nearql.cluster.replication.core import events as ev
from nearql.cluster.replication.core.epochs import is_rolled_back
from nearql.cluster.replication.core.events import Concern
from nearql.cluster.replication.link.loop import LoopThread
from nearql.cluster.replication.refusals import REFUSALS
from nearql.cluster.replication.runner import Authority, CopyRunner
from nearql.cluster.replication.status import ShardStatus
from nearql.engine.deadline import Deadline
from nearql.engine.errors import (
    Conflict,
    InvalidRequest,
    StatementTimeout,
    Unavailable,
    WriteUnknown,
)

ConcernName = Literal["one", "majority", "all"] | int | str
_FOREVER_MS = 24 * 3600 * 1000
_GRACE_S = 2.0  # of the loop, beyond a question's own time
_UNREADABLE = ("empty", "corrupt", "halted")


def concern_of(name: ConcernName) -> Concern:
    """`one`, `majority`, `all`, or a number of copies.

    Raises:
        InvalidRequest: anything else.
    """
    if isinstance(name, int) and name >= 1:
        return Concern(committed=True, copies=name)
    named = {"one": ev.ONE, "majority": ev.MAJORITY, "all": ev.ALL}.get(str(name))
    if named is None:
        raise InvalidRequest(
            f"write_concern is one, majority, all or a number of copies, not {name!r}."
        )
    return named


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a write has come. acked: copies on which it is durable, the primary included."""

    committed: bool
    acked: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to read: everything up to `lsn` is applied here."""

    epoch: int
    lsn: int
    check: Callable[[], str | None]

    def confirm(self) -> None:
        """To be called after the data was read, before it is answered.

        Raises:
            Unavailable: code `not_linearizable`; another primary may have answered meanwhile.
        """
        if (reason := self.check()) is not None:
            raise _not_linearizable(reason)


class ShardHandle:
    """See the module."""

    def __init__(
        self, runner: CopyRunner, thread: LoopThread, clock: Clock,
        *, status: Callable[[], ShardStatus], lag_ms: Callable[[], int], lease_ms: int,
    ) -> None:  # fmt: skip
        """lag_ms: since the loop last turned."""
        self._runner, self._thread, self._clock = runner, thread, clock
        self._status, self._lag_ms, self._lease_ms = status, lag_ms, lease_ms

    # ---- What it is ------------------------------------------------------------------------

    @property
    def status(self) -> ShardStatus:
        """As last published."""
        return self._status()

    @property
    def role(self) -> str:
        """The state's name."""
        return self._status().role

    @property
    def epoch(self) -> int:
        """In which it takes part."""
        return self._status().epoch

    @property
    def primary(self) -> str | None:
        """Node id of the primary, as far as is known here."""
        return self._status().primary

    @property
    def commit_lsn(self) -> int:
        """What is known to be committed."""
        return self._runner.copy.commit_lsn

    @property
    def applied_lsn(self) -> int:
        """What read views show."""
        return self._runner.copy.applied_lsn

    @property
    def readable(self) -> bool:
        """Whether it was complete once, and is neither damaged nor stopped."""
        status = self._status()
        return status.complete and status.role not in _UNREADABLE

    # ---- Writers ---------------------------------------------------------------------------

    def check_writable(self, concern: ConcernName) -> int:
        """The epoch in which a write of this concern may be logged now.

        Raises:
            Unavailable: code `not_primary` (extra `primary`) or `not_enough_replicas`; before
            anything is logged. InvalidRequest: no such concern, or more copies than there are.
        """
        wanted, authority, status = concern_of(concern), self._runner.authority, self._status()
        if wanted.copies > max(1, status.copies):
            raise InvalidRequest(
                f"write_concern {wanted.copies} asks for more copies than the shard has "
                f"({status.copies})."
            )
        if not authority.active:
            raise Unavailable(
                REFUSALS["not_primary"], code="not_primary", primary=self._status().primary
            )
        reason = self._unleased(authority) or status.refusals.get(_key(wanted))
        if reason is None and wanted.copies > max(1, status.members):
            reason = "copy_being_made"
        if reason is not None:
            raise Unavailable(REFUSALS[reason], code="not_enough_replicas", reason=reason)
        return authority.epoch

    def _unleased(self, authority: Authority) -> str | None:
        if self._lag_ms() > self._lease_ms // 2:
            return "loop_lag"
        return None if self._clock() < authority.lease_until_ms else "lease_lost"

    def committed(self, lsn: int, epoch: int, concern: ConcernName, deadline: Deadline) -> Progress:
        """Wait until a write that was logged here fulfils the concern.

        Raises:
            WriteUnknown: the time was up, or this copy stopped being the primary; it may survive.
        """
        answer = self._await(lsn, epoch, self._counted(concern_of(concern)), deadline)
        if answer is None or not answer.met:
            ended = answer is not None and not answer.known
            why = "another copy may be the primary now" if ended else "its time was up"
            raise WriteUnknown(
                f"The write was logged, but {why} before it was as safe as write_concern = "
                f"{concern}: it may have happened. Retry with the same request id to learn its "
                "outcome.",
                shard_uuid=self._runner.shard_uuid, epoch=epoch, lsn=lsn,
            )  # fmt: skip
        return Progress(answer.committed, answer.copies)

    def _counted(self, concern: Concern) -> Concern:
        """`all` in numbers: a copy that is being made is waited for only once it is in sync, when
        the commit itself waits for it; also by those who wait as a move begins.
        """
        members = self._status().members
        if concern.copies != ev.ALL_COPIES or not members:
            return concern
        return Concern(concern.committed, members)

    def wait(self, lsn: int, epoch: int, copies: int, deadline: Deadline) -> Progress:
        """Wait until a write is durable on so many copies, or the time is up: then with fewer.

        Raises:
            WriteUnknown: this copy stopped being the primary.
        """
        answer = self._await(lsn, epoch, Concern(committed=False, copies=copies), deadline)
        if answer is None or not answer.known:
            raise WriteUnknown(
                "This node stopped being the shard's primary while it was waited for copies.",
                shard_uuid=self._runner.shard_uuid, epoch=epoch, lsn=lsn,
            )  # fmt: skip
        return Progress(answer.committed, answer.copies)

    def _await(
        self, lsn: int, epoch: int, concern: Concern, deadline: Deadline
    ) -> ef.Answer | None:
        questions = self._runner.awaits
        token, waiter = questions.ask()
        until_ms = self._clock() + self._left_ms(deadline)
        self._ask(ev.Await(token, epoch, lsn, concern, until_ms))
        try:
            return waiter.wait(self._left_ms(deadline) / 1000 + _GRACE_S)
        finally:
            questions.drop(token)

    def _ask(self, event: ev.Event) -> None:
        self._thread.soon(self._runner.feed, event)

    @staticmethod
    def _left_ms(deadline: Deadline) -> int:
        left = deadline.left_ms
        return _FOREVER_MS if left is None else left

    # ---- Readers ---------------------------------------------------------------------------

    def read_gate(
        self, level: str, *, token: tuple[int, int] | None = None,
        max_staleness_ms: int | None = None, deadline: Deadline,
    ) -> Grant:  # fmt: skip
        """Wait until this copy may be read at this level; take the view afterwards.

        level: any, session (token: epoch and LSN), bounded (max_staleness_ms) or linearizable.

        Raises:
            Unavailable: code `not_readable`, `too_stale` or `not_linearizable`. Conflict: code
            `rolled_back`; what the session has seen was lost. StatementTimeout.
        """
        if not self.readable:
            raise Unavailable(
                "This node's copy of the shard is not complete; read another.", code="not_readable"
            )
        if level == "bounded":
            self._until_fresh(max_staleness_ms or 0, deadline)
        elif level == "linearizable":
            return self._linearizable(deadline)
        elif level not in ("any", "session"):
            raise InvalidRequest(
                f"read_level is any, session, bounded or linearizable, not {level!r}."
            )
        if token is not None:
            self._until_seen(token, deadline)
        return self._grant(lambda: None)

    def _grant(self, check: Callable[[], str | None]) -> Grant:
        return Grant(self._status().epoch, self._runner.copy.applied_lsn, check)

    def _until_seen(self, token: tuple[int, int], deadline: Deadline) -> None:
        """Wait for what the session has seen, or written."""
        epoch, lsn = token
        self._check_kept(epoch, lsn)
        self._until_applied(lsn, deadline)
        self._check_kept(epoch, lsn)

    def _check_kept(self, epoch: int, lsn: int) -> None:
        copy = self._runner.copy
        if is_rolled_back(copy.epochs, copy.end.lsn, epoch, lsn):
            raise Conflict(
                f"What this session has seen (epoch {epoch}, LSN {lsn}) was lost when another copy "
                "became primary: it had not been committed. Begin a new session.",
                code="rolled_back", epoch=epoch, lsn=lsn,
            )  # fmt: skip

    def _until_applied(self, lsn: int, deadline: Deadline) -> None:
        if not self._runner.copy.wait_applied(lsn, deadline):
            raise StatementTimeout(
                f"This node's copy did not reach LSN {lsn} in time; nothing was read."
            )

    def _until_fresh(self, max_staleness_ms: int, deadline: Deadline) -> None:
        status = self._status()
        stale_ms = status.staleness_ms(self._clock(), self._lease_ms)
        if self._runner.authority.active and self._unleased(self._runner.authority) is None:
            stale_ms = 0
        if stale_ms is None or stale_ms > max_staleness_ms:
            known = "is not known" if stale_ms is None else f"may be {stale_ms} ms old"
            raise Unavailable(
                f"How recent this node's copy is {known}, and max_staleness_ms is "
                f"{max_staleness_ms}; read another, or allow more.",
                code="too_stale",
            )
        self._until_applied(status.heard_commit_lsn, deadline)

    def _linearizable(self, deadline: Deadline) -> Grant:
        authority = self._runner.authority
        if authority.active:
            check = self._still(authority.epoch)
            if (reason := check()) is None:
                committed = self._runner.authority.commit_lsn, self._runner.copy.commit_lsn
                self._until_applied(max(committed), deadline)
                return self._grant(check)
            if reason != "not_committed":
                raise _not_linearizable(reason)
        answer = self._read_index(deadline)
        self._until_applied(answer, deadline)
        if self._runner.authority.active:
            return self._grant(self._still(self._runner.authority.epoch))
        return self._grant(lambda: None)

    def _still(self, epoch: int) -> Callable[[], str | None]:
        """Why what is read here as the primary of this epoch might be old, if so."""

        def check() -> str | None:
            authority = self._runner.authority
            if authority.epoch != epoch or not authority.active:
                return "not_primary"
            return self._unleased(authority) or (None if authority.can_read else "not_committed")

        return check

    def _read_index(self, deadline: Deadline) -> int:
        questions = self._runner.reads
        token, waiter = questions.ask()
        self._ask(ev.Read(token, self._clock() + self._left_ms(deadline)))
        try:
            answer = waiter.wait(self._left_ms(deadline) / 1000 + _GRACE_S)
        finally:
            questions.drop(token)
        if answer is None or answer.lsn is None:
            raise _not_linearizable(answer.reason if answer else "no_answer")
        return answer.lsn


def _key(concern: Concern) -> str:
    """Under which status keeps the refusal of such a write."""
    if not concern.committed:
        return "one"
    return "all" if concern.copies == ev.ALL_COPIES else "majority"


def _not_linearizable(reason: str) -> Unavailable:
    return Unavailable(
        "The shard's primary can't say just now that nothing newer was written "
        f"({reason}); nothing was answered.",
        code="not_linearizable", reason=reason,
    )  # fmt: skip

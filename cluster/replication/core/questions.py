"""Linearizable reads of a copy that is not the primary: READ_INDEX.

The reader asks the primary how far everything that was ever answered goes, and then reads here what
is applied up to there. The primary says so under its lease, after the question: an answer of any
primary to *this* question will do, whatever has changed since.
"""

from __future__ import annotations

from nearql.cluster.replication.core.copy import Copy
from nearql.cluster.replication.core.effects import ReadAnswer
from nearql.cluster.replication.core.events import Read
from nearql.cluster.replication.core.messages import Index, ReadIndex
from nearql.cluster.replication.core.primary import Primary
from nearql.cluster.replication.core.replica import Replica

_LONG_AGO = -(1 << 62)


class Questions:
    """Readers that wait for the primary's answer."""

    def __init__(self, copy: Copy, number: int) -> None:
        """`number`: of the core among those of this process."""
        self._copy = copy
        self._waiting: dict[int, Read] = {}  # by our own number: a token may come again
        self._asked_ms: dict[int, int] = {}
        self._count = number << 32

    def ask(self, read: Read, role: Primary | Replica | None) -> None:
        """A reader came."""
        number = self._number()
        self._waiting[number] = read
        self._asked_ms[number] = _LONG_AGO
        self.tick(role)

    def _number(self) -> int:
        """Never used before, nor by a former life of this node: its answers may still come."""
        self._count += 1
        return (self._copy.incarnation << 48) + self._count

    def tick(self, role: Primary | Replica | None) -> None:
        """Ask again where no answer came; refuse whose time is up."""
        now = self._copy.now_ms
        for number, read in list(self._waiting.items()):
            if read.deadline_ms <= now:
                self._end(number, None, "no_answer")
            elif isinstance(role, Primary):  # we became it ourselves
                self._end(number, None, "primary_changed")
            elif role is not None and role.primary is not None:
                self._send(number, role.epoch, role.primary)

    def _send(self, number: int, epoch: int, primary: str) -> None:
        now = self._copy.now_ms
        if now - self._asked_ms[number] >= self._copy.timing.retry_ms:
            self._asked_ms[number] = now
            self._copy.send(primary, ReadIndex(epoch, number))

    def on_index(self, answer: Index) -> None:
        """The primary's answer; one that says nothing leads to another question."""
        if answer.commit_lsn is not None and answer.token in self._waiting:
            self._end(answer.token, answer.commit_lsn, "")

    def _end(self, number: int, lsn: int | None, reason: str) -> None:
        read = self._waiting.pop(number)
        del self._asked_ms[number]
        self._copy.out.append(ReadAnswer(read.token, lsn, reason))

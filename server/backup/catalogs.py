"""Metadata on its way into the archive: what it is, and of which moments that is known.

Every node watches metadata change; whoever leads it ships the changes, and vouches: of all moments
from `since_ms` to `until_ms` the archive has every change (`archive.Known`). A restore goes to no
moment that nobody vouches for: it would lack tables, and not know.

    confirm   the clock, then a barrier: all that was committed before that clock is here
    ship      what is here and not in the archive
    vouch     up to that clock

The times of changes are right only where they were applied as they were committed: by the leader,
in a term whose beginning a barrier has confirmed. A follower may hear of them late. So what nobody
vouches for is the time between two terms, unless metadata has one version at the end of the first
and at the beginning of the second: then nothing came between. A leader that the repository is away
for keeps its changes, and ships them with their times when it can, also when it leads no more.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from nearql.cluster.metadata.state import Metadata
from nearql.engine.errors import NearQLError
from nearql.server.backup.archive import Archive, Known
from nearql.server.backup.catalog import Catalog, catalog_of
from nearql.server.backup.shipping import now_ms

if TYPE_CHECKING:
    from nearql.server.node import Node

log = structlog.get_logger("nearql.backup")

CHANGES = 1024  # that are remembered until somebody ships them
_BARRIER_MS = 2000


@dataclass(frozen=True, slots=True)
class _Change:
    """term: in which this node led when it applied it; None = it may have been late."""

    at_ms: int
    state: Metadata
    term: int | None


class CatalogShipper:
    """Of one node. `saw` is called by whoever applies metadata, all else by one thread.

    known: what this node has noted in the archive. gaps: how often a time was lost.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._changes: deque[_Change] = deque()
        self._seen: Metadata | None = None
        self._newest: Catalog | None = None  # that is in the archive, as far as known
        self._confirmed: int | None = None  # the term that is known to have begun
        self._led: list[Known] = []  # when it led, not all noted yet; the last one may go on
        self.known: list[Known] = []
        self.gaps = 0
        self._index = -1  # of `_newest`
        self._lost = 0  # changes of its terms that were forgotten
        self._joined: dict[int, int] = {}  # beginning of a term -> since when it is known
        self._lock = threading.Lock()  # around the queue of changes

    # ---- Watching --------------------------------------------------------------------------

    def saw(self, state: Metadata) -> bool:
        """A new state; whether it has anything new for the archive. It must be quick."""
        seen = self._seen
        if seen is not None and state.applied_index <= seen.applied_index:
            return False
        self._seen = state
        if seen is not None and _same(seen, state):
            return False
        with self._lock:
            self._changes.append(_Change(now_ms(), state, self._leads()))
            if len(self._changes) > CHANGES:
                self._forget(self._changes.popleft())
        return True

    def _forget(self, change: _Change) -> None:
        """There are too many: nobody can vouch any more for what a leader has not shipped."""
        if change.term is not None:
            self._confirmed = None
            self._led = []
            self._lost += 1

    def _leads(self) -> int | None:
        """The term, where this node leads in the one that is known to have begun."""
        confirmed = self._confirmed
        return confirmed if confirmed is not None and confirmed == self._term() else None

    def _term(self) -> int | None:
        """In which this node leads, None where it does not."""
        member = self._node.member
        if member is None:
            return 0
        return member.cluster.term if member.cluster.leading else None

    @property
    def leads(self) -> bool:
        """Whether shipping metadata is this node's work now."""
        return self._term() is not None

    @property
    def version(self) -> int:
        """Of metadata at the last moment that this node vouches for; -1 where there is none."""
        return self.known[-1].version if self.known else -1

    # ---- Confirming ------------------------------------------------------------------------

    def confirm(self) -> None:
        """See how far metadata is known here now. Needs no repository."""
        term = self._term()
        if term is None:
            self._confirmed = None
            return
        begins, lost = self._confirmed != term or not self._led, self._lost
        self._confirmed, at_ms = term, now_ms()
        try:
            self._node.metadata.barrier(timeout_ms=_BARRIER_MS)
        except NearQLError:  # it leads no more, or has lost the others: tried again next time
            self._confirmed = None if begins else self._confirmed
            return
        seen = self._seen
        if seen is None or seen.applied_index < self._node.metadata.state.applied_index:
            self._confirmed = None if begins else self._confirmed
            return
        if self._confirmed != self._term() or self._lost != lost:
            return
        if begins:
            since = now_ms()  # nothing is known to end before that: see the next time
            version = version_of(seen)
            self._led.append(Known(since, since - 1, version, version))
        else:
            self._led[-1] = replace(
                self._led[-1],
                until_ms=max(at_ms - 1, self._led[-1].until_ms), version=version_of(seen),
            )  # fmt: skip

    # ---- Shipping --------------------------------------------------------------------------

    def begin(self, known: Sequence[Known]) -> None:
        """The archive is looked into for the first time. known: what this node noted."""
        self.known = list(known)
        self.look_again()

    def look_again(self) -> None:
        """What the archive holds may be another than was thought."""
        self._newest = None

    def shrink(self, oldest_ms: int) -> None:
        """Forget what ended before this: no restore goes there any more."""
        self.known = [one for one in self.known if one.until_ms >= oldest_ms]

    def ship(self, archive: Archive) -> None:
        """Every state that differs from the one before it, in what a backup keeps of it; then
        vouch, which is to be noted.
        """
        leads = self._leads() is not None
        if not leads and not self._led:
            self.look_again()  # whoever leads ships; look again before shipping here
            return
        led, lost = [*self._led], self._lost
        if self._newest is None:
            newest = archive.catalogs()[-1:]
            self._index = newest[0].index if newest else -1
            self._newest = archive.catalog(newest[0]) if newest else None
        while (change := self._next(leads)) is not None:
            self._ship(archive, change)
            with self._lock:
                if self._changes and self._changes[0] is change:
                    self._changes.popleft()
        if self._lost != lost:
            return  # some were forgotten meanwhile, perhaps of the time to be vouched for
        for term in led:
            self._vouch(archive, term)
        self._led = [one for one in self._led if one.since_ms == led[-1].since_ms]
        if not leads:
            self._led = []

    def _next(self, leads: bool) -> _Change | None:
        """To be shipped: who leads ships all, who did what it knows of its terms."""
        with self._lock:
            wanted = leads or any(change.term is not None for change in self._changes)
            return self._changes[0] if wanted and self._changes else None

    def _ship(self, archive: Archive, change: _Change) -> None:
        index, found = change.state.applied_index, catalog_of(change.state)
        is_news = self._newest is None or _plain(found) != _plain(self._newest)
        if index > self._index:
            if is_news:
                archive.put_catalog(change.at_ms, index, found)
            self._newest, self._index = found, index
        elif change.term is not None:  # others know it from later on only
            archive.put_catalog(change.at_ms, index, found)

    # ---- Vouching --------------------------------------------------------------------------

    def _vouch(self, archive: Archive, term: Known) -> None:
        if term.until_ms < term.since_ms:
            return
        if term.since_ms not in self._joined:
            self._joined[term.since_ms] = self._join(archive, term)
        since_ms = self._joined[term.since_ms]
        self.known = [one for one in self.known if one.since_ms != since_ms]
        self.known.append(replace(term, since_ms=since_ms))

    def _join(self, archive: Archive, term: Known) -> int:
        """From when on it is known: from the end of what was known before, if nothing came between;
        else there is a gap.
        """
        before = [one for noted in archive.notes() for one in noted.known]
        last = max(
            (one for one in [*before, *self.known] if one.since_ms < term.since_ms),
            key=lambda one: one.until_ms, default=None,
        )  # fmt: skip
        if last is None or last.until_ms >= term.since_ms:
            return term.since_ms
        if last.version == term.since_version:
            return last.since_ms if last in self.known else last.until_ms
        self.gaps += 1
        log.error("archive_catalog_gap", after_ms=last.until_ms, next_ms=term.since_ms)
        return term.since_ms


def version_of(state: Metadata) -> int:
    """A number that two states share only if nothing that a backup keeps changed between them: the
    version, which rises with all but users, and the users.
    """
    data = b"%d %s" % (state.version, Catalog((), users=catalog_of(state).users).pack())
    return int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "big")


def _same(one: Metadata, other: Metadata) -> bool:
    return one.version == other.version and one.access.users == other.access.users


def _plain(catalog: Catalog) -> Catalog:
    """Without the numbers that writes take."""
    tables = tuple(replace(table, next_number=0) for table in catalog.tables)
    return replace(catalog, tables=tables)

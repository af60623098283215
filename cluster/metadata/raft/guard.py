"""The guard between the network and PySyncObj: messages go in and out through it alone.

The library's rules are sound where a message is what it expects; its own messages are not always.
Each rule here is the answer to a fault that was seen (the design's audit), and has a test that
shows the fault without it:

- an acknowledgement counts only in the term it was made in (the library's carries no term);
- a message of an older term is answered, so that a stale leader steps down at once;
- entries that we hold already are not replaced: the library would truncate what matches, and with
  it what was acknowledged. The answer names what really matched, never our own longer end;
- a leader whose entries do not fit ours is told where to begin, behind what is committed; the
  library would try one entry less with each heartbeat;
- what is committed is what a message proves: a snapshot chunk or a longer end proves nothing;
- one vote per member and term;
- who hears a leader does not help to depose it: a member cut off from the leader alone would else
  force an election a second, for as long as the cut lasts. Unless the leader called for it: one
  that shuts down asks a follower to stand, whose request for votes says so;
- a learner, whose disk was empty, neither votes nor stands: it may have voted before it forgot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import NoReturn, Protocol

from nearql.cluster.metadata.raft.journal import RaftJournal
from nearql.cluster.metadata.raft.messages import Message


class Rules(Protocol):
    """What the guard asks of the library."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def leading(self) -> bool:
        """Whether this member leads; without a majority's answers it soon stops to."""

    @property
    def committed(self) -> int:
        """The highest index known to be committed."""

    def deliver(self, sender: str, message: Message) -> None:
        """Hand over a message that passed."""


class Guard:
    """Watches one member's messages. Not thread-safe: the tick's thread only."""

    def __init__(
        self,
        voters: Collection[str],
        journal: RaftJournal,
        send: Callable[[str, Message], None],
        on_fatal: Callable[[str], NoReturn],
        *,
        clock: Callable[[], float],
        loyal_s: float,
    ) -> None:
        """voters: names of the other members. send: past the library, for notices.

        loyal_s: how long after a leader's message no vote is given to another.
        """
        self.learning = False
        self.counts: Counter[str] = Counter()  # what was refused or mended, by reason
        self._voters, self._journal, self._send = frozenset(voters), journal, send
        self._on_fatal, self._clock, self._loyal_s = on_fatal, clock, loyal_s
        self._heard_leader = -loyal_s + clock()
        self._matched: int | None = None  # what the answer to the message in hand must say
        self._begin_at: int | None = None  # where the leader should try to begin
        self._votes: tuple[int, set[str]] = (-1, set())
        self._called_in: int | None = None  # the term whose leader called for this candidate

    def outgoing(self, message: Message, term: int) -> Message:
        """The message as it leaves."""
        if message["type"] == "request_vote" and self._called_in == message["term"] - 1:
            return {**message, "called": True}
        if message["type"] != "next_node_idx":
            return message
        stamped = {**message, "term": term}
        if self._begin_at is not None and message["reset"]:
            stamped["next_node_idx"] = self._begin_at
        if self._matched is not None and message["success"]:
            stamped["next_node_idx"] = self._matched + 1
        return stamped

    def incoming(self, rules: Rules, sender: str, message: Message) -> None:
        """Hand a decoded message to the library, mended, or drop it."""
        if sender not in self._voters:
            self.counts["stranger"] += 1
            return
        handler = getattr(self, f"_on_{message['type']}", None)
        if handler is None:
            rules.deliver(sender, message)
        else:
            handler(rules, sender, message)

    def _on_term_notice(self, rules: Rules, sender: str, message: Message) -> None:
        if message["term"] > rules.term:
            self.counts["stepped_down"] += 1
            rules.deliver(sender, _hopeless_vote(message["term"]))

    def _on_request_vote(self, rules: Rules, sender: str, message: Message) -> None:
        called = message.get("called", False)
        message = {name: value for name, value in message.items() if name != "called"}
        if message["term"] < rules.term:
            self._send(sender, {"type": "term_notice", "term": rules.term})
        elif not called and self._is_loyal(rules):
            self.counts["loyal"] += 1
        elif not self.learning:
            rules.deliver(sender, message)
        elif message["term"] > rules.term:
            rules.deliver(sender, _hopeless_vote(message["term"]))

    def _is_loyal(self, rules: Rules) -> bool:
        return rules.leading or self._clock() - self._heard_leader < self._loyal_s

    def _on_response_vote(self, rules: Rules, sender: str, message: Message) -> None:
        if self._votes[0] != rules.term:
            self._votes = (rules.term, set())
        if sender in self._votes[1] or message["term"] != rules.term:
            self.counts["repeated_vote"] += 1
            return
        self._votes[1].add(sender)
        rules.deliver(sender, message)

    def _on_timeout_now(self, rules: Rules, sender: str, message: Message) -> None:
        if not self.learning:
            self._called_in = message["term"]
            rules.deliver(sender, message)

    def _on_next_node_idx(self, rules: Rules, sender: str, message: Message) -> None:
        possible = 2 <= message["next_node_idx"] <= self._journal.entries[-1].log_index + 1
        if message["term"] != rules.term or not possible:
            self.counts["stale_acknowledgement"] += 1
            return
        rules.deliver(sender, message)

    def _on_append_entries(self, rules: Rules, sender: str, message: Message) -> None:
        if message["term"] < rules.term:
            self.counts["stale_leader"] += 1
            self._send(sender, {"type": "term_notice", "term": rules.term})
            return
        self._heard_leader = self._clock()
        if "serialized" in message:
            mended = {**message, "commit_index": rules.committed}
        else:
            mended = self._without_what_we_hold(message, rules.committed)
        try:
            rules.deliver(sender, mended)
        finally:
            self._matched = self._begin_at = None

    def _without_what_we_hold(self, message: Message, committed: int) -> Message:
        """The message from its first entry on that we lack, or have another in place of."""
        entries, previous = message["entries"], message["prevLogIdx"]
        end = previous + len(entries)
        mended = {**message, "commit_index": min(message["commit_index"], max(end, committed))}
        held = self._held(previous, message["prevLogTerm"], entries)
        if held is None:
            if previous <= self._journal.entries[-1].log_index:
                self._refuse_contradiction(previous, committed)
                self._begin_at = committed + 1
            return mended  # the library asks for what comes before
        if held:
            self.counts["entries_held_already"] += held
            _, previous, term = entries[held - 1]
            entries = entries[held:]
            mended.update(prevLogIdx=previous, prevLogTerm=term, entries=entries)
        last = self._journal.entries[-1]
        if entries and entries[0][1] <= last.log_index:
            self._refuse_contradiction(entries[0][1], committed)
        if not entries and last.log_index > previous:
            self._matched = previous
            mended.update(prevLogIdx=last.log_index, prevLogTerm=last.term)
        return mended

    def _refuse_contradiction(self, index: int, committed: int) -> None:
        """Another entry than ours at an index: possible only behind what is committed."""
        if self._journal.entries[0].log_index <= index <= committed:
            self._on_fatal(
                f"another leader's entry {index} contradicts one that is committed here (up to "
                f"{committed}): the metadata log of this node or of another was changed from "
                "outside. Put this node's metadata folder aside and start it again."
            )

    def _held(
        self, previous: int, term: int, entries: tuple[tuple[bytes, int, int], ...]
    ) -> int | None:
        """How many of the entries we have, or None where we have not even the one before them."""
        ours = self._journal.entries
        first = ours[0].log_index
        if not first <= previous <= ours[-1].log_index or ours[previous - first].term != term:
            return None
        held = 0
        for _, index, of_term in entries:
            if index > ours[-1].log_index or ours[index - first].term != of_term:
                break
            held += 1
        return held


def _hopeless_vote(term: int) -> Message:
    """Makes the library enter a term, and never vote in answer to this."""
    return {"type": "request_vote", "term": term, "last_log_index": -1, "last_log_term": -1}

"""What a connection has seen of the database, so that its next read shows at least that.

Each answer carries a token of what its request saw and of the tokens that were sent with it.
Requests that overlap, of several threads or tasks or of one insert, get tokens that know nothing of
each other; all of them are kept, and sent together, until an answer covers them.

    sent        answered     kept
    -           A            A
    A           B            B         B covers A
    B and B     C and D      C, D      neither knows of the other
    C,D         E            E
"""

from __future__ import annotations

import threading


class SessionTokens:
    """The tokens that no answer has covered; safe to share between threads."""

    def __init__(self) -> None:
        self._tokens: tuple[str, ...] = ()
        self._lock = threading.Lock()

    @property
    def text(self) -> str | None:
        """What the next request sends; None at the start."""
        return ",".join(self._tokens) or None

    def answered(self, sent: str | None, token: str | None) -> None:
        """Take in the token of an answer to a request that sent `sent`."""
        if token is None:
            return
        covered = frozenset(sent.split(",")) if sent else frozenset[str]()
        with self._lock:
            others = [each for each in self._tokens if each not in covered and each != token]
            self._tokens = (*others, token)

    def forget(self) -> None:
        """Begin anew: what was seen is gone from the database."""
        with self._lock:
            self._tokens = ()

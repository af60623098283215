"""The texts of keys: made here, shown once, kept as SHA-256 digests.

A key is 32 random bytes, so that a plain digest can't be searched back; a slow hash would add
nothing but time to each request.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

KEY_PREFIX = "nq_"
SESSION_PREFIX = "nqs_"
_BOOTSTRAP = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}")


def new_key() -> str:
    """The text of a new key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_session() -> str:
    """The text of a new session token."""
    return SESSION_PREFIX + secrets.token_urlsafe(32)


def new_id() -> str:
    """A key's public name: 12 hexadecimal characters."""
    return secrets.token_hex(6)


def digest(text: str | bytes) -> str:
    """What is kept of a key."""
    return sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def is_strong(text: str) -> bool:
    """Whether an operator's own key is long enough and of characters that a header can carry."""
    return _BOOTSTRAP.fullmatch(text) is not None

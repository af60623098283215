"""From a request's headers to a principal, in microseconds.

`Authorization: Bearer <key or token>`, or the dashboard's cookie. A key costs one SHA-256 and a
look-up by digest, compared in constant time. A signed token is verified once and then remembered
by its digest, until it expires, the key set changes, or anything about users and keys does. Every
request asks the clock and the present metadata, so that what was revoked is dead at once.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.types import Scope

from nearql.cluster.metadata.access import BOOTSTRAP, Access, KeyRow
from nearql.engine.errors import Forbidden, Unauthenticated
from nearql.server.access.files import WatchedFile
from nearql.server.access.keys import digest, is_strong
from nearql.server.access.principal import Principal
from nearql.server.access.rights import ALL, Rights, Role, make_rights, rights_of
from nearql.server.access.store import AccessStore
from nearql.server.access.tokens import Claims, KeySet, parse_key_set, verify
from nearql.server.config import AuthSection, ConfigError

COOKIE = "nearql_session"
TOKENS_KEPT = 4096
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_ROOT = Principal(BOOTSTRAP, "bootstrap", ALL, key_id=BOOTSTRAP)


@dataclass(frozen=True, slots=True)
class _Proved:
    """A signed token that was verified. catalog: the version its table names were read in."""

    claims: Claims
    principal: Principal
    catalog: int


class Authenticator:
    """Knows principals by what they send. Used by the event loop alone."""

    def __init__(self, store: AccessStore, section: AuthSection) -> None:
        self._store = store
        self._section = section
        self._root = _watched(section.bootstrap_admin_key_file, parse_bootstrap_key)
        self._key_set = _watched(section.jwt_key_file, parse_key_set)
        self._seen: Access | None = None
        self._by_digest: dict[str, KeyRow] = {}
        self._principals: dict[str, Principal] = {}
        self._proved: OrderedDict[str, _Proved] = OrderedDict()
        self._key_set_version = 0

    def __call__(self, scope: Scope) -> Principal | None:
        """The principal of a request; None where it brings no credentials.

        Raises:
            Unauthenticated: it brings some that are not valid.
            Forbidden: a browser's session without the browser's word on which page asks.
        """
        authorization, cookie, origin = _headers(scope["headers"])
        if authorization is not None:
            scheme, _, text = authorization.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthenticated(
                    "The header Authorization must be `Bearer <key or token>`.",
                    code="invalid_token",
                )
            return self.principal(text.strip())
        session = _session_in(cookie) if cookie is not None else None
        if session is None:
            return None
        if scope["method"] not in _SAFE_METHODS and origin is None:
            raise Forbidden(
                "A session in a cookie changes nothing without the header Origin, which every "
                "browser sends. Programs send Authorization: Bearer.",
                code="cross_origin",
            )
        return self.principal(session)

    def principal(self, text: bytes) -> Principal:
        """Whose key or token this is.

        Raises:
            Unauthenticated: nobody's, or it has ended.
        """
        self._refresh()
        found = sha256(text).hexdigest()
        key = self._by_digest.get(found)
        if key is not None:
            return self._of_key(key, found)
        if self._root is not None and hmac.compare_digest(self._root.get(), found):
            return _ROOT
        if self._key_set is not None and text.count(b".") == 2:
            return self._of_token(text, found)
        raise Unauthenticated("The key is not known: it is wrong or was revoked.",
                              code="invalid_token")  # fmt: skip

    def session_of(self, scope: Scope) -> str:
        """The id of the session that a request was proved with."""
        authorization, cookie, _ = _headers(scope["headers"])
        text = _session_in(cookie or b"") or b""
        if authorization is not None:
            text = authorization.partition(b" ")[2].strip()
        return self._by_digest[sha256(text).hexdigest()].key_id

    def _refresh(self) -> None:
        """Forget what was concluded from users and keys that have changed."""
        state = self._store.state
        if state is self._seen:
            return
        self._by_digest = {key.digest: key for key in state.keys.values()}
        self._by_digest |= {
            key.old_digest: key for key in state.keys.values() if key.old_digest is not None
        }
        self._principals.clear()
        self._proved.clear()
        self._seen = state

    # ---- keys -----------------------------------------------------------------------------------

    def _of_key(self, key: KeyRow, found: str) -> Principal:
        now = self._store.now_ms()
        is_new = hmac.compare_digest(key.digest, found)
        if (key.expires_ms is not None and now >= key.expires_ms) or (
            not is_new and now >= key.old_until_ms
        ):
            raise Unauthenticated("The key has expired.", code="expired_token")
        known = self._principals.get(key.key_id)
        if known is None:
            known = self._principals[key.key_id] = self._made(key)
        return known

    def _made(self, key: KeyRow) -> Principal:
        if key.parent is None:
            return self._principal_of(key, "key", key.key_id)
        if key.parent.startswith(BOOTSTRAP):
            if self._root is None or key.parent != bootstrap_parent(self._root.get()):
                raise Unauthenticated("The session has ended.", code="invalid_token")
            return Principal(BOOTSTRAP, "session", ALL, key_id=BOOTSTRAP)
        opened_with = self._store.state.keys.get(key.parent)
        if opened_with is None:
            raise Unauthenticated("The session has ended.", code="invalid_token")
        return self._principal_of(opened_with, "session", opened_with.key_id)

    def _principal_of(self, key: KeyRow, kind: str, key_id: str) -> Principal:
        user = self._store.state.users[key.user]
        return Principal(
            user.name, kind, rights_of(user), key_id, rate=key.rate, concurrency=key.concurrency
        )

    # ---- signed tokens --------------------------------------------------------------------------

    def _of_token(self, text: bytes, found: str) -> Principal:
        assert self._key_set is not None
        key_set = self._key_set.get()
        if self._key_set.version != self._key_set_version:
            self._proved.clear()
            self._key_set_version = self._key_set.version
        proved = self._proved.get(found)
        if proved is None or proved.catalog != self._store.metadata.version:
            proved = self._verified(text, key_set)
            self._proved[found] = proved
            while len(self._proved) > TOKENS_KEPT:
                self._proved.popitem(last=False)
        self._check_alive(proved.claims)
        return proved.principal

    def _verified(self, text: bytes, key_set: KeySet) -> _Proved:
        try:
            claims = verify(text.decode("ascii"), key_set, self._section)
        except UnicodeDecodeError:
            raise Unauthenticated("The token is refused: it is malformed.",
                                  code="invalid_token") from None  # fmt: skip
        catalog = self._store.metadata.version
        rights = self._rights_of(claims)
        return _Proved(claims, Principal(claims.subject, "token", rights, claims.subject), catalog)

    def _rights_of(self, claims: Claims) -> Rights:
        user = self._store.user(claims.subject)
        if user is not None:
            return rights_of(user)
        if claims.role is None:
            raise Unauthenticated(
                "The token is refused: there is no user of its `sub`, and it has no `role`.",
                code="invalid_token",
            )
        if claims.tables is None:
            return make_rights(claims.role, None)
        wanted = {name.lower() for name in claims.tables}
        rows = self._store.metadata.tables.values()
        uuids = [row.table.uuid for row in rows if row.table.name.lower() in wanted]
        if claims.role is Role.ADMIN:
            raise Unauthenticated(
                "The token is refused: the role admin holds for everything, without `tables`.",
                code="invalid_token",
            )
        return make_rights(claims.role, uuids)

    def _check_alive(self, claims: Claims) -> None:
        now_s, state = self._store.now_ms() / 1000, self._store.state
        if now_s >= claims.expires_s + self._section.jwt_leeway_s:
            raise Unauthenticated("The token is refused: it has expired.", code="expired_token")
        since = state.revoked_subjects.get(claims.subject)
        if claims.token_id in state.revoked_tokens or (
            since is not None and claims.issued_s * 1000 <= since[0]
        ):
            raise Unauthenticated("The token is refused: it was revoked.", code="invalid_token")

    def check_present(self, state: Access) -> None:
        """Refuse to serve where nobody could ever get in.

        Raises:
            ConfigError: there is no credential of any kind.
        """
        if self._root is None and self._key_set is None and not state.keys:
            raise ConfigError(
                "auth.mode = required, and nobody has a key yet. Set auth.bootstrap_admin_key_file "
                "to a file with the first administrator's key (one is made where the file does not "
                "exist), or auth.jwt_key_file to a key set."
            )

    def root_parent(self) -> str:
        """The parent of sessions that are opened with the bootstrap key."""
        assert self._root is not None
        return bootstrap_parent(self._root.get())


def bootstrap_parent(root_digest: str) -> str:
    """Sessions of the bootstrap key end when another key is put into its file."""
    return f"{BOOTSTRAP}:{root_digest[:16]}"


def parse_bootstrap_key(content: bytes) -> str:
    """The digest of the key in a file.

    Raises:
        ConfigError: too short, or characters that no header can carry.
    """
    text = content.decode("utf-8", "replace").strip()
    if not is_strong(text):
        raise ConfigError(
            "auth.bootstrap_admin_key_file must hold one key of 32 to 512 characters (letters, "
            "digits and - . _ ~ + / =), made by chance: `openssl rand -hex 32` makes one."
        )
    return digest(text)


def _watched(path: str, parse: Any) -> WatchedFile[Any] | None:
    if not path:
        return None
    try:
        return WatchedFile(Path(path), parse)
    except OSError as error:
        raise ConfigError(f"The file {path} can't be read: {error.strerror}.") from error


def _headers(
    headers: Iterable[tuple[bytes, bytes]],
) -> tuple[bytes | None, bytes | None, bytes | None]:
    """(authorization, cookie, origin).

    Raises:
        Unauthenticated: one of them twice. What stands before this node may have looked at the
            other one.
    """
    pairs = [pair for pair in headers if pair[0] in (b"authorization", b"cookie", b"origin")]
    found: Mapping[bytes, bytes] = dict(pairs)
    if len(found) != len(pairs):
        raise Unauthenticated(
            "A request may have one header Authorization, one Cookie and one Origin.",
            code="invalid_token",
        )
    return found.get(b"authorization"), found.get(b"cookie"), found.get(b"origin")


def _session_in(cookie: bytes) -> bytes | None:
    for part in cookie.split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == COOKIE.encode():
            return value
    return None

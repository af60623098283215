"""Session tokens: what a client has read or written, so that a later read shows at least that.

A token is base64url of msgpack: a list of [table uuid, [[shard, epoch, lsn], ...]]. It grows with
the shards that a client touches, about ten bytes each, not with its requests. On a node alone every
write is visible to every later read, so a token only has to prove that nothing it saw was lost: a
position beyond the node's own means that the data directory went back in time (409
`rolled_back_session`).

A client whose requests overlap has several tokens, none of which knows of the others: it sends them
all, with commas between, and the answer's token stands for them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgpack

from nearql.engine.errors import Conflict, InvalidRequest, NearQLError
from nearql.engine.types import ShardPosition
from nearql.server.ports import NodePort

SESSION_HEADER = "NearQL-Session"
TOKEN_BYTES = 64 << 10
_KEPT = 256  # positions of a token that is remembered; a client may send thousands

Positions = dict[tuple[str, int], tuple[int, int]]  # (table uuid, shard) -> (epoch, lsn)


def session_token(node: NodePort, since: Positions, shards: Iterable[Mapping[str, Any]]) -> str:
    """The token after a statement that touched `shards`."""
    positions = dict(since)
    tables = node.catalog().tables
    for shard in shards:
        table = tables.get(str(shard["table"]).lower())
        if table is not None:
            key = (table.uuid, int(shard["shard"]))
            reached = (int(shard["epoch"]), int(shard["lsn"]))
            positions[key] = max(reached, positions.get(key, reached))
    return _written(positions)


def token_after(since: Positions, table_uuid: str, written: Iterable[ShardPosition]) -> str:
    """The token after rows were stored in a table."""
    ends = {(table_uuid, at.shard): (at.epoch, at.lsn) for at in written}
    return _written(_further(since, ends))


def _further(one: Positions, other: Positions) -> Positions:
    """The further position of each shard."""
    joined = dict(one)
    for key, reached in other.items():
        joined[key] = max(reached, joined.get(key, reached))
    return joined


def _written(positions: Positions) -> str:
    encode = _encode if len(positions) <= _KEPT else _encode.__wrapped__
    return encode(tuple(positions.items()))


@lru_cache(maxsize=256)  # readers ask again and again at the same positions
def _encode(positions: tuple[tuple[tuple[str, int], tuple[int, int]], ...]) -> str:
    tables: dict[str, list[tuple[int, int, int]]] = {}
    for (table, shard), (epoch, lsn) in positions:
        tables.setdefault(table, []).append((shard, epoch, lsn))
    rows = list(tables.items())
    return base64.urlsafe_b64encode(msgpack.packb(rows)).decode().rstrip("=")


def check_token(node: NodePort, token: str | None) -> Positions:
    """The positions of a client's token, of tables that still exist.

    Raises:
        InvalidRequest: it is not a token.
        Conflict: code `rolled_back_session`; it saw more than this node has.
    """
    known = positions_of(node, token)
    reached = _reached(node, {uuid for uuid, _ in known})
    for (uuid, shard), seen in known.items():
        if (at := reached.get((uuid, shard), seen)) < seen:
            raise Conflict(
                f"This session saw table {_names(node).get(uuid, uuid)!r} at LSN {seen[1]}, and "
                f"the node has it at {at[1]}: writes were rolled back. Start a new session.",
                code="rolled_back_session",
                sqlstate="40001",
            )
    return known


def positions_of(node: NodePort, token: str | None) -> Positions:
    """The positions of a client's token, of tables that still exist, reached here or not.

    Raises:
        InvalidRequest: it is not a token.
    """
    if not token:
        return {}
    tables = _names(node)
    return {key: seen for key, seen in _decode(token).items() if key[0] in tables}


def _names(node: NodePort) -> dict[str, str]:
    return {table.uuid: table.name for table in node.catalog().tables.values()}


def _reached(node: NodePort, tables: Iterable[str]) -> Positions:
    """What the node has of these tables."""
    found: Positions = {}
    for uuid in tables:
        try:
            shards = node.table(uuid).read_view().positions
        except NearQLError:  # damaged, or dropped a moment ago: told to those who read it
            continue
        found |= {(uuid, at.shard): (at.epoch, at.lsn) for at in shards}
    return found


def _decode(token: str) -> Positions:
    positions: Positions = {}
    try:
        if len(token) > TOKEN_BYTES:
            raise ValueError
        for part in token.split(","):
            found = _decode_one(part.strip())
            positions = _further(positions, found) if positions else found
    except (ValueError, TypeError, binascii.Error, msgpack.exceptions.UnpackException):
        raise InvalidRequest(
            f"The header {SESSION_HEADER} is not a token of this server; send back `stats.session` "
            "of an earlier answer, or leave it out.",
            code="invalid_session",
        ) from None
    return positions


def _decode_one(token: str) -> Positions:
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    rows = msgpack.unpackb(raw)
    if not isinstance(rows, list):
        raise ValueError
    return {
        (str(table), _number(shard)): (_number(epoch), _number(lsn))
        for table, shards in rows
        for shard, epoch, lsn in shards
    }


def _number(told: object) -> int:
    """What a token may hold: it is written into the answer's again, after the statement was run."""
    if type(told) is not int or not 0 <= told < 1 << 63:
        raise ValueError
    return told

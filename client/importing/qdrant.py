"""A collection of Qdrant, through its REST API: vectors, payload, distances.

    qdrant://host:6333/collection        http;  qdrants:// is https
    QDRANT_API_KEY                       its key, where it needs one

A point's id becomes the primary key (BIGINT, or UUID), its payload the column `payload` (JSON),
each of its vectors a column (`vec` for the unnamed one) with an HNSW index of the same distance. A
collection may not change while it is read: Qdrant has no snapshot over scrolls.

Routes: GET /collections/{name}, POST /collections/{name}/points/scroll and .../points/count.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from nearql.client.errors import ConnectionFailed, UsageError
from nearql.client.importing.source import (
    ROWS_AT_ONCE,
    ImportColumn,
    ImportIndex,
    ImportSource,
)

if TYPE_CHECKING:
    import pyarrow as pa

TIMEOUT_S = 60
ID, PAYLOAD, UNNAMED = "id", "payload", "vec"
_OPERATORS = {
    "Cosine": "vector_cosine_ops",
    "Euclid": "vector_l2_ops",
    "Dot": "vector_ip_ops",
    "Manhattan": "vector_l1_ops",
}


@dataclass(frozen=True)
class _Service:
    """Where a Qdrant is. base: http[s]://host:port."""

    base: str
    key: str | None

    def ask(self, route: str, body: Any = None) -> Any:
        """The `result` of an answer. Raises ConnectionFailed or UsageError."""
        headers = {"Content-Type": "application/json"} | ({"api-key": self.key} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + route, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            raise UsageError(f"Qdrant at {self.base}: {_told(error)}.") from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ConnectionFailed(f"No Qdrant answers at {self.base}: {reason}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"What answers at {self.base} is no Qdrant.") from error


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["status"]["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def open_qdrant(url: str, collection: str | None, without: Sequence[str] = ()) -> ImportSource:
    """The collection in the URL's path, or named.

    Raises:
        UsageError: no such collection, or one with vectors that have no type here.
        ConnectionFailed: Qdrant can't be reached.
    """
    parts = urlsplit(url)
    name = collection or parts.path.strip("/")
    if not name or not parts.hostname:
        raise UsageError("Name the collection: nearql import qdrant://host:6333 COLLECTION.")
    scheme = "https" if parts.scheme == "qdrants" else "http"
    service = _Service(
        f"{scheme}://{parts.hostname}:{parts.port or 6333}", os.environ.get("QDRANT_API_KEY")
    )
    route = f"/collections/{quote(name, safe='')}"
    config = service.ask(route)["config"]
    vectors = _vectors_of(name, config["params"], without)
    uuids = _has_uuids(service, route)
    columns = [ImportColumn(ID, "UUID" if uuids else "BIGINT")]
    columns += [ImportColumn(column, f"VECTOR({size})") for column, (_, size, _) in vectors.items()]
    columns += [] if PAYLOAD in without else [ImportColumn(PAYLOAD, "JSON")]
    wanted = {column: source for column, (source, _, _) in vectors.items()}
    return ImportSource(
        name=name,
        columns=columns,
        key=ID,
        indexes=[
            ImportIndex(f"{name}_{column}_idx", column, "hnsw", operators, _options(config))
            for column, (_, _, operators) in vectors.items()
        ],
        rows=service.ask(f"{route}/points/count", {"exact": True})["count"],
        tables=lambda: _tables(service, route, wanted, columns),
        close=lambda: None,
        notices=["Cosine distances: Qdrant stores these vectors normalised, and so they come."]
        if any(operators == "vector_cosine_ops" for _, _, operators in vectors.values())
        else [],
    )


def _vectors_of(
    name: str, params: dict[str, Any], without: Sequence[str]
) -> dict[str, tuple[str, int, str]]:
    """Column -> (name in Qdrant, dimensions, operator class)."""
    given = params.get("vectors") or {}
    named = {"": given} if "size" in given else given
    sparse = [each for each in params.get("sparse_vectors") or {} if each not in without]
    kept = {vector: each for vector, each in named.items() if (vector or UNNAMED) not in without}
    several = [
        vector for vector, each in kept.items() if each.get("multivector_config") is not None
    ]
    if sparse or several:
        each = (sparse or several)[0]
        raise UsageError(
            f"The vectors {each!r} of {name} are sparse or several to a point, which have no type "
            f"here; leave them out: --without {each}."
        )
    return {
        vector or UNNAMED: (vector, int(each["size"]), _OPERATORS[each["distance"]])
        for vector, each in kept.items()
    }


def _options(config: dict[str, Any]) -> dict[str, int]:
    given = config.get("hnsw_config") or {}
    pairs = {"m": given.get("m"), "ef_construction": given.get("ef_construct")}
    return {name: value for name, value in pairs.items() if value}


def _has_uuids(service: _Service, route: str) -> bool:
    """Whether ids are UUIDs: numbers come first, so the first point tells if there are any."""
    body = {"limit": 1, "with_payload": False, "with_vector": False}
    points = service.ask(f"{route}/points/scroll", body)["points"]
    return bool(points) and isinstance(points[0]["id"], str)


def _tables(
    service: _Service, route: str, wanted: dict[str, str], made: Sequence[ImportColumn]
) -> Iterator[pa.Table]:
    names = list(wanted.values())
    payload = made[-1].name == PAYLOAD
    kind = str if made[0].type == "UUID" else int
    body = {
        "limit": ROWS_AT_ONCE,
        "with_payload": payload,
        "with_vector": True if names == [""] else names,
    }
    offset = None
    while True:
        page = service.ask(f"{route}/points/scroll", {**body, "offset": offset})
        if page["points"]:
            _check_ids(page["points"], kind)
            yield _table(page["points"], wanted, payload)
        offset = page.get("next_page_offset")
        if offset is None:
            return


def _check_ids(points: list[dict[str, Any]], kind: type) -> None:
    if not all(isinstance(point["id"], kind) for point in points):
        raise UsageError(
            "The collection has ids of both kinds, numbers and UUIDs; a key here has one type."
        )


def _table(points: list[dict[str, Any]], wanted: dict[str, str], payload: bool) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {ID: pa.array([point["id"] for point in points])}
    for column, vector in wanted.items():
        found = [_vector(point.get("vector"), vector) for point in points]
        columns[column] = pa.array(found, pa.list_(pa.float32()))
    if payload:
        texts = [_json(point.get("payload")) for point in points]
        columns[PAYLOAD] = pa.array(texts, pa.string())
    return pa.table(columns)


def _vector(given: Any, name: str) -> list[float] | None:
    found: list[float] | None = (given or {}).get(name) if name else given
    return found or None


def _json(payload: Any) -> str | None:
    return None if payload is None else json.dumps(payload, ensure_ascii=False)

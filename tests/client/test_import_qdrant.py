"""`nearql import qdrant://` from a server that answers as Qdrant's REST API is documented."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import nearql
from nearql.client import errors
from nearql.client.cli import imports
from nearql.client.importing import qdrant
from nearql.client.importing.qdrant import open_qdrant
from support.scripted_server import Received, Reply, ScriptedServer, http

COUNT = 50


class Collection:
    """A collection, and the routes that show it."""

    def __init__(
        self, vectors: dict[str, Any], points: list[dict[str, Any]], **params: Any
    ) -> None:
        hnsw = {"m": 16, "ef_construct": 100}
        self.config = {"params": {"vectors": vectors, **params}, "hnsw_config": hnsw}
        self.points = points

    def answer(self, received: Received) -> Reply:
        """As Qdrant answers."""
        if received.target == "/collections/articles":
            return self._result({"config": self.config})
        if received.target == "/collections/articles/points/count":
            return self._result({"count": len(self.points)})
        if received.target == "/collections/articles/points/scroll":
            return self._result(self._scrolled(received.json))
        error = {"status": {"error": "Not found: Collection doesn't exist!"}}
        return http(404, orjson.dumps(error))

    def _scrolled(self, asked: dict[str, Any]) -> dict[str, Any]:
        ids = [point["id"] for point in self.points]
        first = 0 if asked.get("offset") is None else ids.index(asked["offset"])
        page = self.points[first : first + asked["limit"]]
        last = first + asked["limit"]
        return {"points": page, "next_page_offset": ids[last] if last < len(ids) else None}

    def _result(self, result: Any) -> Reply:
        return http(200, orjson.dumps({"result": result, "status": "ok", "time": 0.0}))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "ROWS_AT_ONCE", 7)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[nearql.Connection]:
    with nearql.connect(tmp_path / "data") as opened:
        yield opened


def address(server: ScriptedServer) -> str:
    return server.url.replace("http://", "qdrant://")


def copy(db: nearql.Connection, url: str, *, without: tuple[str, ...] = ()) -> int:
    """What the command does once it is connected."""
    source = open_qdrant(url, "articles", without)
    options = {"into": None, "upsert": False, "no_indexes": False, "json": True}
    return imports._copy(db, source, argparse.Namespace(**options))


def points(**vectors: Any) -> list[dict[str, Any]]:
    return [
        {"id": i, "payload": {"title": f"t{i}", "n": i}, "vector": [float(i), 1.0], **vectors}
        for i in range(COUNT)
    ]


def test_a_collection_arrives(db: nearql.Connection) -> None:
    collection = Collection({"size": 2, "distance": "Euclid"}, points())
    with ScriptedServer(collection.answer) as fake:
        assert copy(db, address(fake)) == 0
    rows = db.sql("SELECT id, payload->>'title', vec FROM articles WHERE id IN (0, 49) ORDER BY id")
    assert rows.fetchall() == [(0, "t0", [0.0, 1.0]), (49, "t49", [49.0, 1.0])]
    assert db.sql("SELECT count(*) FROM articles").fetchall() == [(COUNT,)]
    (index,) = db.table("articles")["indexes"]
    assert (index["column"], index["kind"], index["metric"]) == ("vec", "hnsw", "l2")


def test_named_vectors_uuids_and_missing_ones(db: nearql.Connection) -> None:
    ids = [str(uuid.UUID(int=i)) for i in range(10)]
    vectors = {"text": {"size": 2, "distance": "Cosine"}, "image": {"size": 3, "distance": "Dot"}}
    found = [{"id": i, "payload": None, "vector": {"text": [1.0, 0.0]}} for i in ids]
    with ScriptedServer(Collection(vectors, found).answer) as fake:
        assert copy(db, address(fake)) == 0
    assert db.sql("SELECT count(*), count(text), count(image), count(payload) FROM articles"
                  ).fetchall() == [(10, 10, 0, 0)]  # fmt: skip
    columns = {c["name"]: c["type"] for c in db.table("articles")["schema"]["columns"]}
    assert columns == {
        "id": "UUID", "text": "VECTOR(2)", "image": "VECTOR(3)", "payload": "JSON",
    }  # fmt: skip
    assert {i["metric"] for i in db.table("articles")["indexes"]} == {"cosine", "inner_product"}


def test_columns_can_be_left_out(db: nearql.Connection) -> None:
    collection = Collection({"size": 2, "distance": "Manhattan"}, points())
    with ScriptedServer(collection.answer) as fake:
        assert copy(db, address(fake), without=("payload",)) == 0
    assert [c["name"] for c in db.table("articles")["schema"]["columns"]] == ["id", "vec"]


@pytest.mark.parametrize(
    "params",
    [
        {"sparse_vectors": {"words": {}}},
        {"vectors": {"words": {"size": 2, "distance": "Dot", "multivector_config": {}}}},
    ],
)
def test_vectors_without_a_type_are_named(params: dict[str, Any]) -> None:
    plain = {"size": 2, "distance": "Dot"}
    vectors = {"plain": plain, **params.pop("vectors", {})}
    with ScriptedServer(Collection(vectors, [], **params).answer) as fake:
        with pytest.raises(errors.UsageError, match="'words'.*--without words"):
            open_qdrant(address(fake), "articles")
        source = open_qdrant(address(fake), "articles", ["words"])
        assert [column.name for column in source.columns] == ["id", "plain", "payload"]


def test_ids_of_both_kinds_are_refused() -> None:
    mixed = [*points()[:3], {"id": str(uuid.uuid4()), "payload": {}, "vector": [0.0, 0.0]}]
    with ScriptedServer(Collection({"size": 2, "distance": "Dot"}, mixed).answer) as fake:
        source = open_qdrant(f"{address(fake)}/articles", None)
        with pytest.raises(errors.UsageError, match="ids of both kinds"):
            list(source.tables())


def test_the_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")
    collection = Collection({"size": 2, "distance": "Dot"}, points())
    with ScriptedServer(collection.answer) as fake:
        open_qdrant(address(fake), "articles")
        assert {received.headers["api-key"] for received in fake.received} == {"s3cret"}


def test_what_goes_wrong_is_said() -> None:
    with ScriptedServer(Collection({}, []).answer) as fake:
        with pytest.raises(errors.UsageError, match="Qdrant at .*Not found: Collection doesn't"):
            open_qdrant(address(fake), "other")
        with pytest.raises(errors.UsageError, match="Name the collection"):
            open_qdrant(address(fake), None)
    with pytest.raises(errors.ConnectionFailed, match=r"No Qdrant answers at http://127.0.0.1:1:"):
        open_qdrant("qdrant://127.0.0.1:1", "articles")
    other = ScriptedServer(lambda _: http(200, b"<html>"))
    with other, pytest.raises(errors.UsageError, match="is no Qdrant"):
        open_qdrant(address(other), "articles")


def test_a_source_of_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert imports.main(["mysql://h/d", "t"]) == 2
    assert "'mysql' is no source; it must be postgres, postgresql" in capsys.readouterr().err

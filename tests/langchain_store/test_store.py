"""What LangChain's standard tests leave open: scores, filters, MMR, retrievers, wrong inputs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nearql
from nearql.client.errors import InvalidRequest, RowsFailed, UsageError

pytest.importorskip(
    "langchain_core", reason="LangChain is not installed; python3 dev.py langchain runs these"
)

TEXTS = {"east": [1.0, 0.0], "north": [0.0, 1.0], "north-east": [0.6, 0.8], "west": [-1.0, 0.0]}
METADATA = [{"n": 1, "kind": "main"}, {"n": 2, "kind": "main"}, {"n": 3, "kind": "mid"}, {}]


def directions() -> Any:
    """An embedding that knows four texts; others are of another length."""
    from langchain_core.embeddings import Embeddings

    class Directions(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return TEXTS.get(text, [0.0] * (2 if text == "dimensions" else 3))

    return Directions()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[nearql.Connection]:
    with nearql.connect(tmp_path / "data") as opened:
        yield opened


def filled(db: nearql.Connection, **options: Any) -> Any:
    from nearql.langchain import NearQLVectorStore

    store = NearQLVectorStore(directions(), db, "docs", **options)
    assert store.add_texts(list(TEXTS), METADATA, ids=list("enmw")) == list("enmw")
    return store


def ids(found: Any) -> str:
    return "".join(each.id for each in found)


def test_scores_are_distances(db: nearql.Connection) -> None:
    found = filled(db).similarity_search_with_score("east", k=4)
    assert ids(document for document, _ in found) == "emnw"
    assert [score for _, score in found] == pytest.approx([0, 0.4, 1, 2], abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "scores"),
    [("cosine", [1, 0.6]), ("l2", [1, 1 - math.sqrt(0.8) / math.sqrt(2)]),
     ("inner_product", [1, 0.6])],
)  # fmt: skip
def test_relevance_is_larger_where_it_is_nearer(
    db: nearql.Connection, metric: str, scores: list[float]
) -> None:
    store = filled(db, metric=metric)
    found = store.similarity_search_with_relevance_scores("east", k=2)
    assert ids(document for document, _ in found) == "em"
    assert [score for _, score in found] == pytest.approx(scores, abs=1e-6)


def test_filters_come_before_the_search(db: nearql.Connection) -> None:
    store = filled(db)
    assert ids(store.similarity_search("east", k=1, filter={"n": {"$gt": 1}})) == "m"
    assert ids(store.similarity_search_by_vector([1, 0], k=9, filter={"kind": "main"})) == "en"
    assert ids(store.max_marginal_relevance_search("east", k=9, filter={"kind": None})) == "w"


def test_mmr_prefers_what_is_unlike(db: nearql.Connection) -> None:
    store = filled(db)
    assert ids(store.max_marginal_relevance_search("east", k=2, lambda_mult=1.0)) == "em"
    assert ids(store.max_marginal_relevance_search("east", k=2, lambda_mult=0.0)) == "ew"
    assert ids(store.max_marginal_relevance_search_by_vector([0.0, 1.0], k=1)) == "n"


def test_retrievers(db: nearql.Connection) -> None:
    store = filled(db)
    retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"kind": "mid"}})
    assert ids(retriever.invoke("east")) == "m"
    kind = "similarity_score_threshold"
    kept = store.as_retriever(search_type=kind, search_kwargs={"score_threshold": 0.5, "k": 2})
    assert ids(asyncio.run(kept.ainvoke("east"))) == "em"


def test_sql_sees_the_same_rows(db: nearql.Connection) -> None:
    filled(db)
    text = "SELECT content, metadata->>'kind' FROM docs WHERE id = 'm'"
    assert db.sql(text).fetchall() == [("north-east", "mid")]


def test_an_index_serves_the_searches(db: nearql.Connection) -> None:
    store = filled(db)
    store.create_index("hnsw", m=8)
    (index,) = db.table("docs")["indexes"]
    assert (index["column"], index["kind"], index["metric"]) == ("embedding", "hnsw", "cosine")


def test_deleting_all(db: nearql.Connection) -> None:
    store = filled(db)
    assert store.delete([]) is True
    assert len(store.get_by_ids(["w", "e", "x", "e"])) == 2
    assert ids(store.get_by_ids(["w", "e"])) == "we"
    assert store.delete() is True
    assert store.get_by_ids(["w"]) == []


def test_from_texts_opens_its_own_connection(tmp_path: Path) -> None:
    from nearql.langchain import NearQLVectorStore

    folder = str(tmp_path / "data")
    with NearQLVectorStore.from_texts(["east"], directions(), connection=folder) as store:
        assert [found.page_content for found in store.similarity_search("north")] == ["east"]
    with nearql.connect(folder) as db:  # it was let go of
        assert db.sql("SELECT count(*) FROM langchain").fetchone() == (1,)


def test_wrong_calls_are_told(db: nearql.Connection) -> None:
    from nearql.langchain import NearQLVectorStore

    store = filled(db)
    with pytest.raises(UsageError, match="2 texts and 1 ids"):
        store.add_texts(["east", "west"], ids=["1"])
    with pytest.raises(UsageError, match="1 texts and 2 metadatas"):
        store.add_texts(["east"], [{}, {}])
    with pytest.raises(UsageError, match="metadata of document 1 is no JSON.*dates"):
        store.add_texts(["east", "west"], [{}, {"at": object()}])
    with pytest.raises(UsageError, match="metadata of document 0 is no JSON"):
        store.add_texts(["east"], [{"n": math.nan}])
    with pytest.raises(RowsFailed, match="row 1: .*expected 2 dimensions, got 3"):
        store.add_texts(["east", "of another length"])
    with pytest.raises(UsageError, match="metric is 'hamming'; it must be cosine"):
        NearQLVectorStore(directions(), db, metric="hamming")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"holds VECTOR\(2\), not vectors of 7 dimensions"):
        NearQLVectorStore(directions(), db, "docs", dimensions=7)
    db.sql("CREATE TABLE other (id BIGINT PRIMARY KEY, content TEXT)")
    with pytest.raises(UsageError, match="lacks id TEXT, metadata JSON, embedding VECTOR"):
        NearQLVectorStore(directions(), db, "other")
    with pytest.raises(InvalidRequest, match="LIMIT"):
        store.similarity_search("east", k=-1)


def test_a_search_for_a_vector_of_another_length_is_told(db: nearql.Connection) -> None:
    with pytest.raises(nearql.client.errors.InvalidValue, match="2.*3"):
        filled(db).similarity_search("of another length")

"""A LangChain `VectorStore` whose documents are rows of a table.

    store = NearQLVectorStore(embedding, "http://localhost:8470", "docs")
    store.add_documents([Document("a chess game", metadata={"section": "games"})])
    store.similarity_search("board games", k=3, filter={"section": "games"})

The table is an ordinary one: `id TEXT PRIMARY KEY, content TEXT, metadata JSON, embedding
VECTOR(n)`. SQL may read it, join it and index it. The asyncio methods run these in threads, as
LangChain's own do.
"""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from nearql.client.errors import NotFound, UsageError
from nearql.client.langchain.filters import where_of
from nearql.client.schema import quoted
from nearql.client.sync import Connection

ID, CONTENT, METADATA, EMBEDDING = "id", "content", "metadata", "embedding"
Filter = Mapping[str, Any] | None
Metric = Literal["cosine", "l2", "inner_product"]
OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
CLASSES = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops", "inner_product": "vector_ip_ops"}


class NearQLVectorStore(VectorStore):
    """Documents with their embeddings in a table, which is made where there is none.

    Args:
        embedding: makes vectors of texts.
        connection: what `nearql.connect` gives or takes: a connection (which stays yours to
            close), a node's URL, or a directory.
        table: its name.
        metric: cosine, l2 or inner_product; `similarity_search_with_score` gives this distance.
        dimensions: of a vector; None asks the embedding with a short text, if the table is new.
        options: for `nearql.connect`, such as token=...

    Raises:
        UsageError: the table is there with other columns or dimensions.
        As `nearql.connect` and `Connection.sql`.
    """

    def __init__(
        self,
        embedding: Embeddings,
        connection: Connection | str,
        table: str = "langchain",
        *,
        metric: Metric = "cosine",
        dimensions: int | None = None,
        **options: Any,
    ) -> None:
        if metric not in OPERATORS:
            raise UsageError(f"metric is {metric!r}; it must be {', '.join(OPERATORS)}.")
        self._embedding = embedding
        self._metric = metric
        self.table = table
        self._owned = not isinstance(connection, Connection)
        # Through the package's root, which alone may choose between client and server.
        opened: Any = importlib.import_module("nearql").connect
        self.connection: Connection = (
            opened(connection, **options) if self._owned else connection  # type: ignore[assignment]
        )
        try:
            self._prepare(dimensions)
        except BaseException:
            self.close()
            raise

    @property
    def embeddings(self) -> Embeddings:
        """What makes vectors of texts."""
        return self._embedding

    def close(self) -> None:
        """Close the connection, if it was opened here."""
        if self._owned:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- The table -------------------------------------------------------------------------

    def _prepare(self, dimensions: int | None) -> None:
        try:
            found = self.connection.table(self.table)
        except NotFound:
            size = dimensions or len(self._embedding.embed_query("dimensions"))
            self.connection.sql(
                f"CREATE TABLE IF NOT EXISTS {quoted(self.table)} ({ID} TEXT PRIMARY KEY, "
                f"{CONTENT} TEXT NOT NULL, {METADATA} JSON, {EMBEDDING} VECTOR({size}))"
            )
            found = self.connection.table(self.table)
        self._check(found, dimensions)

    def _check(self, found: Mapping[str, Any], dimensions: int | None) -> None:
        columns = {each["name"]: each for each in found["schema"]["columns"]}
        wanted = {ID: "TEXT", CONTENT: "TEXT", METADATA: "JSON", EMBEDDING: "VECTOR("}
        wrong = [
            f"{name} {kind.rstrip('(')}"
            for name, kind in wanted.items()
            if name not in columns or not columns[name]["type"].startswith(kind)
        ]
        if wrong or not columns[ID]["primary_key"]:
            raise UsageError(
                f"Table {self.table!r} is no store of documents: it lacks "
                f"{', '.join(wrong) or 'the primary key id'}. Give another name: table=..."
            )
        kind = columns[EMBEDDING]["type"]
        if dimensions is not None and kind != f"VECTOR({dimensions})":
            raise UsageError(
                f"Table {self.table!r} holds {kind}, not vectors of {dimensions} dimensions. Use "
                "the embedding that it was filled with, or another table=..."
            )

    def create_index(self, kind: str = "hnsw", **options: int) -> None:
        """An index for many documents, built behind: `create_index("hnsw", m=32)`.

        Raises:
            As `Connection.sql`: an unknown kind or option, an index that is there.
        """
        pairs = ", ".join(f"{quoted(name)} = {int(value)}" for name, value in options.items())
        self.connection.sql(
            f"CREATE INDEX ON {quoted(self.table)} USING {quoted(kind)} "
            f"({EMBEDDING} {CLASSES[self._metric]})" + (f" WITH ({pairs})" if pairs else "")
        )

    # ---- Writing ---------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts; one whose id is there is replaced. Ids that are not given are UUIDs.

        Raises:
            UsageError: lists of different lengths, or metadata that is no JSON.
            RowsFailed: texts that can't be stored, such as those with a vector of another length.
        """
        contents = list(texts)
        _check_length("metadatas", metadatas, contents)
        _check_length("ids", ids, contents)
        named = [str(each) if each else str(uuid.uuid4()) for each in ids or [None] * len(contents)]
        if contents:
            rows = {
                ID: named,
                CONTENT: contents,
                METADATA: _metadata_texts(metadatas or [{}] * len(contents)),
                EMBEDDING: _matrix(self._embedding.embed_documents(contents)),
            }
            self.connection.insert(self.table, rows, "upsert")
        return named

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by their ids, all without ids. An id that is not there is no error."""
        if ids is None:
            self.connection.sql(f"DELETE FROM {quoted(self.table)}")
        elif ids:
            self.connection.sql(f"DELETE FROM {quoted(self.table)} WHERE {ID} = ANY($1)", list(ids))
        return True

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts in it; `kwargs` are the constructor's: connection, table, ..."""
        store = cls(embedding, **kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    # ---- Reading ---------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids, in their order, without those that are not there."""
        if not ids:
            return []
        text = f"SELECT {ID}, {CONTENT}, {METADATA} FROM {quoted(self.table)} WHERE {ID} = ANY($1)"
        found = {row[0]: _document(*row) for row in self.connection.sql(text, list(ids))}
        return [found[each] for each in dict.fromkeys(ids) if each in found]

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a text; `filter` as `nearql.client.langchain.filters` says."""
        return [found for found, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, with distances: smaller is nearer."""
        vector = self._embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector."""
        return [
            found for found, _ in self.similarity_search_with_score_by_vector(embedding, k, filter)
        ]

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: Filter = None
    ) -> list[tuple[Document, float]]:
        """As `similarity_search_by_vector`, with distances: smaller is nearer."""
        return [
            (_document(*row), float(distance))
            for *row, distance in self._nearest(embedding, k, filter)
        ]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """k of the `fetch_k` nearest documents, chosen to be near and unlike each other."""
        return self.max_marginal_relevance_search_by_vector(
            self._embedding.embed_query(query), k, fetch_k, lambda_mult, filter=filter
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, near to a vector.

        Algorithm: Carbonell and Goldstein, "The Use of MMR", SIGIR 1998, by LangChain's function.
        """
        found = self._nearest(embedding, max(k, fetch_k), filter, EMBEDDING)
        vectors = [row[3] for row in found]
        query = np.asarray(embedding, np.float32)
        chosen = maximal_marginal_relevance(query, vectors, lambda_mult=lambda_mult, k=k)
        return [_document(*found[at][:3]) for at in chosen]

    def _nearest(
        self, embedding: Sequence[float], k: int, filter: Filter, *more: str
    ) -> list[tuple[Any, ...]]:
        """Rows (id, content, metadata, *more, distance), the nearest first."""
        where, parameters = where_of(filter, METADATA)
        text = (
            f"SELECT {', '.join([ID, CONTENT, METADATA, *more])}, "
            f"{EMBEDDING} {OPERATORS[self._metric]} :query AS distance "
            f"FROM {quoted(self.table)} WHERE {where} ORDER BY distance LIMIT {int(k)}"
        )
        vector = np.asarray(embedding, np.float32)
        return self.connection.execute(text, {**parameters, "query": vector}).fetchall()

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Larger is better; between 0 and 1 for vectors of unit length that look the same way."""
        return {
            "cosine": self._cosine_relevance_score_fn,
            "l2": self._euclidean_relevance_score_fn,
            "inner_product": _inner_product_of,
        }[self._metric]


def _inner_product_of(distance: float) -> float:
    return -distance  # `<#>` is the negative inner product


def _document(name: str, content: str, metadata: str | None) -> Document:
    return Document(id=name, page_content=content, metadata=json.loads(metadata or "{}"))


def _check_length(name: str, given: Sequence[Any] | None, contents: Sequence[str]) -> None:
    if given is not None and len(given) != len(contents):
        raise UsageError(f"There are {len(contents)} texts and {len(given)} {name}.")


def _metadata_texts(metadatas: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = []
    for at, metadata in enumerate(metadatas):
        try:
            texts.append(json.dumps(metadata, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"The metadata of document {at} is no JSON: {error}. Give dates and the like as "
                "text."
            ) from error
    return texts


def _matrix(vectors: list[list[float]]) -> Any:
    """float32 (n, d); a list where lengths differ, so that the table names the wrong rows."""
    if len({len(vector) for vector in vectors}) > 1:
        return [list(map(float, vector)) for vector in vectors]
    return np.asarray(vectors, np.float32)

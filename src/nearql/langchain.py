"""A LangChain `VectorStore` on NearQL; its home is `nearql.client.langchain.store`."""

try:
    from nearql.client.langchain.store import NearQLVectorStore
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("langchain"):
        raise
    raise ModuleNotFoundError(
        "nearql.langchain needs LangChain: pip install 'nearql[langchain]'.", name=error.name
    ) from error

__all__ = ["NearQLVectorStore"]

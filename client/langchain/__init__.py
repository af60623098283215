"""LangChain's `VectorStore` on a table of NearQL; `nearql.langchain` is its public name."""

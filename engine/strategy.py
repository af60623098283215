"""How a search is carried out: pure rules over sizes, with the measurements that they rest on."""

from __future__ import annotations

GATHER_SHARE = 0.05  # below this share of qualifying rows, only they are read
SPLIT_ELEMENTS = 1 << 20  # vector elements below which a second thread costs more than it brings
BATCH_ENTRIES = 1 << 20  # candidates of a batch of queries that are held at once
BATCH_QUERIES = 256


def gathers(qualifying: int, rows: int) -> bool:
    """Whether to visit the qualifying rows one by one rather than to scan past the others."""
    return qualifying < rows * GATHER_SHARE


def overfetch(k: int) -> int:
    """Candidates to ask of a backend, so that its rounding rarely hides one of the k nearest."""
    return k + max(16, k // 8)


def batch_queries(fetched: int) -> int:
    """Queries to answer together, when each brings `fetched` candidates per block."""
    return max(1, min(BATCH_QUERIES, BATCH_ENTRIES // max(1, fetched)))


def pieces(rows: int, dimensions: int, threads: int) -> int:
    """Into how many ranges of rows to cut a block for `threads` threads."""
    return max(1, min(threads, rows * dimensions // SPLIT_ELEMENTS))

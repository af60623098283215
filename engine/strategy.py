"""How a search is carried out: pure rules over sizes, with the measurements that they rest on.

Reading the qualifying rows only, one by one, against scanning all rows: measured on 96 MB of
float32 in rows of 64 to 6,144 bytes, one Zen4 core, a visited row costs about 22 ns and 0.028 ns a
byte, a scanned one 0.029 ns a byte, so that a visit is as dear as scanning 800 bytes more. Where a
visited row is copied first (matrix products, float16) it is read and written once more.
"""

from __future__ import annotations

VISIT_BYTES = 800
COPY_FACTOR = 2.5
CODE_COST = 2.2  # bytes of vectors read in the time of an 8-bit code, where a filter is checked
PIECE_ELEMENTS = 1 << 21  # vector elements that a thread takes at once: 0.3 ms of reading
BATCH_ENTRIES = 1 << 20  # candidates of a batch of queries that are held at once
BATCH_QUERIES = 256  # of different clients, that wait for each other
LARGEST_BATCH = 1 << 14  # of one request: half a second of two cores, on 62,816 x 384
# Searches that came together from which on one call is cheaper: on 62,816 x 384, one by one takes
# 1.8 ms of CPU each, in batches of 8 it is 2.3, of 16 it is 1.2, of 32 it is 0.9.
SHARED_QUERIES = 16


def visits(
    qualifying: int, rows: int, row_bytes: int, *, scanned: float | None = None, copies: bool
) -> bool:
    """Whether to visit the qualifying rows one by one rather than to scan past the others.

    scanned: bytes that scanning a row costs; None = `row_bytes`.
    """
    visit = VISIT_BYTES + row_bytes * (COPY_FACTOR if copies else 1)
    return qualifying * visit < rows * (row_bytes if scanned is None else scanned)


def overfetch(k: int) -> int:
    """Scores to keep in a batch, so that rounding and near-duplicates rarely hide a nearest row."""
    return k + max(54, k // 4)


def batch_queries(fetched: int) -> int:
    """Queries to answer together, when each brings `fetched` candidates in all."""
    return max(1, min(LARGEST_BATCH, BATCH_ENTRIES // max(1, fetched)))


def shares(waiting: int) -> bool:
    """Whether so many searches that came together cost less as one call."""
    return waiting >= SHARED_QUERIES


def pieces(rows: int, dimensions: int) -> int:
    """Into how many ranges of rows to cut a block for a team of threads."""
    return max(1, rows * dimensions // PIECE_ELEMENTS)

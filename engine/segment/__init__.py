"""Segments: rows of a contiguous range of positions, with their columns, vectors and tombstones.

rows.py      rows on their way into a segment, by column number
data.py      the immutable picture of a segment's rows that read views hold
growing.py   the segment that takes writes
sealed.py    a closed segment as one checksummed file, opened zero-copy
view.py      data + tombstones at one instant: what a read view lists
cache.py     filtered columns, within a memory bound
"""
